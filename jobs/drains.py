"""What operators decide about hosts and devices, and what a job that leaves a device unclean decides for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import redis
from django.conf import settings
from django.utils import timezone

from gpuworker.protocol import Ended, EndReason
from jobs import hostlink, lifecycle
from jobs.capacity import stale_after_s
from jobs.models import Attempt, Device, Host, User
from jobs.states import HostState

log = logging.getLogger(__name__)


class HostRefused(Exception):
    """An operator's wish that must not be granted; the text is for the operator."""


def drain_host(name: str, actor: User, reason: str = "") -> bool:
    """Start nothing new there; what runs may finish. False if there is no such host."""
    return _told("drained", name, actor, reason, Host.objects.filter(name=name).update(drain=True, drain_reason=_by(actor, reason)))


def resume_host(name: str, actor: User) -> bool:
    """Undo a drain. False if there is no such host."""
    return _told("resumed", name, actor, "", Host.objects.filter(name=name).update(drain=False, drain_reason=""))


def drain_device(uuid: str, actor: User, reason: str = "") -> bool:
    """Give this device to nobody any more. False if there is no such device."""
    return _told("drained", uuid, actor, reason, Device.objects.filter(uuid=uuid).update(drain=True, drain_reason=_by(actor, reason)))


def resume_device(uuid: str, actor: User) -> bool:
    """Undo a drain. False if there is no such device."""
    return _told("resumed", uuid, actor, "", Device.objects.filter(uuid=uuid).update(drain=False, drain_reason=""))


def drain_unclean(host: str, unclean: Mapping[str, str], *, job_id: int) -> None:
    """Keep devices that a job did not give back clean (UUID -> why) from the next one, until an operator resumes them."""
    for uuid, why in unclean.items():
        reason = f"AutoTrainer: #{job_id} did not give it back clean ({why})"[:500]
        if Device.objects.filter(uuid=uuid, host__name=host, drain=False).update(drain=True, drain_reason=reason):
            log.warning("device %s of %s drained: %s", uuid, host, why, extra={"action": "drained", "job_id": job_id})


def drain_forgetful(host: str, what: str) -> None:
    """Keep new jobs from a host that lost an attempt without a restart: its disk, or its home, is not what it was."""
    reason = f"AutoTrainer: {what}"[:500]
    if Host.objects.filter(name=host, drain=False).update(drain=True, drain_reason=reason):
        log.error("%s drained: %s", host, what, extra={"action": "drained"})


def declare_lost(host: str, actor: User) -> int:
    """An operator states that a host is dead: its open attempts end as host_lost, and their number is returned.

    Raises HostRefused for a host that still speaks: its jobs would run twice.
    """
    if not (row := Host.objects.filter(name=host).first()):
        raise HostRefused(f"There is no host {host}.")
    _refuse_alive(host)
    now = timezone.now()
    Host.objects.filter(pk=row.pk).update(state=HostState.LOST, reason=f"was declared lost by {actor.get_username()}")
    log.warning("%s declared lost by %s", host, actor.get_username(), extra={"action": "declared_lost"})
    lost = 0
    for attempt in Attempt.objects.filter(outcome="", host=host).select_related("job"):
        message = f"{actor.get_username()} declared {host} lost"
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
        raise HostRefused(f"Redis does not answer, so whether {host} is dead cannot be told.") from exc
    if heard and heard.age_s <= max(stale_after_s(), settings.AUTOTRAINER.host_lost_s):
        raise HostRefused(f"{host} was heard {heard.age_s:.0f} s ago: drain it, or stop its agent and wait until it is unreachable.")


def _by(actor: User, reason: str) -> str:
    return f"{actor.get_username()}{f': {reason}' if reason else ''}"[:500]


def _told(what: str, name: str, actor: User, reason: str, changed: int) -> bool:
    if changed:
        log.info("%s %s by %s%s", name, what, actor.get_username(), f": {reason}" if reason else "", extra={"action": what})
        hostlink.ring()  # a resume may let a job start
    return changed == 1
