"""Compares what the database believes with what the hosts show, and repairs the difference (docs/how-it-works.md,
"Repair"): everything that a lost message, a dead agent or a reboot leaves behind comes right here.

Nothing is taken back on silence alone: a host that says nothing may well be running the job.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from django.conf import settings

from gpuworker import protocol
from gpuworker.protocol import EndReason
from jobs import hostlink, lifecycle
from jobs.capacity import LEFTOVER_AFTER_S, stale_after_s
from jobs.drains import end_of
from jobs.hostlink import Heard
from jobs.models import Attempt, Host, Job
from jobs.states import TERMINAL, WAITING, JobState

log = logging.getLogger(__name__)

EVERY_S = 15.0
OFFER_AGAIN_S = 30.0
OFFERS = 3
"""An attempt that did not start is offered again this often before it is taken back."""
WITHDRAW_AFTER = timedelta(seconds=60)
"""Beyond the expiry of the last offer, since clocks differ."""
MISSING_S = 30.0
"""A started attempt must be missing on its host for this long before it counts as ended."""


class Reconciler:
    """One per leader; remembers since when something has been missing."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._missing: dict[int, float] = {}

    def round(self, now: datetime) -> None:
        """One comparison. Raises redis.RedisError."""
        heard = hostlink.heard(Host.objects.values_list("name", flat=True))
        fresh = {name: h for name, h in heard.items() if h.age_s <= stale_after_s()}
        attempts = list(Attempt.objects.filter(outcome="").select_related("job"))
        for attempt in attempts:
            if attempt.started_at is None:
                _see_to_offer(attempt, fresh.get(attempt.host), now)
            elif host := fresh.get(attempt.host):
                self._see_to_missing(attempt, host, now)
            if attempt.job.state == JobState.STOPPING:
                lifecycle.send_stop(attempt.job_id)
        self._forget({a.fence for a in attempts})
        end_stopped_without_attempt()
        give_up_dependents()
        _stop_leftovers(fresh)

    def _see_to_missing(self, attempt: Attempt, host: Heard, now: datetime) -> None:
        """End a started attempt that its host does not have (any more) and has no report about."""
        rebooted = bool(attempt.boot_id) and host.beat.boot_id != attempt.boot_id
        listed = any(a.fence == attempt.fence for a in host.beat.attempts)
        if (listed and not rebooted) or hostlink.waiting_reports(attempt.host):
            self._missing.pop(attempt.fence, None)
            return
        since = self._missing.setdefault(attempt.fence, self._clock())
        if self._clock() - since < MISSING_S:
            return
        reason = EndReason.HOST_LOST if rebooted else EndReason.EXIT_LOST
        message = f"{attempt.host} was started again meanwhile" if rebooted else f"{attempt.host} knows nothing of it any more"
        lifecycle.ended(end_of(attempt, reason, message, now.timestamp()), host=attempt.host)

    def _forget(self, open_fences: set[int]) -> None:
        self._missing = {fence: since for fence, since in self._missing.items() if fence in open_fences}


def _see_to_offer(attempt: Attempt, host: Heard | None, now: datetime) -> None:
    """Offer again what was not started; take it back once nothing can start it any more and its host shows that nothing did."""
    if host is None or any(a.fence == attempt.fence for a in host.beat.attempts):
        return
    offered_at = attempt.offer_expires_at - timedelta(seconds=protocol.SPEC_LIFETIME_S)
    young = now - attempt.created_at < timedelta(seconds=OFFERS * OFFER_AGAIN_S + EVERY_S)
    if attempt.job.state == JobState.STARTING and young:
        if now - offered_at >= timedelta(seconds=OFFER_AGAIN_S) and lifecycle.renew_offer(attempt, now=now):
            log.info("offered again to %s", attempt.host, extra={"action": "offered_again", "job_id": attempt.job_id})
            hostlink.offer(attempt.job, lifecycle.spec_of(attempt.job, attempt), attempt.host)
    elif now >= attempt.offer_expires_at + WITHDRAW_AFTER and not hostlink.waiting_reports(attempt.host):
        lifecycle.withdraw(attempt, f"{attempt.host} did not start it within {(now - attempt.created_at).total_seconds():.0f} s.")


def give_up_dependents() -> None:
    """Waiting jobs whose parents failed or were cancelled will never start: they end, and then those that wait for them."""
    while dead := _dead_children():
        if not any([lifecycle.give_up_dependents(child, parent) for child, parent in dead]):
            return


def _dead_children() -> list[tuple[int, Job]]:
    links = Job.after.through._default_manager.filter(
        from_job__state__in=WAITING, to_job__state__in=TERMINAL - {JobState.COMPLETED}
    ).select_related("to_job")
    return [(link.from_job_id, link.to_job) for link in links[:500]]


def end_stopped_without_attempt() -> None:
    """A stopping job always has an open attempt; where it has none after all, nothing is left to stop."""
    orphans = Job.objects.filter(state=JobState.STOPPING).exclude(attempts__outcome="")
    for job in orphans:
        lifecycle.end_stopped(job.pk)


def _stop_leftovers(fresh: dict[str, Heard]) -> None:
    """Stop what runs on although it is over in the database: the trainings of a host that was declared lost and came back."""
    running = {a.fence: (name, h.beat.at) for name, h in fresh.items() for a in h.beat.attempts if a.running}
    ended = Attempt.objects.filter(fence__in=running).exclude(outcome="").select_related("job")
    for attempt in ended:
        host, beat_at = running[attempt.fence]
        if host == attempt.host and attempt.ended_at and beat_at > attempt.ended_at.timestamp() + LEFTOVER_AFTER_S:
            log.warning("%s still runs attempt %s, which is over: stopping it", host, attempt, extra={"action": "leftover_stopped"})
            hostlink.stop(attempt, job_uid=str(attempt.job.uid), kill_grace_s=settings.AUTOTRAINER.kill_grace_s)
