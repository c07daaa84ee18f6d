"""`python -m gpuworker.hotswap.probe`: how this host swaps files, as JSON. For `doctor`."""

from __future__ import annotations

import dataclasses
import json

from gpuworker import settings as environment
from gpuworker.hotswap import ways

if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(ways.choose(environment.load_or_exit().host_home))))
