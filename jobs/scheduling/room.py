"""One host's capacity during a pass: what is free, what may be shared, what is kept for whom and until when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from jobs.scheduling.inventory import DeviceView, HostView
from jobs.scheduling.request import Request, Waiting
from jobs.states import DeviceState

NEVER, UNKNOWN = float("-inf"), float("inf")


@dataclass(frozen=True, slots=True)
class Held:
    """By one attempt, which has ended by then at the latest."""

    ends_s: float
    mib: int
    shared: bool


@dataclass(slots=True, eq=False)
class Spot:
    """A device during a pass. Moments are seconds since its beginning."""

    device: DeviceView
    left_mib: int | None
    """Memory for one more: for anybody where nobody is on it, else for who shares; None: not known, or nobody may join."""
    holders: list[Held]
    free: bool
    """Nobody is on it and it may be handed out."""
    kept_s: float | None = None
    """The job that it is kept for starts by then at the latest; None: it is kept for nobody."""

    def takes(self, request: Request) -> bool:
        if not request.may_use(self.device):
            return False
        if self.free:
            return request.suits(self.device)
        return request.shared and self.left_mib is not None and self.left_mib >= request.gpu_memory_mib

    def may_take(self, request: Request, overrun_s: float) -> bool:
        """Whether it takes the request and is not kept, or is empty again before the one that it is kept for can start."""
        return self.takes(request) and (self.kept_s is None or _ends_s(request) + overrun_s <= self.kept_s)

    def ready_s(self, request: Request) -> float:
        """When it takes the request at the latest, as those who have it end."""
        if self.takes(request):
            return 0.0
        return next(at for at in sorted(held.ends_s for held in self.holders) if self._takes_beside(at, request))

    def _takes_beside(self, at_s: float, request: Request) -> bool:
        rest = [held for held in self.holders if held.ends_s > at_s]
        room = (self.device.free_memory_mib or 0) - sum(held.mib for held in rest)
        return not rest or (request.shared and all(held.shared for held in rest) and room >= request.gpu_memory_mib)

    def give(self, request: Request) -> None:
        left = self.device.free_memory_mib if self.free else self.left_mib
        self.left_mib = left - request.gpu_memory_mib if request.shared and left is not None else None
        self.holders.append(Held(_ends_s(request), request.gpu_memory_mib, request.shared))
        self.free = False


def _ends_s(request: Request) -> float:
    return UNKNOWN if request.limit_s is None else request.limit_s


class Room:
    """`overrun_s`: how much longer than its limit a job may take, with its start and its end."""

    def __init__(self, host: HostView, now: datetime | None, overrun_s: float) -> None:
        self.name, self.slots = host.name, host.free_slots
        self._overrun_s = overrun_s
        countable = [d for d in host.devices if d.allocatable]
        self.spots = [_spot(d, now) for d in sorted(countable, key=lambda d: (d.index, d.uuid))]
        self.first: Waiting | None = None
        """The first job that waits for this host."""

    def open_to(self, request: Request) -> list[Spot]:
        return [spot for spot in self.spots if spot.may_take(request, self._overrun_s)]

    def fits(self, request: Request) -> bool:
        return self.slots > 0 and len(self.open_to(request)) >= request.min_gpus

    def will_fit(self, request: Request) -> bool:
        """Whether it fits once the queue's own jobs have ended here."""
        return len(self._free_for(request)) + len(self._coming_for(request)) >= request.min_gpus

    def rank(self, request: Request) -> tuple[int, int, int, str]:
        """Lowest is best: the largest holes stay. Work without a GPU goes to the emptiest host."""
        chosen = self.choose(request, request.min_gpus)
        broken = sum(spot.free for spot in chosen)
        left = sum(spot.free for spot in self.open_to(request)) - broken
        if not request.min_gpus:
            left = -left if request.max_gpus else 0
        return (broken if request.shared else 0, left, -self.slots, self.name)

    def choose(self, request: Request, count: int, *, beside: Sequence[DeviceView] = ()) -> list[Spot]:
        """The devices of those open that leave the largest holes; several at once are as near to each other as can be.

        `beside`: what the job has already, and cannot have twice.
        """
        candidates = [spot for spot in self.open_to(request) if spot.device not in beside]
        if request.shared:
            candidates.sort(key=lambda s: (s.free, s.left_mib or 0))
            return candidates[:count]
        candidates.sort(key=_size)
        if not 0 < count < len(candidates) or not any(s.device.links for s in candidates):
            return candidates[:count]
        return _nearest([s for s in candidates if _size(s) <= _size(candidates[count - 1])], count)

    def take(self, request: Request, count: int, *, beside: Sequence[DeviceView] = ()) -> list[DeviceView]:
        taken = self.choose(request, count, beside=beside)
        for spot in taken:
            spot.give(request)
        return [spot.device for spot in taken]

    def keep_for(self, job: Waiting) -> None:
        """Nothing that it waits for goes to those behind it, but to who has ended before it can start."""
        request, first_here = job.request, self.first is None
        free, coming = self._free_for(request), self._coming_for(request)
        starts_s = self._starts_s(request, free, coming) if first_here else NEVER
        missing = max(0, request.min_gpus - len(free))
        for spot in [*free, *[s for s in coming if s.kept_s is None][:missing]]:
            if spot.kept_s is None:
                spot.kept_s = starts_s
        self.first = self.first or job

    def _starts_s(self, request: Request, free: Sequence[Spot], coming: Sequence[Spot]) -> float:
        """When the job can start at the latest, by the time limits of those that run; NEVER where nobody knows."""
        missing = request.min_gpus - len(free)
        if self.slots <= 0 or not 0 < missing <= len(coming):
            return NEVER
        ready_s = coming[missing - 1].ready_s(request)
        return NEVER if ready_s == UNKNOWN else ready_s

    def open_until_s(self, request: Request) -> float:
        """Before when a job must have ended to start here now although others wait; NEVER where no limit would do."""
        held = [spot.kept_s for spot in self.spots if spot.takes(request)]
        ends = sorted((UNKNOWN if kept is None else kept for kept in held), reverse=True)
        if self.slots <= 0 or not 0 < request.min_gpus <= len(ends):
            return NEVER
        return ends[request.min_gpus - 1]

    def _free_for(self, request: Request) -> list[Spot]:
        return [spot for spot in self.spots if spot.takes(request)]

    def _coming_for(self, request: Request) -> list[Spot]:
        """Devices that jobs of the queue have now and this one could have then, those that come first first."""
        held = [s for s in self.spots if s.holders and not s.device.drained and s.device.readable]
        ours = [s for s in held if not s.takes(request) and request.would_suit(s.device) and request.may_use(s.device)]
        return sorted(ours, key=lambda s: (s.ready_s(request), len(s.holders)))


