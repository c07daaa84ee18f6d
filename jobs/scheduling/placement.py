"""Which waiting job starts where, in strict order for each device.

Rule against starvation: where a job waits for devices, no job behind it gets a device that it could use. A job that can
never have enough there while people outside the queue use the rest keeps nothing back: their end is not ours to know.

Within one pass capacity only shrinks and reservations only grow, so a request that did not fit will not fit again: the
cost of a pass grows with the number of different requests, not with the length of the queue.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jobs.scheduling.inventory import DeviceView, HostView
from jobs.states import DeviceState


@dataclass(frozen=True, slots=True)
class Request:
    """What a job asks of a host."""

    min_gpus: int
    max_gpus: int
    gpu_memory_mib: int = 0
    hosts: tuple[str, ...] = ()
    """Allowed hosts; empty: all."""

    @property
    def least(self) -> Request:
        """The same without what is merely welcome: equal ones fit or fail together."""
        return Request(self.min_gpus, self.min_gpus, self.gpu_memory_mib, self.hosts)

    def allows(self, host: str) -> bool:
        return not self.hosts or host in self.hosts

    def suits(self, device: DeviceView) -> bool:
        """Whether the device has the free memory; unknown memory never has."""
        return not self.gpu_memory_mib or (device.free_memory_mib is not None and device.free_memory_mib >= self.gpu_memory_mib)

    def would_suit(self, device: DeviceView) -> bool:
        """Whether an empty device of this kind has the memory."""
        return not self.gpu_memory_mib or (device.memory_total_mib is not None and device.memory_total_mib >= self.gpu_memory_mib)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued job, as far as placement cares."""

    id: int
    priority: int
    request: Request
    owner: str = ""

    @property
    def order(self) -> tuple[int, int]:
        """Higher priority first, then who came first."""
        return (-self.priority, self.id)


@dataclass(frozen=True, slots=True)
class Placement:
    """This job, this host, these devices in index order."""

    job_id: int
    host: str
    devices: tuple[DeviceView, ...]
    request: Request


class _Room:
    """One host's capacity during a pass."""

    def __init__(self, host: HostView) -> None:
        self.name = host.name
        self.slots = host.free_slots
        self.free = sorted(host.free_devices, key=lambda d: (d.index, d.uuid))
        self.ours = [d for d in host.devices if d.state is DeviceState.CLAIMED and d.allocatable and not d.drained]
        self.kept: set[str] = set()
        """Devices that a waiting job ahead could use."""
        self.first: Waiting | None = None
        """The first job that waits for this host."""

    def open_to(self, request: Request) -> list[DeviceView]:
        return [d for d in self.free if d.uuid not in self.kept and request.suits(d)]

    def fits(self, request: Request) -> bool:
        return self.slots > 0 and len(self.open_to(request)) >= request.min_gpus

    def will_fit(self, request: Request) -> bool:
        """Whether it fits once the queue's own jobs have ended here."""
        coming = sum(map(request.suits, self.free)) + sum(map(request.would_suit, self.ours))
        return coming >= request.min_gpus

    def rank(self, request: Request) -> tuple[int, int, str]:
        """Lowest is best: the tightest fit, so that big gaps stay; work without a GPU goes to the emptiest host."""
        left = len(self.open_to(request)) - request.min_gpus
        return (left if request.min_gpus else -left if request.max_gpus else 0, -self.slots, self.name)

    def take(self, request: Request, count: int) -> list[DeviceView]:
        taken = self.open_to(request)[:count]
        names = {d.uuid for d in taken}
        self.free = [d for d in self.free if d.uuid not in names]
        self.ours += taken
        return taken

    def keep_for(self, job: Waiting) -> None:
        self.kept.update(d.uuid for d in self.free if job.request.suits(d))
        self.first = self.first or job


class Planner:
    """One pass. Ask for the jobs in their order, then take the placements."""

    def __init__(self, hosts: Iterable[HostView]) -> None:
        self._rooms = [_Room(host) for host in hosts if host.accepts]
        self._failed: dict[Request, Waiting | None] = {}
        self._given: list[tuple[Waiting, _Room, list[DeviceView]]] = []

    def ask(self, job: Waiting) -> bool:
        """Place a job if it may start now; else keep for it what it waits for."""
        least = job.request.least
        if least in self._failed:
            return False
        fitting = [room for room in self._rooms if job.request.allows(room.name) and room.fits(least)]
        if not fitting:
            self._failed[least] = self._queue_up(job)
            return False
        room = min(fitting, key=lambda r: r.rank(job.request))
        room.slots -= 1
        self._given.append((job, room, room.take(least, job.request.min_gpus)))
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
        first = self._failed.get(job.request.least)
        return None if first is None or first.id == job.id else first

    @property
    def has_devices(self) -> bool:
        """Whether any job that needs a GPU could still be placed."""
        return any(room.slots > 0 and any(d.uuid not in room.kept for d in room.free) for room in self._rooms)

    @property
    def has_slots(self) -> bool:
        """Whether any job at all could still be placed."""
        return any(room.slots > 0 for room in self._rooms)

    def placements(self) -> list[Placement]:
        """All placements, in order. What nobody waits for goes to those that welcome more. Ask nothing afterwards."""
        for job, room, devices in self._given:
            devices += room.take(job.request, job.request.max_gpus - len(devices))
        return [
            Placement(job.id, room.name, tuple(sorted(devices, key=lambda d: (d.index, d.uuid))), job.request)
            for job, room, devices in self._given
        ]
