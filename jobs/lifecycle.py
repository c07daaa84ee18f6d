"""The only writer of job states: each transition is a compare-and-set and one JobEvent, in one transaction.

A function here answers False (or None) where it lost a race or the transition is not possible from the present state;
the caller says so to whoever asked. Messages go out after the commit only, and nothing depends on their arrival.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from gpuworker import failpoints, protocol
from gpuworker.protocol import Ended, Refused, Started
from jobs import audit, capacity, eventphrases, hostlink, line, settlement, swaps
from jobs.models import Attempt, Dispatch, Job, JobEvent, User
from jobs.models.audit import About, Act
from jobs.notifications import outbox
from jobs.scheduling import phrases, words
from jobs.scheduling.shortage import Shortage, shortage
from jobs.settlement import moment
from jobs.states import ACTIVE, WAITING, JobState, Line, OnHostLoss, WaitReason, may_follow

log = logging.getLogger(__name__)

FILE_WAIT_S, LONGEST_FILE_WAIT_S = 5.0, 600.0
_TRY_LATER = {"file_in_use": WaitReason.FILE_IN_USE, "content_missing": WaitReason.BACKOFF}
"""Refusals that would only be repeated: the code, and why the job waits."""

on_wake: list[Callable[[], None]] = []
"""Called after a commit that may let a job start; the scheduler of this process adds its own."""


REFUSALS_COUNT_FOR = timedelta(minutes=10)
REFUSED_AT_ONCE = 3
LONGEST_REFUSED_S = 30.0


# --- what people do -----------------------------------------------------------------------------------------------------


def submit(owner: User, fields: Mapping[str, Any], *, after: Collection[Job] = (), hold: bool = False) -> Job:
    """A new job of `owner` from validated fields. It is safe on disk when this returns; the scheduler is told on commit."""
    state = JobState.HELD if hold else JobState.QUEUED
    place = line.first_place(fields, free=not (hold or after or fields.get("begin_at")))
    with transaction.atomic():
        fields = _with_contents(fields, owner)
        held = _held_by(owner) if hold else {}
        job = Job.objects.create(owner=owner, state=state, created_at=timezone.now(), **held, **place, **fields)
        if after:
            job.after.set(after)
        transaction.on_commit(lambda: failpoints.hit("submit.committed"))
        _event(
            job.pk,
            "submitted",
            (eventphrases.SUBMITTED_HELD if hold else eventphrases.SUBMITTED) % {"person": owner.get_username()},
            actor=owner,
        )
        _wake_on_commit(job)
        failpoints.hit("submit.uncommitted")
    return job


def _with_contents(fields: Mapping[str, Any], owner: User) -> Mapping[str, Any]:
    """The contents of swapped files are stored with the job, in the same transaction."""
    return {**fields, "swaps": swaps.kept(fields["swaps"], owner)} if fields.get("swaps") else fields


def edit(job: Job, changes: Mapping[str, Any], *, after: Collection[Job] | None = None, actor: User) -> bool:
    """Change a job that has not started; False if it has."""
    with transaction.atomic():
        _locked(job.pk)  # PostgreSQL would look for attempts as of before it waited for a start to be committed.
        changes = _with_contents(changes, job.owner)
        if Job.objects.filter(pk=job.pk, state__in=WAITING, attempts__isnull=True).update(line=Line.NEW, **changes) != 1:
            return False
        if after is not None:
            job.after.set(after)
        names = sorted([*changes, *(["after"] if after is not None else [])])
        _event(
            job.pk,
            "edited",
            eventphrases.EDITED % {"person": actor.get_username(), "fields": ", ".join(names)},
            actor=actor,
            data={"fields": names},
        )
        _wake_on_commit(job)
    return True


def hold(job: Job, *, actor: User) -> bool:
    """Keep a queued job from starting; False if it is not queued."""
    message = eventphrases.HELD % {"person": actor.get_username()}
    return _move(job.pk, {JobState.QUEUED}, JobState.HELD, "held", message, actor=actor, **_held_by(actor))


def _held_by(actor: User) -> dict[str, Any]:
    return {"wait_code": WaitReason.HELD, "wait_message": phrases.HELD % {"person": actor.get_username()}}


def release(job: Job, *, actor: User) -> bool:
    """Let a held job wait for its turn again, with a fresh infrastructure budget; False if it is not held."""
    with transaction.atomic():
        moved = _move(
            job.pk,
            {JobState.HELD},
            JobState.QUEUED,
            "released",
            eventphrases.RELEASED % {"person": actor.get_username()},
            actor=actor,
            wait_code="",
            wait_message="",
            faults=0,
        )
        if moved:
            _wake_on_commit(job)
    return moved


def cancel(job: Job, *, actor: User) -> bool:
    """End a job: at once where it waits, else by stopping its attempt. False if it is over; True again where it is stopping."""
    name = actor.get_username()
    with transaction.atomic():
        _locked(job.pk)
        if _end(job.pk, WAITING, JobState.CANCELLED, eventphrases.CANCELLED % {"person": name}, actor=actor):
            _wake_on_commit(job)
            return True
        if _move(
            job.pk,
            {JobState.STARTING, JobState.RUNNING},
            JobState.STOPPING,
            "stopping",
            eventphrases.BEING_CANCELLED % {"person": name},
            actor=actor,
            cancel_requested_at=timezone.now(),
        ):
            transaction.on_commit(lambda: send_stop(job.pk), robust=True)
            return True
    return Job.objects.filter(pk=job.pk, state=JobState.STOPPING).exists()


def resubmit(job: Job, *, actor: User, changes: Mapping[str, Any] | None = None) -> Job:
    """A new job of `actor`, copied from an old one."""
    fields = {name: getattr(job, name) for name in COPIED} | dict(changes or {})
    copy = submit(actor, fields)
    _event(copy.pk, "copied", eventphrases.COPIED % {"job": job.pk}, actor=actor, data={"from": job.pk})
    return copy


COPIED = (
    *(
        "name",
        "command",
        "working_dir",
        "min_gpus",
        "max_gpus",
        "gpu_memory_mib",
        "shared",
        "max_retries",
        "retry_delay_s",
        "retry_on_oom",
        "time_limit_s",
    ),
    *("priority", "hosts", "env", "swaps", "artifacts", "notify", "on_host_loss", "environment"),
)
"""What a resubmitted job takes over; not the moment to begin at, nor whom to wait for."""


def send_stop(job_id: int) -> None:
    """Tell the host of a stopping job's open attempt to end it. Safe to repeat."""
    failpoints.hit("stop.committed")
    attempt = Attempt.objects.filter(job_id=job_id, outcome="", job__state=JobState.STOPPING).select_related("job").first()
    if attempt:
        hostlink.stop(attempt, job_uid=str(attempt.job.uid), kill_grace_s=settings.AUTOTRAINER.kill_grace_s)
        failpoints.hit("stop.sent")


