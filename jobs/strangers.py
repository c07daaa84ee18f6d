"""Says on a job that a process from outside the queue has come onto a device that it has: once for each process.

Only what was there in two looks in a row and can be named: a process of ours that is just being started, or has just ended,
may not be known as ours for a moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gpuworker.protocol import DeviceReading, ProcessReading
from jobs import eventphrases, lifecycle
from jobs.hostlink import Heard
from jobs.models import Attempt
from jobs.scheduling import phrases, words

_Seen = tuple[int, int, int]
"""Fence of the attempt, pid and start time of the process."""


class Strangers:
    """One per term of a leader; looks with each reconcile round."""

    def __init__(self) -> None:
        self._before: frozenset[_Seen] = frozenset()
        self._told: frozenset[_Seen] = frozenset()

    def look(self, fresh: Mapping[str, Heard], attempts: Iterable[Attempt]) -> None:
        now: set[_Seen] = set()
        for attempt, device, process in _beside(fresh, attempts):
            seen = (attempt.fence, process.pid, process.start_ticks or 0)
            if seen in self._before and seen not in self._told:
                _tell(attempt, device, process)
                self._told |= {seen}
            now.add(seen)
        self._before, self._told = frozenset(now), self._told & now


def _beside(fresh: Mapping[str, Heard], attempts: Iterable[Attempt]) -> Iterable[tuple[Attempt, DeviceReading, ProcessReading]]:
    devices = {(name, device.uuid): device for name, host in fresh.items() for device in host.beat.devices if device.processes}
    for attempt in attempts:
        for mine in attempt.devices if attempt.started_at else ():
            device = devices.get((attempt.host, mine["uuid"]))
            for process in device.processes if device else ():
                if device and not (process.ours or process.graphics or process.ignored or process.start_ticks is None):
                    yield attempt, device, process


def _tell(attempt: Attempt, device: DeviceReading, process: ProcessReading) -> None:
    place = phrases.PLACE % {"index": device.index, "host": attempt.host}
    told = {"place": place, "attempt": attempt.number, "process": words.process(process), "size": words.size(process.memory_mib or 0)}
    message = (eventphrases.STRANGER if process.memory_mib is None else eventphrases.STRANGER_WITH) % told
    data = {
        "process": f"{process.pid}.{process.start_ticks}",
        "pid": process.pid,
        "user": process.user,
        "command": process.command,
        "memory_mib": process.memory_mib,
        "device": device.uuid,
    }
    lifecycle.note(attempt, "foreign_process", message, data, once_for="process")
