"""Hosts and devices as they are now: rows for what an operator or a dispatch decided, heartbeats for everything else.

Used by the scheduler, the API and the pages alike, so that nobody sees another truth than the one that places jobs.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import redis
from django.conf import settings
from django.db.models import Case, When
from django.db.models.functions import Coalesce
from django.utils import timezone

from gpuworker.protocol import IN_USE_IDLE_MIN, IN_USE_MEMORY_MIB, AttemptReading, Beat, DeviceReading, attempt_key
from jobs import hostlink
from jobs.hostlink import Heard
from jobs.models import Attempt, Device, Dispatch, Host
from jobs.scheduling import phrases, words
from jobs.scheduling.inventory import DeviceView, Holder, HostView, Orphan, UseRule
from jobs.scheduling.placement import OVERRUN_S
from jobs.states import DeviceState, HostState

__all__ = ["DeviceView", "HostView", "hosts_now", "lab_zone", "overrun_s", "stale_after_s"]

log = logging.getLogger(__name__)

LEFTOVER_AFTER_S = 10.0
"""A heartbeat this much later than an attempt's end that still shows it running means that it did not end."""


@dataclass(frozen=True, slots=True)
class _Now:
    """What is known at this instant; `beats` is None where Redis does not answer."""

    now: datetime
    beats: Mapping[str, Heard] | None
    holders: Mapping[str, Sequence[Holder]]
    slots: Mapping[str, int]
    orphans: Mapping[str, tuple[Orphan, ...]]


def lab_zone() -> ZoneInfo:
    """The zone of times in sentences."""
    return ZoneInfo(settings.TIME_ZONE)


def stale_after_s() -> float:
    """Silence after which a host gets nothing new: two heartbeats have not come, and half of one's time for their way."""
    return 2.5 * float(settings.AUTOTRAINER.heartbeat_s)


def overrun_s() -> float:
    """How much longer than its time limit an attempt may have its devices."""
    return OVERRUN_S + float(settings.AUTOTRAINER.kill_grace_s)


def hosts_now(
    *, now: datetime | None = None, beats: Mapping[str, Heard] | None = None, devices: Iterable[Device] | None = None
) -> list[HostView]:
    """All hosts in the order of their names. Without Redis: the rows only, every device unknown, nothing accepts.

    `beats`, `devices`: for who has read all of them already (`device_rows`).
    """
    hosts = list(Host.objects.order_by("name"))
    rows: dict[int, list[Device]] = defaultdict(list)
    for device in device_rows() if devices is None else devices:
        rows[device.host_id].append(device)
    beats = _heard([host.name for host in hosts]) if beats is None else beats
    holders, slots, orphans = _open_attempts(beats or {})
    instant = _Now(now or timezone.now(), beats, holders, slots, orphans)
    return [_host_view(host, rows[host.pk], instant) for host in hosts]


def device_rows() -> Iterable[Device]:
    """All of them, with for whom they are kept."""
    return Device.objects.select_related("kept_for").order_by()


def _heard(names: list[str]) -> dict[str, Heard] | None:
    try:
        return hostlink.heard(names)
    except (redis.RedisError, OSError) as exc:
        log.warning("no heartbeats to be had: %s", exc, extra={"action": "beats"})
        return None


# --- who holds what -----------------------------------------------------------------------------------------------------

_HELD_BY = ("job_id", "job__name", "job__owner__username", "job__shared", "job__gpu_memory_mib", "job__time_limit_s")
_NAMED = ("fence", "job__uid", "number", "host")
"""What names an attempt. A fence alone does not: after a restored backup fences repeat, and UUIDs do not."""

_BEGAN_IF_LIMITED = Case(When(job__time_limit_s__isnull=False, then=Coalesce("started_at", "created_at")))
"""Where nobody asks when it ends, its beginning stays in the database: to make a time of it costs more than all the rest of a row."""

_Key = tuple[int, str, int, str]


