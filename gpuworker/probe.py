"""`python -m gpuworker.probe`: what this host's device backend reads right now, as JSON. For `up --demo` and `doctor`.

`--groups PID` prints the folder where that process (an agent; `self`: one started from here) may make control groups.
"""

from __future__ import annotations

import json
import sys

from gpuworker import groups
from gpuworker import settings as environment
from gpuworker.devices import make_backend


def main() -> None:
    if sys.argv[1:2] == ["--groups"]:
        print(groups.parent_for(sys.argv[2]))
        return
    try:
        backend = make_backend(environment.load())
    except environment.BadSetting as exc:
        sys.exit(str(exc))
    reading = backend.read()
    devices = [{"uuid": d.uuid, "name": d.name, "memory_total_mib": d.memory_total_mib} for d in reading.devices]
    print(json.dumps({"source": backend.source, "devices": devices, "error": reading.error}))


if __name__ == "__main__":
    main()
