"""Compares what the database believes with what the hosts show, and repairs the difference (docs/how-it-works.md,
"Repair"): everything that a lost message, a dead agent or a reboot leaves behind comes right here.

Nothing is taken back on silence alone: a host that says nothing may well be running the job. And nothing on old news: a
leader that was stopped between its look and its write may neither lead any more nor know anything.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from gpuworker import protocol
from gpuworker.protocol import EndReason
from jobs import drains, eventphrases, hostlink, lifecycle, orphans
from jobs.capacity import LEFTOVER_AFTER_S, stale_after_s
from jobs.hostlink import Heard
from jobs.models import Attempt, Dispatch, Host, Job
from jobs.scheduling import phrases
from jobs.silence import Silences
from jobs.specs import spec_of
from jobs.states import TERMINAL, WAITING, JobState
from jobs.strangers import Strangers

log = logging.getLogger(__name__)

EVERY_S = 15.0
OFFER_AGAIN_S = 30.0
OFFERS = 3
"""An attempt that did not start is offered again this often before it is taken back."""
WITHDRAW_AFTER = timedelta(seconds=60)
"""Beyond the expiry of the last offer, since clocks differ."""
MISSING_S = 30.0
"""A started attempt must be missing on its host for this long before it counts as ended."""
GONE_MARGIN_S = 60.0
"""Beyond the moment at which a silent host has ended an attempt by its own clock, before the job starts elsewhere."""
OLD_NEWS_S = 10.0
"""What was seen longer ago is no reason to write anything."""

Writing = Callable[[], AbstractContextManager[None]]

_NOT_NEEDED = [f"job__{field.attname}" for field in Job._meta.concrete_fields if field.attname not in ("id", "uid", "state")]
"""Of the jobs of thousands of attempts with which nothing is wrong."""


class OldNews(Exception):
    """The round took too long: what it saw may be over. Nothing was written; the next round looks afresh."""


class Reconciler:
    """One per term of a leader; remembers since when something has been missing."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, writing: Writing = transaction.atomic) -> None:
        self._clock, self._lead = clock, writing
        self._missing: dict[int, float] = {}
        self._seen_at = clock()
        self._probe = drains.Probe()
        self._strangers = Strangers()
        self._silences = Silences(clock)

    def round(self, now: datetime) -> None:
        """One comparison. Raises redis.RedisError; OldNews or Deposed where it must not write any more."""
        self._seen_at = self._clock()
        names = list(Host.objects.values_list("name", flat=True))
        heard = hostlink.heard(names)
        self._silences.look(names, heard)
        fresh = {name: h for name, h in heard.items() if h.age_s <= stale_after_s()}
        since = hostlink.unbroken_since()
        attempts = list(Attempt.objects.filter(outcome="").select_related("job").defer(*_NOT_NEEDED))
        for attempt in attempts:
            host = fresh.get(attempt.host)
            if not host and self._is_gone(attempt, heard.get(attempt.host), now, since):
                self._end_gone(attempt, now)
            elif attempt.started_at is not None and host:
                self._see_to_missing(attempt, host, now)
            elif attempt.started_at is None and host:
                self._see_to_offer(attempt, host, now)
            elif attempt.started_at is None:
                self._see_to_unheard_offer(attempt, now, since)
            if attempt.job.state == JobState.STOPPING:
                lifecycle.send_stop(attempt.job_id)
        self._forget({a.fence for a in attempts})
        with self._writing():
            end_stopped_without_attempt()
            give_up_dependents()
            orphans.hold_their_jobs(fresh)
            self._probe.look(fresh)
            self._strangers.look(fresh, attempts)
            _tell_ended_overlays(fresh, attempts)
        _stop_leftovers(fresh, attempts)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lead():
            if self._clock() - self._seen_at > OLD_NEWS_S:
                raise OldNews(f"{self._clock() - self._seen_at:.0f} s have passed since the look")
            yield

    # --- started attempts -----------------------------------------------------------------------------------------------

    def _see_to_missing(self, attempt: Attempt, host: Heard, now: datetime) -> None:
        """End a started attempt that its host does not have (any more), cannot tell the end of, and has no report about."""
        rebooted = bool(attempt.boot_id) and host.beat.boot_id != attempt.boot_id
        if (_lists(host, attempt) and not rebooted) or hostlink.waiting_reports(attempt.host):
            self._missing.pop(attempt.fence, None)
            return
        missing_s = self._clock() - self._missing.setdefault(attempt.fence, self._clock())
        if missing_s < MISSING_S or not _was_after(host, attempt.started_at):
            hostlink.ask_again(attempt.host, job=str(attempt.job.uid), attempt=attempt.number, fence=attempt.fence)
            return
        with self._writing():
            _end_missing(attempt, rebooted=rebooted, now=now)

    # --- hosts that have ended an attempt by their own clock ------------------------------------------------------------

    def _is_gone(self, attempt: Attempt, heard: Heard | None, now: datetime, since: datetime) -> bool:
        """Whether a silent host has, by what was agreed at the dispatch, nothing of this attempt any more.

        Both clocks must say so: ours and that of Redis. And it must be the Redis that the host speaks to: one that was restarted,
        emptied or put in another's place since the last contact proves nothing, and an operator has to say `lost`.
        """
        if attempt.gone_after_s is None:
            return False
        wait_s = attempt.gone_after_s + GONE_MARGIN_S
        last = now - timedelta(seconds=heard.age_s) if heard else attempt.created_at
        return (
            self._silences.seconds(attempt.host) >= wait_s
            and now - last >= timedelta(seconds=wait_s)
            and since <= last
            and (attempt.started_at is not None or now >= attempt.offer_expires_at + WITHDRAW_AFTER)
            and not hostlink.waiting_reports(attempt.host)
        )

    def _end_gone(self, attempt: Attempt, now: datetime) -> None:
        silent_s = self._silences.seconds(attempt.host)
        message = f"{attempt.host} has not been heard for {silent_s:.0f} s, and has ended it meanwhile by its own clock"
        with self._writing():
            lifecycle.ended(drains.end_of(attempt, EndReason.HOST_LOST, message, now.timestamp()), host=attempt.host)

    def _forget(self, open_fences: set[int]) -> None:
        self._missing = {fence: since for fence, since in self._missing.items() if fence in open_fences}

    # --- offers ---------------------------------------------------------------------------------------------------------

    def _see_to_offer(self, attempt: Attempt, host: Heard, now: datetime) -> None:
        """Offer again what was not started; take it back once nothing can start it and its host shows that nothing did."""
        if _lists(host, attempt):
            return
        offered_at = attempt.offer_expires_at - timedelta(seconds=protocol.SPEC_LIFETIME_S)
        young = now - attempt.created_at < timedelta(seconds=OFFERS * OFFER_AGAIN_S + EVERY_S)
        if attempt.job.state == JobState.STARTING and young:
            if now - offered_at >= timedelta(seconds=OFFER_AGAIN_S):
                self._offer_again(attempt, now)
        elif now < attempt.offer_expires_at + WITHDRAW_AFTER or not _was_after(host, attempt.offer_expires_at):
            return
        elif not hostlink.waiting_reports(attempt.host):
            with self._writing():
                waited_s = (now - attempt.created_at).total_seconds()
                lifecycle.withdraw(attempt, eventphrases.TOO_LATE % {"host": attempt.host, "seconds": f"{waited_s:.0f}"})

    def _offer_again(self, attempt: Attempt, now: datetime) -> None:
        hostlink.ask_again(attempt.host, job=str(attempt.job.uid), attempt=attempt.number, fence=attempt.fence)
        with self._writing():
            renewed = lifecycle.renew_offer(attempt, now=now)
        if renewed:
            log.info("offered again to %s", attempt.host, extra={"action": "offered_again", "job_id": attempt.job_id})
            job = Job.objects.get(pk=attempt.job_id)
            hostlink.offer(job, spec_of(job, attempt), attempt.host)

    def _see_to_unheard_offer(self, attempt: Attempt, now: datetime, since: datetime) -> None:
        """Its host is silent and may have started it, so silence proves nothing. But nothing starts without a claim in Redis."""
        if now < attempt.offer_expires_at + WITHDRAW_AFTER or attempt.created_at < since or hostlink.waiting_reports(attempt.host):
            return
        if hostlink.bar(attempt.host, job=str(attempt.job.uid), fence=attempt.fence):
            with self._writing():
                lifecycle.withdraw(attempt, eventphrases.FELL_SILENT % {"host": attempt.host})