def _open_attempts(beats: Mapping[str, Heard]) -> tuple[dict[str, list[Holder]], dict[str, int], dict[str, tuple[Orphan, ...]]]:
    """Device UUID -> holders, host -> used job slots, host -> orphans: of all open attempts and of what else hosts run."""
    holders: dict[str, list[Holder]] = defaultdict(list)
    slots: dict[str, int] = defaultdict(int)
    unknown = {
        _key(a.fence, a.job, a.attempt, host): a for host, h in beats.items() for a in h.beat.attempts if a.running and a.fence < 2**63
    }
    opened = Attempt.objects.filter(outcome="").order_by("job_id").values_list(*_NAMED, "devices", _BEGAN_IF_LIMITED, *_HELD_BY)
    for fence, job, number, host, devices, began, *held in opened:
        slots[host] += 1
        for device in devices:
            holders[device["uuid"]].append(_holder(held, began=began))
        unknown.pop(_key(fence, job, number, host), None)
    for host, uuids, holder in _leftovers(beats, unknown):
        slots[host] += 1
        for uuid in uuids:
            holders[uuid].append(holder)
    orphans: dict[str, tuple[Orphan, ...]] = defaultdict(tuple)
    for (*_, host), reading in unknown.items():
        slots[host] += 1
        orphans[host] += (_orphan(reading),)
    return holders, slots, orphans


def _holder(held: Sequence[Any], *, began: datetime | None) -> Holder:
    """`began`: needed where it has a time limit."""
    job, name, owner, shared, memory_mib, limit_s = held
    ends_at = None if limit_s is None or began is None else began + timedelta(seconds=limit_s)
    return Holder(job, name, owner, shared, memory_mib, ends_at)


def _leftovers(beats: Mapping[str, Heard], unknown: dict[_Key, AttemptReading]) -> Iterable[tuple[str, Iterable[str], Holder]]:
    """Takes out of `unknown` what is over in the database, and tells which of it runs on: that of a host declared lost, say."""
    if not unknown:
        return
    over = Attempt.objects.filter(fence__in=[key[0] for key in unknown]).exclude(outcome="")
    for fence, uid, number, host, ended_at, devices, began, *held in over.values_list(
        *_NAMED, "ended_at", "devices", "created_at", *_HELD_BY
    ):
        known = unknown.pop(_key(fence, uid, number, host), None)
        if known and ended_at and beats[host].beat.at > ended_at.timestamp() + LEFTOVER_AFTER_S:
            yield host, [d["uuid"] for d in devices], _holder(held, began=began)
    if not unknown:
        return
    withdrawn = Dispatch.objects.filter(pk__in=[key[0] for key in unknown]).exclude(refusal="")
    for fence, uid, number, host, began, *held in withdrawn.values_list(
        "pk", "job__uid", "attempt_number", "host", "created_at", *_HELD_BY
    ):
        if reading := unknown.pop(_key(fence, uid, number, host), None):
            yield host, reading.devices, _holder(held, began=began)


def _key(fence: int, job: object, number: int, host: str) -> _Key:
    return fence, str(job), number, host


def _orphan(reading: AttemptReading) -> Orphan:
    key = attempt_key(reading.job, reading.attempt, reading.fence)
    return Orphan(key, reading.job, reading.attempt, reading.name, reading.devices)


# --- one host -----------------------------------------------------------------------------------------------------------