def _spot(device: DeviceView, now: datetime | None) -> Spot:
    holders = [Held(_left_s(h.ends_at, now), h.memory_mib, h.shared) for h in device.holders]
    if device.state is DeviceState.CLAIMED and not holders:
        holders = [Held(UNKNOWN, 0, False)]
    free = device.state is DeviceState.FREE
    return Spot(device, None if free else device.shared_left_mib, holders, free)


def _left_s(ends_at: datetime | None, now: datetime | None) -> float:
    return UNKNOWN if ends_at is None or now is None else max(0.0, (ends_at - now).total_seconds())


# --- devices that are near to each other --------------------------------------------------------------------------------


def _nearest(candidates: Sequence[Spot], count: int) -> list[Spot]:
    """Greedy from each device on: those with the best links among themselves and, of such, the worst to those left over."""
    links = {spot.device.uuid: dict(spot.device.links) for spot in candidates}

    def between(spot: Spot, others: Iterable[Spot]) -> int:
        return sum(links[spot.device.uuid].get(other.device.uuid, 0) for other in others)

    def grown(seed: Spot) -> list[Spot]:
        chosen = [seed]
        while len(chosen) < count:
            rest = [spot for spot in candidates if spot not in chosen]
            chosen.append(max(rest, key=lambda s: (between(s, chosen), -between(s, rest))))
        return chosen

    def worth(chosen: list[Spot]) -> tuple[int, int]:
        rest = [spot for spot in candidates if spot not in chosen]
        return sum(between(s, chosen) for s in chosen), -sum(between(s, rest) for s in chosen)

    return max(map(grown, candidates), key=worth)


def _size(spot: Spot) -> float:
    return spot.device.memory_total_mib or UNKNOWN
