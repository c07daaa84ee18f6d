"""Why a job waits, as a code and a sentence with the numbers, hosts, devices, jobs and people in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from jobs.scheduling import order, phrases, words
from jobs.scheduling.inventory import HostView
from jobs.scheduling.request import Request, Waiting
from jobs.states import HostState, JobState, WaitReason

MOST_HOSTS = 4
"""Hosts that a sentence tells about one by one."""


@dataclass(frozen=True, slots=True)
class Reason:
    code: WaitReason
    message: str


@dataclass(frozen=True, slots=True)
class Parent:
    """A job that another one waits for."""

    id: int
    name: str
    state: str


@dataclass(frozen=True, slots=True)
class LastEnd:
    """How the attempt before the one that a job waits for has ended."""

    exit_code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False

    def __str__(self) -> str:
        """The rest of `attempt 2 …`."""
        if self.signal:
            return (phrases.KILLED_OOM if self.out_of_memory else phrases.KILLED) % {"signal": self.signal}
        if self.exit_code is not None:
            return (phrases.FAILED_CODE_OOM if self.out_of_memory else phrases.FAILED_CODE) % {"code": self.exit_code}
        return phrases.FAILED_OOM if self.out_of_memory else phrases.FAILED


def backoff(
    not_before: datetime, *, retry: int, max_retries: int, attempt: int, last: LastEnd | None = None, now: datetime, zone: tzinfo
) -> Reason:
    """A failed job waits for its next attempt; `retry` 0 means that the last one was no fault of the job."""
    when = words.moment(not_before, now=now, zone=zone)
    if attempt == 1:
        return Reason(WaitReason.BACKOFF, phrases.OFFERED_AGAIN % {"when": when})
    if not retry:
        return Reason(WaitReason.BACKOFF, phrases.NO_FAULT % {"attempt": attempt, "when": when})
    told = {"retry": retry, "most": max_retries, "when": when, "attempt": attempt - 1, "ended": last or LastEnd()}
    return Reason(WaitReason.BACKOFF, phrases.RETRY % told)


def begin_time(begin_at: datetime, *, now: datetime, zone: tzinfo) -> Reason:
    return Reason(WaitReason.BEGIN_TIME, phrases.BEGINS % {"when": words.moment(begin_at, now=now, zone=zone)})


def dependency(parents: Sequence[Parent]) -> Reason:
    """Waits for parents that have not completed yet."""
    told = [_parent(p) for p in parents]
    return Reason(WaitReason.DEPENDENCY, phrases.WAITS_FOR % {"parents": words.listed(told, separator="; ")})


def _parent(parent: Parent) -> str:
    state = phrases.BEING_STOPPED if parent.state == JobState.STOPPING else parent.state
    return phrases.PARENT % {"job": parent.id, "name": parent.name, "state": state}


def behind(
    first: Waiting, job: Waiting, *, before: int = 1, until: datetime | None = None, now: datetime | None = None, zone: tzinfo = UTC
) -> Reason:
    """Somebody else who waits at the same places goes first.

    `before`: how many jobs of that owner are before this one. `until`: what has ended by then may start before the first.
    """
    what = _asked(first.request)
    told = {"job": first.id, "of": phrases.OF % {"owner": first.owner} if first.owner else "", "what": what}
    if first.priority != job.priority:
        message = phrases.FIRST_BY_PRIORITY % {**told, "theirs": first.priority, "ours": job.priority}
    elif first.id < job.id or first.owner == job.owner:
        message = phrases.FIRST_BY_AGE % told
    else:
        message = phrases.IN_TURN % {**told, "behind": _in_turn(first, job, before)}
    if until and now:
        message += " " + phrases.SLIPS % {"before": words.clock(until, now=now, zone=zone, by=True)}
    return Reason(WaitReason.PRIORITY, message)


def _in_turn(first: Waiting, job: Waiting, before: int) -> str:
    told = {"jobs": phrases.counted(max(1, before), phrases.ONE_JOB, phrases.SOME_JOBS), "user": first.owner, "person": job.owner}
    if first.used < job.used:
        return phrases.HAS_USED_LESS % {**told, "theirs": order.hours(first.used), "ours": order.hours(job.used)}
    return phrases.HAS_FEWER % told


def far_behind(request: Request, count: int, owners: Sequence[str] = (), *, others: bool = False) -> Reason:
    """Many go first: told in words that stay true until it has come near to the front. `others`: more than these owners have them."""
    names = [*owners, *([phrases.OTHERS] if others else [])]
    listed = phrases.AND % {"some": ", ".join(names[:-1]), "last": names[-1]} if len(names) > 1 else "".join(names)
    of = phrases.OF % {"owner": listed} if names else ""
    return Reason(WaitReason.PRIORITY, phrases.FAR_BEHIND % {"count": count, "of": of, "what": _asked(request)})


def no_room(request: Request, hosts: Sequence[HostView], *, now: datetime, zone: tzinfo) -> Reason:
    """Nothing free suits a job: it never will (NeverFits), its hosts are away (HostDown), its disk is full (LowDisk), or all is in use."""
    allowed = [h for h in hosts if request.allows(h.name)]
    if not allowed:
        return Reason(WaitReason.HOST_DOWN, _nobody(request))
    capable = [h for h in allowed if _capable(request, h)]
    unknown = [h for h in allowed if not h.inventory_known]
    if not capable and not unknown:
        return Reason(WaitReason.NEVER_FITS, _never(request, allowed))
    there = [h for h in capable if h.accepts]
    full = [h for h in capable if h.low_disk and h.state is HostState.UP and not h.stale]
    if not there and full:
        told = words.listed([_away(h, now=now, zone=zone) for h in full], separator="; ", most=MOST_HOSTS)
        return Reason(WaitReason.LOW_DISK, phrases.LOW_DISK % {"hosts": told})
    if not there:
        away = words.listed([_away(h, now=now, zone=zone) for h in capable or unknown], separator="; ", most=MOST_HOSTS)
        return Reason(WaitReason.HOST_DOWN, phrases.NO_HOST_NOW % {"hosts": away})
    there.sort(key=lambda h: (-_free(request, h), h.name))
    used = [_in_use(request, h) for h in there] + [_away(h, now=now, zone=zone) for h in full]
    told = words.listed(used, separator="; ", most=MOST_HOSTS)
    return Reason(WaitReason.RESOURCES, phrases.NO_ROOM % {"what": _asked(request), "hosts": told})


def _asked(request: Request) -> str:
    if not request.min_gpus:
        return phrases.SLOT
    gpus = _gpus(request)
    if request.gpu_memory_mib:
        told = {"gpus": gpus, "size": words.size(request.gpu_memory_mib)}
        return (phrases.GPUS_FREE_TO_SHARE if request.shared else phrases.GPUS_FREE) % told
    return phrases.GPUS_TO_SHARE % {"gpus": gpus} if request.shared else gpus


def _capable(request: Request, host: HostView) -> bool:
    return not request.min_gpus or (host.inventory_known and _fitting(request, host) >= request.min_gpus)


def _fitting(request: Request, host: HostView) -> int:
    """Devices that would do if they were empty."""
    return sum(d.allocatable and request.would_suit(d) for d in host.devices)


def _free(request: Request, host: HostView) -> int:
    return len(_to_be_had(request, host))


def _to_be_had(request: Request, host: HostView) -> set[str]:
    """Devices that would take it now."""
    joinable = (d for d in host.devices if d.allocatable and request.joins(d))
    found = {d.uuid for d in host.free_devices if request.suits(d)} | {d.uuid for d in joinable}
    return {d.uuid for d in host.devices if d.uuid in found and request.may_use(d)}


def _in_use(request: Request, host: HostView) -> str:
    if not host.free_slots:
        return phrases.FULL % {"host": host.name, "jobs": phrases.counted(host.used_slots, phrases.ONE_JOB, phrases.SOME_JOBS)}
    if not request.min_gpus:
        return phrases.SLOTS_FREE % {"host": host.name, "slots": phrases.counted(host.free_slots, phrases.ONE_SLOT, phrases.SOME_SLOTS)}
    suiting = _to_be_had(request, host)
    countable = [d for d in host.devices if d.allocatable]
    taken = words.devices(d for d in countable if d.uuid not in suiting)
    told = {"host": host.name, "free": len(suiting), "all": len(countable), "devices": taken}
    return (phrases.HAS_AND if taken else phrases.HAS) % told


def _away(host: HostView, *, now: datetime, zone: tzinfo) -> str:
    if host.accepts:  # up, but its devices are not known
        return (phrases.CANNOT_READ if host.device_error else phrases.CANNOT_READ_YET) % {"host": host.name, "why": host.device_error}
    return words.away(host, now=now, zone=zone)


def _nobody(request: Request) -> str:
    if not request.hosts:
        return phrases.NO_HOST
    return phrases.NO_HOST_OF_NAME % {"names": words.listed(request.hosts, separator=phrases.OR)}


def _never(request: Request, allowed: Sequence[HostView]) -> str:
    best = max(allowed, key=lambda h: (_fitting(request, h), len(h.devices)))
    sized = {"gpus": _gpus(request), "size": words.size(request.gpu_memory_mib)}
    what = phrases.GPUS_OF_SIZE % sized if request.gpu_memory_mib else _gpus(request)
    among = phrases.ONLY_HOST if len(allowed) == 1 else phrases.BEST_HOST % {"all": len(allowed)}
    return phrases.NEVER % {"what": what, "among": among, "host": best.name, "has": _fitting(request, best)}


def _gpus(request: Request) -> str:
    return phrases.counted(request.min_gpus, phrases.ONE_GPU, phrases.SOME_GPUS)