def _host_view(host: Host, rows: list[Device], instant: _Now) -> HostView:
    heard = instant.beats.get(host.name) if instant.beats else None
    beat = heard.beat if heard else None
    used = instant.slots.get(host.name, 0)
    view = HostView(
        name=host.name,
        state=HostState(host.state) if instant.beats is None else _state(host, heard, used),
        reason="",
        last_seen_at=instant.now - timedelta(seconds=heard.age_s) if heard else host.last_seen_at,
        agent_version=beat.agent_version if beat else host.agent_version,
        device_count=0,
        device_source=beat.device_source if beat else host.device_source,
        device_error=beat.device_error if beat else host.device_error,
        disk_free_bytes=beat.disk_free_bytes if beat else None,
        disk_least_bytes=beat.disk_least_bytes if beat else None,
        job_slots=beat.job_slots if beat else host.job_slots,
        used_slots=used,
        devices=(),
        stale=heard is None or heard.age_s > stale_after_s() or heard.beat.leaving,
        left=bool(beat and beat.leaving),
        inventory_known=host.inventory_known or bool(beat and not beat.device_error),
        deaf_s=beat.deaf_s or 0.0 if beat else 0.0,
        version=heard.version if heard else None,
        orphans=instant.orphans.get(host.name, ()),
        rule=_rule(host, beat),
        dropped=beat.dropped if beat else {},
    )
    devices = tuple(sorted(_devices(view, host, rows, beat, instant), key=lambda d: (d.index, d.uuid)))
    return replace(view, devices=devices, device_count=len(devices), reason=_reason(host, view, instant.now))


def _state(host: Host, heard: Heard | None, used: int) -> HostState:
    if heard is None or heard.beat.leaving or heard.age_s > settings.AUTOTRAINER.host_lost_s:
        return HostState.LOST if host.state == HostState.LOST else HostState.UNREACHABLE
    if host.drain:
        return HostState.DRAINING if used else HostState.DRAINED
    return HostState.UP


def _reason(host: Host, view: HostView, now: datetime) -> str:
    """Why a host is not up, or starts nothing, as the rest of a sentence about it."""
    return _told(host, view, now).removeprefix(f"{host.name} ")


def _told(host: Host, view: HostView, now: datetime) -> str:
    if view.state in (HostState.DRAINED, HostState.DRAINING):
        return words.drained(host.name, host.drain_reason, being=view.state is HostState.DRAINING)
    if view.state is HostState.UP and not (view.stale or view.deaf or view.outdated):
        if view.low_disk:
            return words.low_disk(view)
        if view.device_error:
            return phrases.CANNOT_READ_NOW % {"host": host.name, "why": view.device_error}
        return words.running_orphans(view)
    return words.away(view, now=now, zone=lab_zone())


def _rule(host: Host, beat: Beat | None) -> UseRule:
    mib = IN_USE_MEMORY_MIB if host.use_memory_mib is None else host.use_memory_mib
    minutes = IN_USE_IDLE_MIN if host.use_idle_min is None else host.use_idle_min
    in_force = beat is not None and beat.rules_serial == host.rules_serial
    return UseRule(mib, minutes, host.rule_by, host.rule_at, in_force, tuple(host.ignored))


def _devices(view: HostView, host: Host, rows: list[Device], beat: Beat | None, instant: _Now) -> Iterable[DeviceView]:
    holders = instant.holders
    by_uuid = {row.uuid: row for row in rows}
    if beat is None or beat.device_error:
        for row in rows:
            if row.present:
                detail = phrases.CANNOT_BE_READ_NOW % {"why": beat.device_error} if beat else phrases.IS_UNKNOWN
                yield _kept(_device_view(view, host, row, row, holders.get(row.uuid, ()), detail), row, instant.now)
        return
    for reading in beat.devices:
        unread = phrases.CANNOT_BE_READ_NOW % {"why": reading.error} if reading.error else ""
        detail = unread or (phrases.IS_UNKNOWN if view.stale else "")
        own = by_uuid.get(reading.uuid)
        yield _kept(_device_view(view, host, reading, own, holders.get(reading.uuid, ()), detail), own, instant.now)


def _kept(device: DeviceView, row: Device | None, now: datetime) -> DeviceView:
    """With for whom an operator keeps it, if that is not over."""
    if row is None or row.kept_for is None or row.kept_until is None or row.kept_until <= now:
        return device
    until = row.kept_until.astimezone(lab_zone())
    kept = replace(device, kept_for=row.kept_for.get_username(), kept_until=row.kept_until, kept_by=row.kept_by)
    if device.state is not DeviceState.FREE or not device.allocatable:
        return kept
    kept = replace(kept, detail=f"{until:%Y-%m-%d %H:%M}")
    return replace(kept, reason=_sentence(kept))


