"""Why a job waits, as a code and a sentence with the numbers, hosts, devices, jobs and people in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from jobs.scheduling import order, words
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
        oom = " after running out of GPU memory" if self.out_of_memory else ""
        if self.signal:
            return f"was killed by signal {self.signal}{oom}"
        return f"failed with exit code {self.exit_code}{oom}" if self.exit_code is not None else f"failed{oom}"


def backoff(
    not_before: datetime, *, retry: int, max_retries: int, attempt: int, last: LastEnd | None = None, now: datetime, zone: tzinfo
) -> Reason:
    """A failed job waits for its next attempt; `retry` 0 means that the last one was no fault of the job."""
    when = words.moment(not_before, now=now, zone=zone)
    if attempt == 1:
        return Reason(WaitReason.BACKOFF, f"It is offered again {when}: hosts have refused it several times.")
    if not retry:
        return Reason(WaitReason.BACKOFF, f"Attempt {attempt} starts {when}: the one before was ended by no fault of the job.")
    return Reason(WaitReason.BACKOFF, f"Retry {retry} of {max_retries} starts {when}; attempt {attempt - 1} {last or LastEnd()}.")


def begin_time(begin_at: datetime, *, now: datetime, zone: tzinfo) -> Reason:
    return Reason(WaitReason.BEGIN_TIME, f"Begins {words.moment(begin_at, now=now, zone=zone)}, as its owner asked.")


def dependency(parents: Sequence[Parent]) -> Reason:
    """Waits for parents that have not completed yet."""
    told = [f"#{p.id} {p.name}, which is {p.state if p.state != JobState.STOPPING else 'being stopped'}" for p in parents]
    return Reason(WaitReason.DEPENDENCY, f"Waits for {words.listed(told, separator='; ')}.")


def behind(
    first: Waiting, job: Waiting, *, before: int = 1, until: datetime | None = None, now: datetime | None = None, zone: tzinfo = UTC
) -> Reason:
    """Somebody else who waits at the same places goes first.

    `before`: how many jobs of that owner are before this one. `until`: what has ended by then may start before the first.
    """
    needs = f"it {_needs(first.request, 'needs')}"
    slips = f" What ends {words.clock(until, now=now, zone=zone, by=True)} may start before it." if until and now else ""
    of = f" of {first.owner}" if first.owner else ""
    if first.priority != job.priority:
        message = f"#{first.id}{of} goes first (priority {first.priority}, this job has {job.priority}); {needs}.{slips}"
    elif first.id < job.id or first.owner == job.owner:
        message = f"#{first.id}{of} goes first (submitted earlier); {needs}.{slips}"
    else:
        message = f"{_in_turn(first, job, before)}; #{first.id} is the first, {needs}.{slips}"
    return Reason(WaitReason.PRIORITY, message)


def _in_turn(first: Waiting, job: Waiting, before: int) -> str:
    who = f"Behind {words.plural(max(1, before), 'job')} of {first.owner}"
    if first.used < job.used:
        return f"{who}, who has used less lately ({order.hours(first.used)} GPU-hours against {order.hours(job.used)} of {job.owner})"
    return f"{who}, who has fewer jobs that run or wait before it: people take turns"


def far_behind(request: Request, count: int, owners: Sequence[str] = (), *, others: bool = False) -> Reason:
    """Many go first: told in words that stay true until it has come near to the front. `others`: more than these owners have them."""
    turn = "by priority, then by who has used least lately, then by age"
    names = [*owners, *(["others"] if others else [])]
    of = f" of {', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else f" of {names[0]}" if names else ""
    return Reason(WaitReason.PRIORITY, f"At least {count} jobs{of} go first ({turn}). It {_needs(request, 'needs')}.")


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
        return Reason(WaitReason.LOW_DISK, f"Waits for room on a disk: {told}.")
    if not there:
        away = words.listed([_away(h, now=now, zone=zone) for h in capable or unknown], separator="; ", most=MOST_HOSTS)
        return Reason(WaitReason.HOST_DOWN, f"No host can take it now: {away}.")
    there.sort(key=lambda h: (-_free(request, h), h.name))
    used = [_in_use(request, h) for h in there] + [_away(h, now=now, zone=zone) for h in full]
    told = words.listed(used, separator="; ", most=MOST_HOSTS)
    return Reason(WaitReason.RESOURCES, f"{_needs(request, 'Needs')}; {told}.")


def _needs(request: Request, verb: str) -> str:
    if not request.min_gpus:
        return f"{verb} a job slot"
    memory = f" with {words.size(request.gpu_memory_mib)} free" if request.gpu_memory_mib else ""
    return f"{verb} {words.plural(request.min_gpus, 'GPU')}{memory}{' to share' if request.shared else ''}"


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
        return f"{host.name} runs {words.plural(host.used_slots, 'job')}, as many as it may"
    if not request.min_gpus:
        return f"{host.name} has {words.plural(host.free_slots, 'job slot')} free"
    suiting = _to_be_had(request, host)
    countable = [d for d in host.devices if d.allocatable]
    taken = words.devices(d for d in countable if d.uuid not in suiting)
    return f"{host.name} has {len(suiting)} of {len(countable)}{f': {taken}' if taken else ''}"


def _away(host: HostView, *, now: datetime, zone: tzinfo) -> str:
    if host.accepts:  # up, but its devices are not known
        return f"{host.name} cannot read its GPUs{f' ({host.device_error})' if host.device_error else ' yet'}"
    return words.away(host, now=now, zone=zone)


def _nobody(request: Request) -> str:
    if not request.hosts:
        return "No host has joined yet."
    return f"It may only run on {words.listed(request.hosts, separator=' or ')}, and no host of that name has joined."


def _never(request: Request, allowed: Sequence[HostView]) -> str:
    best = max(allowed, key=lambda h: (_fitting(request, h), len(h.devices)))
    memory = f" of at least {words.size(request.gpu_memory_mib)}" if request.gpu_memory_mib else ""
    among = "the only host that it may use" if len(allowed) == 1 else f"the best of {len(allowed)} hosts"
    return f"Needs {words.plural(request.min_gpus, 'GPU')}{memory} on one host; {among}, {best.name}, has {_fitting(request, best)}."
