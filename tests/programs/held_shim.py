"""A shim that stops before one of its steps until GATE exists: `held_shim.py STEP ATTEMPT_DIRECTORY GATE`. Says so in GATE.held."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from gpuworker.shim import cgroup, locks, records, shim
from gpuworker.shim.command import Command

STEP, FOLDER, GATE = sys.argv[1:4]

STEPS: dict[str, tuple[Any, str, int]] = {
    "locks": (locks, "take_all", 1),
    "group": (cgroup, "make", 1),
    "fork": (Command, "__init__", 1),
    "started": (records, "make_durable", 1),
    "durable": (records, "make_durable", 2),
    "go": (Command, "go", 1),
}
"""What is held up, and at which of its calls."""


def hold(owner: Any, name: str, call: int) -> None:
    real, calls = getattr(owner, name), 0

    def held(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            open(GATE + ".held", "w").close()
            while not os.path.exists(GATE):
                time.sleep(0.01)
        return real(*args, **options)

    setattr(owner, name, held)


hold(*STEPS[STEP])
shim.keep(FOLDER, os.open(os.devnull, os.O_WRONLY))