def _was_after(host: Heard, moment: datetime | None) -> bool:
    """Whether this heartbeat was sent after a moment, by the host's own clock: an earlier one, said again by whoever can write
    into Redis, does not tell what came of it. A host starts nothing after the expiry of an offer by that same clock."""
    return moment is not None and host.beat.at > moment.timestamp()


def _lists(host: Heard, attempt: Attempt) -> bool:
    """Whether a host shows this very attempt: after a restored backup another job's may have its fence."""
    same = (a for a in host.beat.attempts if a.fence == attempt.fence)
    return any((a.attempt, a.job) == (attempt.number, str(attempt.job.uid)) for a in same)


def _end_missing(attempt: Attempt, *, rebooted: bool, now: datetime) -> None:
    if rebooted:
        reason, message = EndReason.HOST_LOST, eventphrases.STARTED_AGAIN % {"host": attempt.host}
    else:
        reason, message = EndReason.EXIT_LOST, eventphrases.KNOWS_NOTHING % {"host": attempt.host}
    ended = lifecycle.ended(drains.end_of(attempt, reason, message, now.timestamp()), host=attempt.host)
    if ended and not rebooted:
        drains.drain_forgetful(attempt.host, phrases.FORGETFUL % {"attempt": attempt})


# --- jobs without attempts ----------------------------------------------------------------------------------------------


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
    for job in Job.objects.filter(state=JobState.STOPPING).exclude(attempts__outcome=""):
        lifecycle.end_stopped(job.pk)


