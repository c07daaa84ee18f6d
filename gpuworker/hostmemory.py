"""Tells a training that the kernel ended for lack of host memory from one that somebody killed."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

_MEND = "Fewer data loader workers or smaller caches need less of it."


def verdict(exit_record: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the kernel certainly ended a process of the attempt for lack of memory; and a sentence, where there is one to say."""
    kills = exit_record.get("memory_kills") or {}
    own, machine = kills.get("own"), kills.get("machine")
    if own:
        who = "one of its processes" if own == 1 else f"{own} of its processes"
        return True, f"The kernel ended {who} because the host's memory ran out. {_MEND}"
    if exit_record.get("reason") != "exited":
        return False, ""  # Ended by us.
    killed, by_shell = exit_record.get("signal") == signal.SIGKILL, exit_record.get("exit_code") == 128 + signal.SIGKILL
    if own is None and machine and (killed or by_shell):
        return False, f"Not AutoTrainer killed it, but very probably the kernel: the host's memory ran out meanwhile. {_MEND}"
    if not killed:
        return False, ""
    others = "often that is the kernel, for lack of host memory" if own is None else "nor the kernel for lack of memory"
    return False, f"Not AutoTrainer killed it: {others}."
