"""Whether somebody outside the queue uses a device.

The rule (docs/how-it-works.md, "What uses a device"): a compute process that is not ours and holds at least 1 GiB, or an
unknown amount, or has computed within the last 30 minutes; an operator may have set other numbers for this host, and may
have said of a process that it does not count (`Rule`). Smaller idle ones and graphics processes (a desktop) count as
memory only. Where the driver hides processes (another pid namespace, memory left behind), memory that nobody visible
holds counts as theirs. Unknown is never free.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gpuworker.protocol import IN_USE_IDLE_MIN, IN_USE_MEMORY_MIB, DeviceReading, ProcessReading

ProcessUtilization = Mapping[tuple[str, int], float]


@dataclass(frozen=True, slots=True)
class Rule:
    """From when on a process counts as using a device, and which never do."""

    memory_mib: int = IN_USE_MEMORY_MIB
    remembered_s: float = IN_USE_IDLE_MIN * 60.0
    ignored: frozenset[tuple[int, int]] = frozenset()
    """(pid, start time in ticks) of this boot's processes that an operator told us to ignore."""

    def ignores(self, process: ProcessReading) -> bool:
        return process.start_ticks is not None and (process.pid, process.start_ticks) in self.ignored


class Usage:
    """Remembers when each process outside the queue last computed. For one thread at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._computed_at: dict[tuple[str, int], float] = {}
        self._ours_before: set[str] = set()
        self.rule = Rule()

    def observe(self, device: DeviceReading, shares: ProcessUtilization, *, held: bool) -> None:
        """Take note of a regular reading. `held`: a living attempt of ours has this device."""
        outside = {process.pid for process in compute_outside(device)}
        for key in [key for key in self._computed_at if key[0] == device.uuid and key[1] not in outside]:
            del self._computed_at[key]  # It has ended, and its pid may come again as somebody else's.
        ours = held or any(process.ours for process in device.processes)
        blurred = ours or device.uuid in self._ours_before
        (self._ours_before.add if ours else self._ours_before.discard)(device.uuid)
        for pid in outside:
            own_share = shares.get((device.uuid, pid))
            # The whole device's utilisation says nothing lasting about one process while ours is, or just was, beside it.
            if own_share or (own_share is None and not blurred and device.utilization_pct):
                self._computed_at[device.uuid, pid] = self._clock()

    def why_in_use(self, device: DeviceReading, shares: ProcessUtilization, *, held: bool) -> str:
        """A sentence; empty where nobody outside the queue uses the device."""
        for process in compute_outside(device):
            if process.ignored:
                continue
            how = self._how(device, process, shares)
            if how:
                return f"{process_phrase(process)} uses it outside the queue: {how}."
        hidden = 0 if held else _hidden_mib(device)
        if hidden >= self.rule.memory_mib:
            return f"{hidden:,} MiB of it are in use by processes that cannot be seen from here."
        return ""

    def _how(self, device: DeviceReading, process: ProcessReading, shares: ProcessUtilization) -> str:
        if process.memory_mib is None:
            return "how much memory it holds is not known"
        if process.memory_mib >= self.rule.memory_mib:
            return f"it holds {process.memory_mib:,} MiB"
        now = shares.get((device.uuid, process.pid), device.utilization_pct)
        if now is None:
            return "whether it computes is not known"
        if now > 0:
            return "it computes"
        ago_s = self._clock() - self._computed_at.get((device.uuid, process.pid), -math.inf)
        return f"it computed {_ago(ago_s)}" if ago_s < self.rule.remembered_s else ""


def compute_outside(device: DeviceReading) -> Iterable[ProcessReading]:
    return (process for process in device.processes if not process.ours and not process.graphics)


def process_phrase(process: ProcessReading) -> str:
    """Such as "alice's python (pid 4711)"."""
    program = process.command or "A process"
    return f"{process.user}'s {program} (pid {process.pid})" if process.user else f"{program} (pid {process.pid})"


def _hidden_mib(device: DeviceReading) -> int:
    """Memory in use that no visible process accounts for; 0 where that cannot be told."""
    known = [process.memory_mib for process in device.processes]
    if device.memory_used_mib is None or None in known:
        return 0
    return max(0, device.memory_used_mib - sum(mib for mib in known if mib is not None))


def _ago(seconds: float) -> str:
    return f"{seconds / 60:.0f} min ago" if seconds >= 60 else "less than a minute ago"