# --- what runs although it is over --------------------------------------------------------------------------------------


def _stop_leftovers(fresh: Mapping[str, Heard], opened: list[Attempt]) -> None:
    """Stop what runs on although it is over in the database: the trainings of a host that was declared lost and came back.
    `opened`: those that were open at the look, and so are no leftovers."""
    running = {(a.fence, a.job, a.attempt, name): h.beat.at for name, h in fresh.items() for a in h.beat.attempts if a.running}
    for attempt in opened:
        running.pop((attempt.fence, str(attempt.job.uid), attempt.number, attempt.host), None)
    fences = [fence for fence, *_ in running if fence < 2**63]
    if not fences:
        return
    over = Attempt.objects.filter(fence__in=fences).exclude(outcome="").values_list("fence", "job__uid", "number", "host", "ended_at")
    withdrawn = Dispatch.objects.filter(pk__in=fences).exclude(refusal="")
    taken_back = withdrawn.values_list("pk", "job__uid", "attempt_number", "host", "created_at")
    for fence, uid, number, host, ended_at in [*over, *taken_back]:
        beat_at = running.get((fence, str(uid), number, host))
        if beat_at and ended_at and beat_at > ended_at.timestamp() + LEFTOVER_AFTER_S:
            key = protocol.attempt_key(str(uid), number, fence)
            log.warning("%s still runs %s, which is over: stopping it", host, key, extra={"action": "leftover_stopped"})
            grace_s = settings.AUTOTRAINER.kill_grace_s
            hostlink.stop_on(host, job=str(uid), attempt=number, fence=fence, kill_grace_s=grace_s)


def _tell_ended_overlays(fresh: Mapping[str, Heard], attempts: list[Attempt]) -> None:
    """Say where a job sees a swapped file no more, because somebody replaced the file outside."""
    uncovered = {a.fence: a.uncovered for h in fresh.values() for a in h.beat.attempts if a.uncovered}
    for attempt in attempts:
        for target in uncovered.get(attempt.fence, ()):
            lifecycle.overlay_ended(attempt, target)
