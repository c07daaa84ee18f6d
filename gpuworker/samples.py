"""What each attempt uses of its devices: its peak memory, and a series for a chart that stays small however long it runs.

One file for each attempt and device, `samples-<index>.json` in the attempt's directory. A series that is full is halved in
resolution, so that it covers the whole attempt with at most MOST_POINTS. What could not be read is null, never 0. The control
plane is told of it now and then, and at the end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, TypeVar

from gpuworker.measured import MOST_POINTS, DeviceSeries, Measured
from gpuworker.roster import below
from gpuworker.shim import records

if TYPE_CHECKING:
    from gpuworker.attempts import TakenDevice
    from gpuworker.inventory import Inventory, Snapshot
    from gpuworker.protocol import DeviceReading
    from gpuworker.roster import Roster, Supervised

log = logging.getLogger(__name__)
N = TypeVar("N", bound=float)

WRITE_EVERY_S = 10.0
"""What an agent that is killed forgets at most."""
TELL_EVERY_S = 20.0
HIDDEN_MIB = 1024
"""Memory from which on somebody must hold it, though the driver shows nobody (another container)."""


@dataclass(slots=True)
class Series:
    """Point `i` is the highest of what was seen from `began_at` (unix seconds) + i * `step_s` on, for `step_s`."""

    uuid: str
    began_at: float
    step_s: float
    memory_mib: list[int | None] = field(default_factory=list)
    """Of the attempt's own processes."""
    utilization_pct: list[float | None] = field(default_factory=list)
    """Of the whole device, whoever shares it."""
    peak_memory_mib: int | None = None

    def add(self, at: float, *, memory_mib: int | None, utilization_pct: float | None) -> None:
        while (index := max(0, int((at - self.began_at) / self.step_s))) >= MOST_POINTS:
            self._halve()
        missing = [None] * (index + 1 - len(self.memory_mib))
        self.memory_mib += missing
        self.utilization_pct += missing
        self.memory_mib[index] = _highest(self.memory_mib[index], memory_mib)
        self.utilization_pct[index] = _highest(self.utilization_pct[index], utilization_pct)
        self.peak_memory_mib = _highest(self.peak_memory_mib, memory_mib)

    def _halve(self) -> None:
        self.step_s *= 2
        self.memory_mib = _paired(self.memory_mib)
        self.utilization_pct = _paired(self.utilization_pct)


