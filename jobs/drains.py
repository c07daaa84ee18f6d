"""What operators decide about hosts and devices, and what the state of a device decides for them.

A drain that an operator made is the operator's to undo. One that was made here (a device that did not come back clean, that
NVML calls lost, whose processes cannot be ended) is undone too once the device has been seen clean for a while; but not
that of a sick one, on which everything fails at once: it looks clean all the time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime

import redis
from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from gpuworker.protocol import DeviceReading, Ended, EndReason
from jobs import audit, eventphrases, hostlink, lifecycle
from jobs.capacity import stale_after_s
from jobs.hostlink import Heard
from jobs.models import Attempt, Device, Host, User
from jobs.models.audit import About, Act
from jobs.scheduling import phrases
from jobs.states import HostState

log = logging.getLogger(__name__)

CLEAN_LOOKS = 4
"""Looks in a row, one with each reconcile round (15 s): a card that comes and goes must not get a job in between."""


class HostRefused(Exception):
    """An operator's wish that must not be granted; the text is for the operator."""


@transaction.atomic
def drain_host(name: str, actor: User, reason: str = "") -> bool:
    """Start nothing new there; what runs may finish. False if there is no such host."""
    drained = Host.objects.filter(name=name).update(drain=True, drain_reason=by(actor, reason))
    return told(Act.DRAINED, About.HOST, name, actor=actor, reason=reason, changed=drained)


@transaction.atomic
def resume_host(name: str, actor: User) -> bool:
    """Undo a drain. False if there is no such host."""
    resumed = Host.objects.filter(name=name).update(drain=False, drain_reason="", resumed_at=timezone.now())
    return told(Act.RESUMED, About.HOST, name, actor=actor, changed=resumed)


@transaction.atomic
def drain_device(uuid: str, actor: User, reason: str = "") -> bool:
    """Give this device to nobody any more, until an operator resumes it. False if there is no such device."""
    drained = Device.objects.filter(uuid=uuid).update(drain=True, drain_reason=by(actor, reason), drained_by_system=False)
    return told(Act.DRAINED, About.DEVICE, uuid, actor=actor, reason=reason, changed=drained)


@transaction.atomic
def resume_device(uuid: str, actor: User) -> bool:
    """Undo a drain. False if there is no such device."""
    return told(Act.RESUMED, About.DEVICE, uuid, actor=actor, changed=_resume(Device.objects.filter(uuid=uuid)))


def drain_unclean(host: str, unclean: Mapping[str, str], *, job_id: int) -> None:
    """Keep devices that a job did not give back clean (UUID -> why) from the next one."""
    for uuid, why in unclean.items():
        _drain_by_system(host, uuid, phrases.NOT_CLEAN % {"job": job_id, "why": why}, job_id=job_id)


def drain_stuck(host: str, uuids: Iterable[str], stuck: str, *, job_id: int) -> None:
    """Keep devices of a job whose processes (`stuck`) cannot be ended from the next one, also when they have gone at last."""
    for uuid in uuids:
        _drain_by_system(host, uuid, phrases.DOES_NOT_END % {"processes": stuck, "job": job_id}, job_id=job_id)


def _drain_by_system(host: str, uuid: str, reason: str, *, job_id: int | None = None) -> None:
    """Nothing where it is drained already: the first reason counts, and an operator's drain stays the operator's."""
    fields = {"drain": True, "drained_by_system": True, "drain_reason": by_us(reason)}
    if Device.objects.filter(uuid=uuid, host__name=host, drain=False).update(**fields):
        log.warning("device %s of %s drained: %s", uuid, host, reason, extra={"action": "drained", "job_id": job_id})


def drain_sick_device(host: str, uuid: str, reason: str) -> None:
    """Keep a device on which everything fails from the queue. It looks clean, so only an operator resumes it."""
    open_ = Device.objects.filter(Q(drain=False) | Q(drained_by_system=True), uuid=uuid, host__name=host)
    if open_.update(drain=True, drained_by_system=False, drain_reason=by_us(reason)):
        log.error("device %s of %s drained: %s", uuid, host, reason, extra={"action": "drained"})


def drain_sick_host(host: str, reason: str) -> None:
    """The same with a whole host."""
    if Host.objects.filter(name=host, drain=False).update(drain=True, drain_reason=by_us(reason)):
        log.error("%s drained: %s", host, reason, extra={"action": "drained"})


class Probe:
    """Looks at all devices with each reconcile round: drains those that are broken, resumes those that are well again."""

    def __init__(self) -> None:
        self._clean: dict[str, int] = {}
        """UUID of a device drained by the system -> in how many rounds in a row it was clean."""

    def look(self, heard: Mapping[str, Heard]) -> None:
        """`heard`: the fresh heartbeats. What they do not show is not known, and starts the count again."""
        readings = {d.uuid: (name, d) for name, h in heard.items() for d in h.beat.devices}
        for uuid, (name, reading) in readings.items():
            if reading.error:
                _drain_by_system(name, uuid, reading.error.rstrip("."))
        drained = Device.objects.filter(drain=True, drained_by_system=True).values_list("uuid", "host__name")
        held = _held(heard) if drained else set()
        clean = {uuid for uuid, name in drained if uuid not in held and _is_clean(readings.get(uuid), name)}
        self._clean = {uuid: self._clean.get(uuid, 0) + 1 for uuid in clean}
        for uuid in [uuid for uuid, looks in self._clean.items() if looks >= CLEAN_LOOKS]:
            del self._clean[uuid]
            if _resume(Device.objects.filter(uuid=uuid, drained_by_system=True)):
                log.info("device %s resumed: it is clean again", uuid, extra={"action": "resumed"})
                transaction.on_commit(lambda: bool(hostlink.ring()), robust=True)