def _device_view(
    view: HostView, host: Host, source: DeviceReading | Device, row: Device | None, holders: Sequence[Holder], unknown: str
) -> DeviceView:
    reading = source if isinstance(source, DeviceReading) else None
    drained = host.drain or bool(row and row.drain)
    drained_by = (row.drain_reason if row and row.drain else "") or host.drain_reason
    holder = holders[0] if holders else None
    orphan = next((o for o in view.orphans if source.uuid in o.devices), None)
    state = _device_state(reading, holder, drained, unknown, busy=orphan is not None)
    usable = reading is not None and not (drained or unknown or orphan or reading.in_use_outside) and source.allocatable
    device = DeviceView(
        uuid=source.uuid,
        index=source.index,
        host=view.name,
        name=source.name,
        memory_total_mib=source.memory_total_mib,
        memory_used_mib=reading.memory_used_mib if reading else None,
        utilization_pct=reading.utilization_pct if reading else None,
        temperature_c=reading.temperature_c if reading else None,
        power_w=reading.power_w if reading else None,
        power_limit_w=reading.power_limit_w if reading else None,
        state=state,
        reason="",
        job=holder.job if holder else None,
        job_name=holder.job_name if holder else "",
        job_owner=holder.owner if holder else "",
        processes=reading.processes if reading else (),
        simulated=source.simulated,
        free_memory_mib=_free_memory(reading),
        allocatable=source.allocatable,
        updated_at=view.last_seen_at if reading else row.updated_at if row else None,
        stale=view.stale,
        drained=drained,
        detail=unknown if state is DeviceState.UNKNOWN else words.orphan(orphan) if orphan else drained_by if drained else "",
        holders=tuple(holders),
        shared_left_mib=_shared_left(reading, holders) if reading and usable else None,
        readable=not unknown,
        links=tuple(sorted(reading.links.items())) if reading else (),
    )
    return replace(device, reason=_sentence(device))


def _device_state(reading: DeviceReading | None, holder: Holder | None, drained: bool, unknown: str, *, busy: bool) -> DeviceState:
    """`busy`: an attempt that the database does not know has it."""
    if holder:
        return DeviceState.CLAIMED
    if unknown or reading is None:
        return DeviceState.UNKNOWN
    if busy:
        return DeviceState.BUSY_EXTERNAL
    if drained:
        return DeviceState.DRAINED
    return DeviceState.BUSY_EXTERNAL if reading.in_use_outside else DeviceState.FREE


def _free_memory(reading: DeviceReading | None) -> int | None:
    """Total less what processes outside the queue hold, in MiB; None where any of it is unknown."""
    if reading is None or reading.memory_total_mib is None:
        return None
    outside = [p.memory_mib for p in reading.processes if not p.ours]
    known = [mib for mib in outside if mib is not None]
    return max(0, reading.memory_total_mib - sum(known)) if len(known) == len(outside) else None


def _shared_left(reading: DeviceReading, holders: Sequence[Holder]) -> int | None:
    """Memory for one more beside holders who all share: less what they asked for, or have if that is more. None: nobody may."""
    free = _free_memory(reading)
    ours = [p.memory_mib for p in reading.processes if p.ours]
    if free is None or None in ours or not holders or not all(holder.shared for holder in holders):
        return None
    return max(0, free - max(sum(holder.memory_mib for holder in holders), sum(mib for mib in ours if mib is not None)))


def _sentence(device: DeviceView) -> str:
    if device.state is DeviceState.FREE and device.allocatable and not device.kept_for:
        return ""
    text = words.holding(device)
    return f"{text[0].upper()}{text[1:]}."
