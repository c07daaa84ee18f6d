"""Which waiting job starts where, in strict order for each device.

Rule against starvation: where a job waits for devices, no job behind it gets a device that it could use, but one whose
time limit ends before the waiting job can start (by the time limits of what runs; where one is not known, none slips past).
A job that can never have enough there while people outside the queue use the rest keeps nothing back: their end is not
ours to know.

Within one pass capacity only shrinks and reservations only grow, so a request that did not fit will not fit again: the
cost of a pass grows with the number of different requests, not with the length of the queue.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from jobs.scheduling.inventory import DeviceView, HostView
from jobs.scheduling.request import Placement, Request, Waiting
from jobs.scheduling.room import NEVER, UNKNOWN, Room

__all__ = ["Placement", "Planner", "Request", "Waiting"]

OVERRUN_S = 15.0
"""How much longer than its time limit a job may take its devices: start, grace, looking whether they are clean."""


class Planner:
    """One pass. Ask for the jobs in their order, then take the placements. Without `now` no end is known."""

    def __init__(self, hosts: Iterable[HostView], now: datetime | None = None, *, overrun_s: float = OVERRUN_S) -> None:
        self._hosts = list(hosts)
        self._rooms = [Room(host, now, overrun_s) for host in self._hosts if host.accepts]
        self._overrun_s = overrun_s
        self._failed: dict[Request, Waiting | None] = {}
        self._given: list[tuple[Waiting, Request, Room, list[DeviceView]]] = []
        self._comes_to: dict[Request, Request] = {}

    def comes_to(self, request: Request) -> Request:
        """The request with its wish for more memory than an attempt ran out of fulfilled, or given up where nobody has more."""
        if not request.floor_mib:
            return request
        if request not in self._comes_to:
            self._comes_to[request] = request.among(self._hosts)
        return self._comes_to[request]

    def _asked(self, job: Waiting) -> Waiting:
        return replace(job, request=self.comes_to(job.request)) if job.request.floor_mib else job

    def ask(self, job: Waiting) -> bool:
        """Place a job if it may start now; else keep for it what it waits for."""
        given, job = job, self._asked(job)
        least = job.request.least
        if least in self._failed:
            return False
        fitting = [room for room in self._rooms if job.request.allows(room.name) and room.fits(least)]
        if not fitting:
            self._failed[least] = self._queue_up(job)
            return False
        room = min(fitting, key=lambda r: r.rank(job.request))
        room.slots -= 1
        self._given.append((given, job.request, room, room.take(job.request, job.request.min_gpus)))
        return True

    def _queue_up(self, job: Waiting) -> Waiting | None:
        """Keep what the job waits for; the first of those who wait at the same places (maybe itself), None if nothing will do."""
        places = [room for room in self._rooms if job.request.allows(room.name) and room.will_fit(job.request)]
        for room in places:
            room.keep_for(job)
        firsts = [room.first for room in places if room.first]
        if job in firsts:
            return job
        return min(firsts, key=lambda f: f.order, default=None)

    def ahead_of(self, job: Waiting) -> Waiting | None:
        """Who, of those that did not fit, goes first wherever this job could run; None if nobody does."""
        first = self._failed.get(self.comes_to(job.request).least)
        return None if first is None or first.id == job.id else first

    def slips_past_s(self, job: Waiting) -> float | None:
        """Seconds from now within which this job must have ended to start before those ahead of it; None: no limit would do."""
        job = self._asked(job)
        ends_s = max((room.open_until_s(job.request) for room in self._rooms if job.request.allows(room.name)), default=NEVER)
        left_s = ends_s - self._overrun_s
        return left_s if 0 < left_s < UNKNOWN else None

    def has_failed(self, request: Request) -> bool:
        return self.comes_to(request).least in self._failed

    def could_place(self, request: Request) -> bool:
        """Whether a job that asks for this could be placed now. Once it could not, it will not in this pass."""
        least = self.comes_to(request).least
        return least not in self._failed and any(request.allows(room.name) and room.fits(least) for room in self._rooms)

    def placements(self) -> list[Placement]:
        """All placements, in order. What nobody waits for goes to those that welcome more. Ask nothing afterwards."""
        for _, asked, room, devices in self._given:
            if asked.max_gpus > len(devices):
                unbounded = Request(0, 0, asked.gpu_memory_mib, shared=asked.shared, owner=asked.owner)
                devices += room.take(unbounded, asked.max_gpus - len(devices), beside=devices)
        return [
            Placement(job.id, room.name, tuple(sorted(devices, key=lambda d: (d.index, d.uuid))), job.request)
            for job, _, room, devices in self._given
        ]
