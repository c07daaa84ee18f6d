"""The host agent's worker as it was one version of the protocol ago: it speaks that version, and opens nothing newer."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from gpuworker import envelope

envelope.PROTOCOL_VERSION -= 1
envelope.OLDEST_READABLE_VERSION = envelope.PROTOCOL_VERSION

from gpuworker.celery import app  # noqa: E402 - it must find the older version

if __name__ == "__main__":
    app.start(argv=sys.argv[1:])