# --- what the scheduler does --------------------------------------------------------------------------------------------


def dispatch(job: Job, *, host: str, devices: list[dict[str, Any]], now: datetime) -> Attempt | None:
    """queued -> starting, with an attempt and a fence of its own; None if the job is no longer queued. Sends nothing."""
    expires_at = now + timedelta(seconds=protocol.SPEC_LIFETIME_S)
    where = f"{host}{_named(devices)}"
    with transaction.atomic(savepoint=False):
        if not _move(
            job.pk,
            {JobState.QUEUED},
            JobState.STARTING,
            "dispatched",
            eventphrases.STARTING % {"attempt": job.next_attempt, "where": where},
            attempt=job.next_attempt,
            wait_code="",
            wait_message="",
            progress=None,
            progress_at=None,
        ):
            return None
        offered = Dispatch.objects.create(job=job, attempt_number=job.next_attempt, host=host, created_at=now)
        return Attempt.objects.create(
            job=job,
            number=job.next_attempt,
            fence=offered.pk,
            host=host,
            devices=devices,
            offer_expires_at=expires_at,
            gone_after_s=settings.AUTOTRAINER.requeue_after_s if job.on_host_loss == OnHostLoss.REQUEUE else None,
            created_at=now,
        )


def renew_offer(attempt: Attempt, *, now: datetime) -> bool:
    """The same offer (same fence) for another minute; False if the attempt has started or ended meanwhile."""
    expires_at = now + timedelta(seconds=protocol.SPEC_LIFETIME_S)
    open_offer = Attempt.objects.filter(pk=attempt.pk, outcome="", started_at=None, job__state=JobState.STARTING)
    if open_offer.update(offer_expires_at=expires_at) != 1:
        return False
    attempt.offer_expires_at = expires_at
    return True