def _is_clean(reading: tuple[str, DeviceReading] | None, host: str) -> bool:
    """Read without a fault, nothing of ours on it, and no memory in use that nobody accounts for."""
    if reading is None or reading[0] != host:
        return False
    device = reading[1]
    return not device.error and not device.in_use_outside and not any(process.ours for process in device.processes)


def _held(heard: Mapping[str, Heard]) -> set[str]:
    """The devices of all attempts that are open, or that a host still runs."""
    running = {attempt.fence for h in heard.values() for attempt in h.beat.attempts if attempt.running}
    lists = Attempt.objects.filter(Q(outcome="") | Q(fence__in=running)).values_list("devices", flat=True)
    return {device["uuid"] for devices in lists for device in devices}


def _resume(devices: QuerySet[Device]) -> int:
    return devices.update(drain=False, drain_reason="", drained_by_system=False, resumed_at=timezone.now())


def drain_forgetful(host: str, what: str) -> None:
    """Keep new jobs from a host that lost an attempt without a restart: its disk, or its home, is not what it was."""
    if Host.objects.filter(name=host, drain=False).update(drain=True, drain_reason=by_us(what)):
        log.error("%s drained: %s", host, what, extra={"action": "drained"})


def declare_lost(host: str, actor: User) -> int:
    """An operator states that a host is dead: its open attempts end as host_lost, and their number is returned.

    Raises HostRefused for a host that still speaks, or that could still start what was offered to it: jobs would run twice.
    """
    if not (row := Host.objects.filter(name=host).first()):
        raise HostRefused(_("There is no host %(host)s.") % {"host": host})
    _refuse_alive(host)
    now = timezone.now()
    _refuse_offered(host, now)
    with transaction.atomic():
        Host.objects.filter(pk=row.pk).update(
            state=HostState.LOST, reason=(phrases.LOST_BY % {"host": "", "person": actor.get_username()}).strip()
        )
        audit.record(actor, Act.DECLARED_LOST, About.HOST, target=host)
    log.warning("%s declared lost by %s", host, actor.get_username(), extra={"action": "declared_lost"})
    lost = 0
    for attempt in Attempt.objects.filter(outcome="", host=host).select_related("job"):
        message = eventphrases.DECLARED_LOST % {"person": actor.get_username(), "host": host}
        lost += lifecycle.ended(end_of(attempt, EndReason.HOST_LOST, message, now.timestamp()), host=host)
    return lost


def end_of(attempt: Attempt, reason: EndReason, message: str, ended_at: float) -> Ended:
    """The end of an attempt whose host cannot report it any more. Never the job's own fault."""
    return Ended(
        job=str(attempt.job.uid),
        attempt=attempt.number,
        fence=attempt.fence,
        reason=reason,
        ended_at=ended_at,
        message=message,
        own_fault=False,
        log_bytes=attempt.log_bytes,
    )


def _refuse_alive(host: str) -> None:
    try:
        heard = hostlink.heard([host]).get(host)
    except (redis.RedisError, OSError) as exc:
        raise HostRefused(_("Redis does not answer, so whether %(host)s is dead cannot be told.") % {"host": host}) from exc
    if heard and heard.age_s <= max(stale_after_s(), settings.AUTOTRAINER.host_lost_s):
        raise HostRefused(
            _("%(host)s was heard %(seconds)s s ago: drain it, or stop its agent and wait until it is unreachable.")
            % {"host": host, "seconds": f"{heard.age_s:.0f}"}
        )


def _refuse_offered(host: str, now: datetime) -> None:
    """A host that is back within a minute finds its last offers in its queue, and they are good until they expire."""
    offered = Attempt.objects.filter(outcome="", host=host, started_at=None, offer_expires_at__gt=now)
    if attempt := offered.order_by("-offer_expires_at").first():
        left_s = (attempt.offer_expires_at - now).total_seconds()
        raise HostRefused(
            _("#%(job)s was offered to %(host)s a moment ago: were it back soon, it could start it. Try in %(seconds)s s.")
            % {"job": attempt.job_id, "host": host, "seconds": f"{left_s:.0f}"}
        )


def by_us(cause: str) -> str:
    """The reason of a drain that nobody asked for."""
    return (phrases.BY_SYSTEM % {"cause": cause})[:500]


def by(actor: User, reason: str) -> str:
    return f"{actor.get_username()}{f': {reason}' if reason else ''}"[:500]


def told(act: Act, about: About, name: str, *, actor: User, changed: int, what: str = "", reason: str = "") -> bool:
    """Write down what was changed, where it was, and wake the scheduler: a resume may let a job start."""
    if changed:
        audit.record(
            actor,
            act,
            about,
            target=name,
            detail=(eventphrases.CHANGED_BECAUSE % {"changed": what, "why": reason}) if what and reason else what or reason,
        )
        why = f": {reason}" if reason else ""
        log.info("%s %s by %s%s", name, what or act, actor.get_username(), why, extra={"action": str(act)})
        transaction.on_commit(lambda: bool(hostlink.ring()), robust=True)
    return changed == 1
