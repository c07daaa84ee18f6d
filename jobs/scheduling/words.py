"""Devices, hosts, sizes and moments as parts of sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, tzinfo
from itertools import groupby

from gpuworker.envelope import PROTOCOL_VERSION
from gpuworker.protocol import ProcessReading
from jobs.scheduling import phrases
from jobs.scheduling.inventory import DeviceView, HostView, Orphan
from jobs.states import DeviceState, HostState

LONGEST_LIST = 6


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def size(mib: int) -> str:
    """20480 -> `20 GiB`, 20000 -> `19.5 GiB`, 512 -> `512 MiB`."""
    return f"{mib} MiB" if mib < 1024 else f"{round(mib / 1024, 1):g} GiB"


def listed(parts: Sequence[str], *, separator: str = ", ", most: int = LONGEST_LIST) -> str:
    """`a, b, c`; past `most` parts only their number is told."""
    if len(parts) <= most + 1:
        return separator.join(parts)
    return separator.join([*parts[:most], phrases.MORE % {"count": len(parts) - most}])


# --- times --------------------------------------------------------------------------------------------------------------


def clock(when: datetime, *, now: datetime, zone: tzinfo, by: bool = False) -> str:
    """`at 14:31`, `tomorrow at 14:31` or `on 2026-03-09 at 14:31`, in the lab's zone; with seconds where it is near.

    `by`: `before 14:31` and so on, to the whole minute before, as a limit is told.
    """
    local, today = when.astimezone(zone), now.astimezone(zone).date()
    if by:
        return phrases.BEFORE % {"time": f"{local:%H:%M}" if local.date() == today else f"{local:%Y-%m-%d %H:%M}"}
    short = local.strftime("%H:%M:%S" if abs(when - now) < timedelta(minutes=10) else "%H:%M")
    if local.date() == today:
        return phrases.TODAY % {"time": short}
    if local.date() == today + timedelta(days=1):
        return phrases.TOMORROW % {"time": short}
    return phrases.ON_DAY % {"date": f"{local:%Y-%m-%d}", "time": short}


def span(seconds: float) -> str:
    """A duration as coarse as it is long: `40 s`, `5 m`, `3 h 7 m`, `2 d 4 h`. Coarse, so that it rarely changes."""
    whole = max(0, round(seconds))
    if whole < 90:
        return phrases.SPAN_SECONDS % {"n": max(10, round(whole / 10) * 10)}
    minutes = round(whole / 60)
    if minutes < 60:
        return phrases.SPAN_MINUTES % {"n": minutes}
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return phrases.SPAN_HOURS % {"hours": hours, "n": minutes}
    return phrases.SPAN_DAYS % {"days": hours // 24, "hours": hours % 24}


def delay(seconds: float) -> str:
    """A duration that somebody set: to the second while it is short."""
    return span(seconds) if seconds >= 90 else phrases.SPAN_SECONDS % {"n": round(seconds)}


def moment(when: datetime, *, now: datetime, zone: tzinfo) -> str:
    """`at 14:31, in 3 h 7 m`."""
    return phrases.MOMENT % {"clock": clock(when, now=now, zone=zone), "span": span((when - now).total_seconds())}


# --- devices and hosts --------------------------------------------------------------------------------------------------


def process(reading: ProcessReading) -> str:
    """`alice's python (pid 4711)`."""
    program = reading.command.split(" ", 1)[0].rsplit("/", 1)[-1] or "process"
    return (
        phrases.PROCESS % {"user": reading.user, "program": program, "pid": reading.pid}
        if reading.user
        else f"{program} (pid {reading.pid})"
    )


def holding(device: DeviceView, *, many: bool = False) -> str:
    """What a device that is not to be had does, as the rest of a sentence about it (or about `many` alike)."""
    match device.state:
        case DeviceState.CLAIMED:
            return _held(device, many=many)
        case DeviceState.BUSY_EXTERNAL if device.detail:
            return (phrases.RUN if many else phrases.RUNS) % {"holders": device.detail}
        case DeviceState.BUSY_EXTERNAL if outside := [process(p) for p in device.processes if not p.ours]:
            return (phrases.ARE_USED_BY if many else phrases.IS_USED_BY) % {"processes": listed(outside, most=2)}
        case DeviceState.BUSY_EXTERNAL:
            return phrases.ARE_USED if many else phrases.IS_USED
        case DeviceState.DRAINED if device.detail:
            return (phrases.ARE_DRAINED if many else phrases.IS_DRAINED) % {"reason": device.detail}
        case DeviceState.DRAINED:
            return phrases.DRAINED_ALL if many else phrases.DRAINED
        case DeviceState.UNKNOWN:
            return device.detail.rstrip(".") or phrases.CANNOT_BE_READ  # It may end with what the driver says, a sentence of its own.
    if device.kept_for:
        told = {"user": device.kept_for, "until": device.detail, "person": device.kept_by}
        return (phrases.ARE_KEPT if many else phrases.IS_KEPT) % told
    if not device.allocatable:
        return phrases.ARE_CUT if many else phrases.IS_CUT
    if device.free_memory_mib is None:
        return phrases.HAVE_UNKNOWN if many else phrases.HAS_UNKNOWN
    return (phrases.HAVE_FREE if many else phrases.HAS_FREE) % {"size": size(device.free_memory_mib)}


def _held(device: DeviceView, *, many: bool) -> str:
    if not device.holders or not device.holders[0].shared:
        holder = phrases.HOLDER % {"job": device.job, "user": device.job_owner}
        return (phrases.RUN if many else phrases.RUNS) % {"holders": holder}
    jobs = listed([phrases.HOLDER % {"job": holder.job, "user": holder.owner} for holder in device.holders], most=3)
    if device.shared_left_mib is None or many:
        return (phrases.RUN if many else phrases.RUNS) % {"holders": jobs}
    leaves = phrases.RUNS_AND_LEAVES if len(device.holders) == 1 else phrases.RUNS_AND_LEAVE
    return leaves % {"holders": jobs, "size": size(device.shared_left_mib)}


def devices(those: Iterable[DeviceView]) -> str:
    """`GPU 0 runs #412 of lin, GPU 1 and 2 are drained by admin`: like ones together, in index order."""
    ordered = sorted(those, key=lambda d: (holding(d), d.index))
    groups = [list(group) for _, group in groupby(ordered, key=holding)]
    groups.sort(key=lambda g: g[0].index)
    return listed([phrases.DEVICE % {"index": _indices(g), "doing": holding(g[0], many=len(g) > 1)} for g in groups])


def _indices(group: list[DeviceView]) -> str:
    told = [str(d.index) for d in group]
    return told[0] if len(told) == 1 else phrases.AND % {"some": ", ".join(told[:-1]), "last": told[-1]}


def orphan(found: Orphan) -> str:
    """`bert (5f3c…, attempt 2), which the database does not know`."""
    return phrases.ORPHAN % {"name": found.name or phrases.AN_ATTEMPT, "key": found.job, "attempt": found.attempt}


def running_orphans(host: HostView) -> str:
    """What a host with such attempts does; empty where it has none."""
    told = listed([orphan(one) for one in host.orphans], separator="; ", most=3)
    return phrases.HAS_ORPHANS % {"host": host.name, "orphans": told} if told else ""


def low_disk(host: HostView) -> str:
    """`gpu-a has 0.4 GiB of disk free, and starts nothing new with less than 1 GiB`."""
    free, least = (size((given or 0) >> 20) for given in (host.disk_free_bytes, host.disk_least_bytes))
    return phrases.FULL_DISK % {"host": host.name, "size": free, "least": least}


def drained(host: str, by: str, *, being: bool) -> str:
    """`gpu-a is being drained by admin: new cooling`."""
    if by:
        return (phrases.HOST_DRAINING_BY if being else phrases.HOST_DRAINED_BY) % {"host": host, "reason": by}
    return (phrases.HOST_DRAINING if being else phrases.HOST_DRAINED) % {"host": host}


def away(host: HostView, *, now: datetime, zone: tzinfo) -> str:
    """Why a host takes nothing new: `gpu-a has not been heard from since 14:31`."""
    if host.state in (HostState.DRAINED, HostState.DRAINING):
        return f"{host.name} {host.reason}" if host.reason else drained(host.name, "", being=False)
    if host.state is HostState.LOST:
        return phrases.LOST % {"host": host.name}
    if host.outdated and not host.stale:
        return phrases.OUTDATED % {"host": host.name, "theirs": host.version, "ours": PROTOCOL_VERSION}
    if host.deaf and not host.stale:
        return phrases.DEAF % {"host": host.name, "span": span(host.deaf_s)}
    if host.state is HostState.UP and not host.stale and host.low_disk:
        return low_disk(host)
    if host.last_seen_at is None:
        return phrases.NEVER_HEARD % {"host": host.name}
    if host.left:
        return phrases.STOPPED % {"host": host.name, "clock": clock(host.last_seen_at, now=now, zone=zone)}
    at = clock(host.last_seen_at, now=now, zone=zone).removeprefix("at ")
    return phrases.SILENT % {"host": host.name, "since": at}