def overlay_ended(attempt: Attempt, target: str) -> bool:
    """Somebody replaced a file outside, which ends its overlay inside; said once for each target."""
    told = JobEvent.objects.filter(job_id=attempt.job_id, attempt=attempt.number, type="overlay_ended", data__target=target)
    if told.exists():
        return False
    message = eventphrases.OVERLAY_ENDED % {"target": target, "attempt": attempt.number}
    _event(attempt.job_id, "overlay_ended", message, attempt=attempt.number, data={"target": target})
    return True


def end_stopped(job_id: int) -> bool:
    """stopping -> cancelled, for a job that has no open attempt; False if it has one, or is not stopping."""
    with transaction.atomic():
        _locked(job_id)
        if Attempt.objects.filter(job_id=job_id, outcome="").exists():
            return False
        return _end(job_id, {JobState.STOPPING}, JobState.CANCELLED, eventphrases.NOTHING_LEFT)


def hold_because(job_id: int, why: str, mend: str) -> bool:
    """Keep a queued job from starting until a person has looked; False if it is not queued."""
    message = " ".join([eventphrases.HELD_BECAUSE % {"cause": why}, mend])
    return _move(
        job_id, {JobState.QUEUED}, JobState.HELD, "held", message, wait_code=WaitReason.HELD, wait_message=message, not_before=None
    )


def give_up_dependents(job_id: int, parent: Job) -> bool:
    """A queued job whose parent failed or was cancelled is cancelled too, with the reason."""
    why = eventphrases.PARENT_FAILED if parent.state == JobState.FAILED else eventphrases.PARENT_CANCELLED
    return _end(job_id, WAITING, JobState.CANCELLED, why % {"job": parent.pk, "name": parent.name})


# --- what hosts report --------------------------------------------------------------------------------------------------


def started(report: Started, *, host: str) -> bool:
    """starting -> running; False if this dispatch is not the open one (an old or repeated report)."""
    attempt = open_attempt(report.job, report.attempt, report.fence, host)
    if attempt is None or attempt.started_at is not None:
        return False
    devices = [{"uuid": d.uuid, "index": d.index} for d in report.devices]
    at = moment(report.started_at)
    with transaction.atomic():
        _locked(attempt.job_id)
        mine = Attempt.objects.filter(pk=attempt.pk, outcome="", started_at=None)
        if mine.update(started_at=at, devices=devices, boot_id=report.boot_id, pid=report.pid, start_ticks=report.start_ticks) != 1:
            return False
        Job.objects.filter(pk=attempt.job_id, started_at=None).update(started_at=at)
        message = eventphrases.RUNNING % {"attempt": attempt.number, "where": f"{host}{_named(devices)}"}
        moved = _move(
            attempt.job_id,
            {JobState.STARTING},
            JobState.RUNNING,
            "attempt_started",
            message,
            attempt=attempt.number,
            data={"devices": devices},
        )
        if not moved:  # a cancel came first: the state stays `stopping`, the fact is still told
            _event(attempt.job_id, "attempt_started", message, attempt=attempt.number, data={"devices": devices})
            transaction.on_commit(lambda: send_stop(attempt.job_id), robust=True)
        if report.swapped:
            message, data = swaps.told_swapped(attempt.number, report.swapped)
            _event(attempt.job_id, "files_swapped", message, attempt=attempt.number, data=data)
        failpoints.hit("ingest.start_uncommitted")
    return True


def refused(report: Refused, *, host: str) -> bool:
    """The host did not start this dispatch and never will: back to the old place in the queue, no retry spent."""
    attempt = open_attempt(report.job, report.attempt, report.fence, host)
    if attempt is None or attempt.started_at is not None:
        return False
    return withdraw(attempt, eventphrases.REFUSED % {"host": host, "why": report.message.rstrip(".")}, **_later(attempt, report))


