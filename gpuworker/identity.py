"""Whether what a record names still runs, or still holds: a process by (boot id, pid, start time), a device by its lock."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from gpuworker.shim import cgroup, locks, processes
from gpuworker.shim.cgroup import Group


def age_s(ticks: int) -> float:
    """How long ago a process of this boot was started, in seconds; `ticks`: its start in clock ticks since boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def alive(pid: int, ticks: int, boot: str) -> bool:
    """Whether this very process runs: not a later one with its pid, not one of before a reboot, not a zombie."""
    return processes.start_ticks(pid) == ticks and boot == processes.boot_id()


def is_taken(path: str) -> bool:
    """Probe a device's lock by trying. Only for devices that nobody of ours claims: whoever meets the probe has to try again."""
    try:
        locks.drop([locks.take(path)])
    except locks.Taken:
        return True
    return False


def group_of(record: Mapping[str, Any] | None, parent: str, mark: str) -> Group | None:
    """The group of an attempt whose shim is dead: by its record (of this boot), else by its name."""
    path = record["path"] if record else os.path.join(parent, cgroup.PREFIX + mark) if parent else ""
    try:
        group = Group(path)
    except OSError:
        return None
    return group if not record or group.inode == record["inode"] else None
