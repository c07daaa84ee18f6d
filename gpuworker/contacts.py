"""When this host last reached the control plane's Redis: noted by the agent, read by the shims of jobs that may start elsewhere.

Noted after each heartbeat that Redis took, with the moment *before* it was sent: Redis cannot have got it sooner. By the clock
that counts since boot and goes on while the machine sleeps: nobody sets it. The shim's half is gpuworker/shim/contact.py.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from gpuworker.protocol import Spec
from gpuworker.settings import Settings
from gpuworker.shim import contact, processes


def path_of(settings: Settings) -> Path:
    return settings.host_home / "contact"


def now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def note(path: Path, at_s: float) -> None:
    """Remember a contact. Small, in one write and never synced: after a power cut nothing runs that needs it. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(fd, f"{processes.boot_id()} {at_s:020.3f}\n".encode(), 0)
    finally:
        os.close(fd)


def order(spec: Spec, settings: Settings) -> dict[str, Any] | None:
    """What the shim of a training that may start elsewhere must know; None for another. Without any contact yet, it is over at once."""
    if spec.gone_after_s is None:
        return None
    path = str(path_of(settings))
    return {"file": path, "at_s": max(0.0, contact.read(path)), "gone_after_s": spec.gone_after_s}