class Sampler:
    """`turn` belongs to one thread. It looks at what the inventory has read anyway, and asks no device itself."""

    def __init__(
        self,
        inventory: Inventory,
        roster: Roster,
        tell: Callable[[Measured], None],
        *,
        step_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._inventory, self._roster, self._tell = inventory, roster, tell
        self._step_s, self._clock = step_s, clock
        self._series: dict[str, tuple[Supervised, list[Series]]] = {}
        self._written_at: dict[str, float] = {}
        self._told_at: dict[str, float] = {}
        self._seen_at = float("-inf")

    def turn(self) -> None:
        snapshot = self._inventory.snapshot()
        if snapshot.at == self._seen_at:
            return
        self._seen_at = snapshot.at
        living = {one.key: one for one in self._roster.living() if one.shim_pid and one.taken}
        for one in living.values():
            if snapshot.at >= one.watched_since:
                self._look_at(one, snapshot)
        for key in [key for key in self._series if key not in living]:
            self._write(key)
            self._say(key)
            del self._series[key], self._written_at[key], self._told_at[key]

    def _look_at(self, one: Supervised, snapshot: Snapshot) -> None:
        now = self._clock()
        if one.key not in self._series:
            self._series[one.key] = one, [_stored(one, d) or Series(d.uuid, now, self._step_s) for d in one.taken]
            self._written_at[one.key] = float("-inf")
            self._told_at[one.key] = time.monotonic() - TELL_EVERY_S + self._step_s  # Soon, for whoever looks at its page.
        pids = below(one.shim_pid) if one.shared_mib else None
        for series in self._series[one.key][1]:
            device = snapshot.device(series.uuid)
            if device and not device.error:
                series.add(now, memory_mib=_held(device, pids), utilization_pct=device.utilization_pct)
        one.peak_memory_mib = _most(self._series[one.key][1])
        if time.monotonic() - self._written_at[one.key] >= WRITE_EVERY_S:
            self._write(one.key)
        if time.monotonic() - self._told_at[one.key] >= TELL_EVERY_S:
            self._say(one.key)

    def _say(self, key: str) -> None:
        one, all_series = self._series[key]
        self._told_at[key] = time.monotonic()
        if told := _told(one, all_series):
            self._tell(told)

    def _write(self, key: str) -> None:
        one, all_series = self._series[key]
        self._written_at[key] = time.monotonic()
        try:
            for taken, series in zip(one.taken, all_series, strict=True):
                one.attempt.write(_name(taken), asdict(series), durable=False)
        except OSError as exc:  # A full disk, or the directory is gone: the next ones may fit.
            log.debug("samples of %s: %s", key, exc, extra={"action": "samples", "attempt_key": key})


def peak_of(one: Supervised) -> int | None:
    """The most that its processes had on one of its devices, in MiB; None where nobody saw any.

    Who ran out of memory may have filled it and gone between two looks: then its own words count, and 0 is no answer.
    """
    seen = one.peak_memory_mib
    if seen is None:
        seen = _most([series for taken in one.taken if (series := _stored(one, taken))])
    if one.tail and one.tail.oom.found:
        return _highest(seen, one.tail.oom.in_use_mib) or None
    return seen


def measured(one: Supervised) -> Measured | None:
    """What was written of an attempt that has ended while no agent was there; None where nothing was."""
    all_series = [_stored(one, taken) for taken in one.taken]
    return _told(one, [series for series in all_series if series]) if all(all_series) else None


def _told(one: Supervised, all_series: Sequence[Series]) -> Measured | None:
    """None where nothing was seen."""
    told = tuple(
        DeviceSeries(
            uuid=series.uuid,
            index=taken.index,
            began_at=series.began_at,
            step_s=series.step_s,
            memory_mib=tuple(series.memory_mib),
            utilization_pct=tuple(series.utilization_pct),
        )
        for taken, series in zip(one.taken, all_series, strict=True)
        if series.memory_mib
    )
    spec = one.spec
    return Measured(job=spec.job, attempt=spec.attempt, fence=spec.fence, series=told) if told else None


def _held(device: DeviceReading, pids: Collection[int] | None) -> int | None:
    """What an attempt's processes hold there; `pids` None: all of ours are its own. None where any of it is unknown."""
    if not device.processes and (device.memory_used_mib is None or device.memory_used_mib >= HIDDEN_MIB):
        return None
    mine = [p.memory_mib for p in device.processes if p.ours and (pids is None or p.pid in pids)]
    return None if None in mine else sum(mib for mib in mine if mib is not None)


def _stored(one: Supervised, taken: TakenDevice) -> Series | None:
    """What an earlier agent has written; None where there is nothing, or not ours to read."""
    try:
        series = Series(**(records.read_record(one.attempt.path, _name(taken)) or {}))
    except (OSError, TypeError):
        return None
    return series if isinstance(series.peak_memory_mib, int | None) else None


def _name(taken: TakenDevice) -> str:
    return f"samples-{taken.index}.json"


def _most(all_series: Collection[Series]) -> int | None:
    return max((s.peak_memory_mib for s in all_series if s.peak_memory_mib is not None), default=None)


def _highest(one: N | None, other: N | None) -> N | None:
    return other if one is None else one if other is None else max(one, other)


def _paired(points: list[N | None]) -> list[N | None]:
    return [_highest(points[i], points[i + 1] if i + 1 < len(points) else None) for i in range(0, len(points), 2)]
