"""How long a training may still live without contact (gpuworker/contacts.py says which). Standard library only."""

from __future__ import annotations

import math
import time
from typing import Any

from gpuworker.shim import processes


def read(path: str) -> float:
    """The last contact, by the clock since boot; minus infinity where there was none since then, or it cannot be read."""
    try:
        with open(path) as file:
            boot, _, at = file.read(200).partition(" ")
        return float(at) if boot == processes.boot_id() else -math.inf
    except (OSError, ValueError):
        return -math.inf


def left_s(order: dict[str, Any]) -> float:
    """Seconds until nothing of it may be left. `order`: what launch.json says of it, and where the last contact is kept."""
    order["at_s"] = max(order["at_s"], read(order["file"]))
    return float(order["at_s"] + order["gone_after_s"] - time.clock_gettime(time.CLOCK_BOOTTIME))