def _later(attempt: Attempt, report: Refused) -> dict[str, Any]:
    """Columns for a job that would be refused again at once: it waits a little, longer each time, or until the file is free."""
    if report.code not in _TRY_LATER:
        return {}
    before = Dispatch.objects.filter(job_id=attempt.job_id, attempt_number=attempt.number).exclude(refusal="").count()
    delay_s = min(LONGEST_FILE_WAIT_S, FILE_WAIT_S * 2 ** min(before, 10))
    wait = {"not_before": timezone.now() + timedelta(seconds=delay_s), "wait_message": report.message[:1000]}
    return wait | {"wait_code": _TRY_LATER[report.code]}


def withdraw(attempt: Attempt, reason: str, **later: Any) -> bool:
    """Take back a dispatch that provably never started; the attempt number is used again.

    At once, the first time; where hosts go on refusing it, later and later, or the two would do nothing else. `later`:
    the columns of a wait that has a reason of its own.
    """
    with transaction.atomic():
        _locked(attempt.job_id)
        if not Attempt.objects.filter(pk=attempt.pk, outcome="", started_at=None).delete()[0]:
            return False
        waiting = _after_refusals(attempt, timezone.now())
        Dispatch.objects.filter(pk=attempt.fence).update(refusal=reason[:1000])
        if _end(attempt.job_id, {JobState.STOPPING}, JobState.CANCELLED, eventphrases.NEVER_STARTED, attempt=attempt.number):
            return True
        message = eventphrases.BACK % {"cause": reason}
        _move(attempt.job_id, {JobState.STARTING}, JobState.QUEUED, "requeued", message, attempt=attempt.number, **(waiting | later))
        failpoints.hit("ingest.refusal_uncommitted")
        _wake_on_commit()
    return True


def _after_refusals(attempt: Attempt, now: datetime) -> dict[str, Any]:
    """When a job may be offered again, by how often this attempt of it was taken back lately."""
    lately = Dispatch.objects.filter(job_id=attempt.job_id, attempt_number=attempt.number, created_at__gt=now - REFUSALS_COUNT_FOR)
    before = lately.exclude(refusal="").count()
    if before < REFUSED_AT_ONCE:
        return {"not_before": None}
    delay_s = min(LONGEST_REFUSED_S, 2.0 ** (before - REFUSED_AT_ONCE))
    told = eventphrases.TAKEN_BACK % {"n": before + 1, "span": words.delay(delay_s)}
    return {"not_before": now + timedelta(seconds=delay_s), "wait_code": WaitReason.BACKOFF, "wait_message": told}


def ended(report: Ended, *, host: str) -> bool:
    """Close an attempt and settle its job; False if another report closed it first (a restarted agent repeats its reports)."""
    attempt = open_attempt(report.job, report.attempt, report.fence, host)
    if attempt is None:
        return False
    short = _shortage(attempt, report) if report.oom_detected else None
    with transaction.atomic():
        job = _locked(attempt.job_id)  # before the attempt, as everywhere: a cancel that runs now comes before or after, never between
        closed = Attempt.objects.filter(pk=attempt.pk, outcome="").update(
            outcome=settlement.outcome_of(report),
            exit_code=report.exit_code,
            signal=report.signal,
            oom_detected=report.oom_detected,
            peak_memory_mib=report.peak_memory_mib,
            own_fault=report.own_fault,
            message=report.message,
            log_bytes=report.log_bytes,
            started_at=attempt.started_at or (moment(report.started_at) if report.started_at else None),
            ended_at=moment(report.ended_at),
            devices=[{"uuid": d.uuid, "index": d.index} for d in report.devices] or attempt.devices,
        )
        if closed != 1:
            return False
        for kind, message, data in swaps.told_put_back(attempt.number, report.put_back):
            _event(job.pk, kind, message, attempt=attempt.number, data=data)
        if report.put_back:  # Who waited for these files need not wait for their next try.
            Job.objects.filter(state=JobState.QUEUED, wait_code=WaitReason.FILE_IN_USE).update(not_before=None, line=Line.NEW)
        to = settlement.settle(job, report, now=timezone.now(), shortage=short)
        old = {JobState(job.state)} & ACTIVE
        for kind, message in settlement.about_log(report):
            _event(job.pk, kind, message, attempt=attempt.number)
        data = to.data | ({"devices_clean": not report.unclean} if report.devices else {})
        _move(job.pk, old, to.state, to.event, to.message, attempt=attempt.number, data=data, **to.fields)
        if to.state is JobState.COMPLETED:
            line.look_again_at_children(job.pk)
        failpoints.hit("ingest.end_uncommitted")
        _wake_on_commit()
    return True


