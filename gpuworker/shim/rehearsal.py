"""What every shim does, done in the zygote before it forks the first one.

Python caches and specialises what it executes, in place. Done here, that is in pages that all shims share; a shim that has it
to do copies each page that it touches: 150 kB for each running job.
"""

from __future__ import annotations

import os
import sys
import time

from gpuworker.shim import locks, processes, records
from gpuworker.shim.door import NAME, Door
from gpuworker.shim.shim import Shim

_TMP = "/tmp"  # noqa: S108 - a folder of its own in it, that must not be there
_TIMES = 16
"""Python 3.11 specialises a function after eight calls."""


def rehearse() -> None:
    """In a folder of its own, which goes again. Where none can be made shims take more memory, and nothing else."""
    path = os.path.join(os.environ.get("TMPDIR") or _TMP, f"autotrainer-{os.getpid()}-{time.monotonic_ns()}")
    try:
        os.mkdir(path, 0o700)
        try:
            for _ in range(_TIMES):
                _act(path)
        finally:
            for name in os.listdir(path):
                os.unlink(os.path.join(path, name))
            os.rmdir(path)
    except OSError as exc:
        print(f"nothing was rehearsed: {exc}", file=sys.stderr, flush=True)


def _act(path: str) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    door = Door(folder)
    try:
        record = {"boot_id": processes.boot_id(), "pid": os.getpid(), "start_ticks": processes.start_ticks(os.getpid())}
        records.write_record(folder, "launch.json", {**record, "kill_grace_s": 1.5, "env": {"A": "b"}}, durable=False)
        records.read_record(folder, "launch.json")
        locks.drop(locks.take_all([os.path.join(path, "device.lock")]))
        door.push("started", record)
        Shim(folder, door).rehearse()
        os.unlink(NAME, dir_fd=folder)
    finally:
        door.close()
        os.close(folder)