def _shortage(attempt: Attempt, report: Ended) -> Shortage | None:
    """What it had and what else there is. Asked before the transaction: Redis may take its time."""
    uuids = {d.uuid for d in report.devices} or {d["uuid"] for d in attempt.devices}
    if not uuids:
        return None  # It says so of something else.
    return shortage(line.request_of_job(attempt.job), uuids, peak_mib=report.peak_memory_mib, hosts=capacity.hosts_now())


def note(attempt: Attempt, kind: str, message: str, data: dict[str, Any], *, once_for: str = "") -> bool:
    """Tell something about an attempt that changes no state; False where it was told before (hosts repeat their reports).

    `once_for`: what in `data` it is about, where there may be several.
    """
    with transaction.atomic():
        _locked(attempt.job_id)
        about = {f"data__{once_for}": data[once_for]} if once_for else {}
        if JobEvent.objects.filter(job_id=attempt.job_id, attempt=attempt.number, type=kind, **about).exists():
            return False
        _event(attempt.job_id, kind, message, attempt=attempt.number, data=data)
    log.warning("%s", message, extra={"action": kind, "job_id": attempt.job_id, "attempt": attempt.number})
    return True


# --- the one way to change a state --------------------------------------------------------------------------------------


def _locked(job_id: int) -> Job:
    """The job as it is now, kept so until the transaction ends (SQLite has but one writer at a time anyway)."""
    return Job.objects.select_for_update().get(pk=job_id)


def _move(
    job_id: int,
    old: Iterable[JobState],
    new: JobState,
    kind: str,
    message: str,
    *,
    actor: User | None = None,
    attempt: int | None = None,
    data: dict[str, Any] | None = None,
    **fields: Any,
) -> bool:
    """Compare-and-set a job's state and add the event that tells it; False if the job is in none of the old states."""
    old = list(old)
    if new is JobState.QUEUED:
        fields["line"] = Line.NEW
    if wrong := [state for state in old if not may_follow(state, new)]:
        raise ValueError(f"a job never goes from {', '.join(wrong)} to {new}")
    with transaction.atomic(savepoint=False):
        if Job.objects.filter(pk=job_id, state__in=old).update(state=new, **fields) != 1:
            return False
        _event(job_id, kind, message, actor=actor, attempt=attempt, data=data)
    log.info("%s", message, extra={"action": kind, "job_id": job_id, "attempt": attempt})
    return True


def _end(job_id: int, old: Iterable[JobState], new: JobState, message: str, *, at: datetime | None = None, **rest: Any) -> bool:
    ending: dict[str, Any] = {"ended_at": at or timezone.now(), "wait_code": "", "wait_message": "", "not_before": None}
    return _move(job_id, old, new, new.value, message, **ending, **rest)


def _event(
    job_id: int, kind: str, message: str, *, actor: User | None = None, attempt: int | None = None, data: dict[str, Any] | None = None
) -> None:
    told = {"actor": actor, "attempt": attempt, "message": message, "data": data or {}}
    if actor and kind != "copied":  # which `submitted` has told
        audit.record(actor, Act(kind), About.JOB, target=job_id, detail=message)
    outbox.note(JobEvent.objects.create(job_id=job_id, type=kind, at=timezone.now(), **told))


def open_attempt(job_uid: str, number: int, fence: int, host: str) -> Attempt | None:
    """The open attempt that this host may report about under this fence."""
    return Attempt.objects.filter(job__uid=job_uid, number=number, fence=fence, host=host, outcome="").first()


def wake() -> None:
    """Tell the scheduler of this process, if it has one, that something may start."""
    for call in on_wake:
        call()


def _wake_on_commit(job: Job | None = None) -> None:
    """After the commit: wake the scheduler, here if it lives in this process, else through its front door."""

    def told() -> None:
        wake()
        if job is not None and not on_wake:
            hostlink.knock(job)

    transaction.on_commit(told, robust=True)


def _named(devices: list[dict[str, Any]]) -> str:
    if not devices:
        return ", without a GPU"
    return f", GPU {', '.join(str(d['index']) for d in devices)}"
