"""What becomes of a job whose attempt is over: a pure decision, which jobs.lifecycle writes down."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from gpuworker import protocol
from gpuworker.protocol import Ended, EndReason
from jobs import eventphrases
from jobs.scheduling import phrases, words
from jobs.scheduling.shortage import Shortage
from jobs.states import JobState, Outcome, WaitReason

FAULT_BUDGET = 5
"""Starts that the infrastructure may spoil before the job is held for a person to look at."""
FAULT_DELAY_S = 5.0

_FAULTS = frozenset({Outcome.HOST_LOST, Outcome.EXIT_LOST})


class SettledJob(Protocol):
    """What the decision needs to know about the job."""

    uid: UUID
    max_retries: int
    retries_spent: int
    retry_delay_s: float
    retry_on_oom: bool
    faults: int
    cancel_requested_at: datetime | None
    started_at: datetime | None
    progress: float | None
    oom_floor_mib: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """The job's next state, the event that tells it, and the columns that change with it."""

    state: JobState
    event: str
    message: str
    fields: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)


def outcome_of(report: Ended) -> Outcome:
    if report.reason is EndReason.EXITED:
        return Outcome.COMPLETED if report.exit_code == 0 else Outcome.FAILED
    return Outcome(report.reason.value)


def settle(job: SettledJob, report: Ended, *, now: datetime, shortage: Shortage | None = None) -> Settlement:
    """`shortage`: what it had, where it ran out of GPU memory and that is known.

    Exit 0 completes, even where a cancel came too late; else a retry while the budget lasts, else the failure is final."""
    outcome = outcome_of(report)
    if outcome is Outcome.COMPLETED:
        return _final(JobState.COMPLETED, job, report)
    if job.cancel_requested_at or outcome is Outcome.CANCELLED:
        return _final(JobState.CANCELLED, job, report)
    if outcome in _FAULTS or not report.own_fault:
        return _fault(job, report, now)
    delay_s = protocol.retry_in_s(
        report,
        max_retries=job.max_retries,
        retries_spent=job.retries_spent,
        retry_delay_s=job.retry_delay_s,
        retry_on_oom=job.retry_on_oom,
    )
    if delay_s is not None:
        return _retry(job, report, delay_s, now, shortage)
    to = _final(JobState.FAILED, job, report)
    unwanted = report.oom_detected and not job.retry_on_oom and job.retries_spent < job.max_retries
    said = (shortage.numbers if shortage else "", eventphrases.NOT_AGAIN if unwanted else "")
    return replace(to, message=" ".join(filter(None, (to.message, *said))), data=to.data | (shortage.data if shortage else {}))


def _final(state: JobState, job: SettledJob, report: Ended) -> Settlement:
    ending = {"ended_at": moment(report.ended_at), "wait_code": "", "wait_message": "", "not_before": None}
    ending |= _result(job, report) | _last_progress(state, job, report)
    return Settlement(state=state, event=state.value, message=describe_end(report), fields=ending)


def _retry(job: SettledJob, report: Ended, delay_s: float, now: datetime, shortage: Shortage | None) -> Settlement:
    spent = job.retries_spent + 1
    retry = {"n": spent, "most": job.max_retries, "span": words.delay(delay_s), "attempt": report.attempt}
    told = [describe_end(report), eventphrases.RETRY % retry]
    if shortage:
        told = [told[0], shortage.numbers, told[1], shortage.change(report.attempt + 1)]
    return Settlement(
        state=JobState.QUEUED,
        event="retry_scheduled",
        message=" ".join(filter(None, told)),
        data={"delay_s": round(delay_s, 1), "retry": spent, "max_retries": job.max_retries} | (shortage.data if shortage else {}),
        fields={
            "not_before": now + timedelta(seconds=delay_s),
            "retries_spent": spent,
            "next_attempt": report.attempt + 1,
            "progress": None,
            "wait_code": WaitReason.BACKOFF,
            "wait_message": eventphrases.RETRY_AFTER % retry,
        }
        | (shortage.columns(job.oom_floor_mib) if shortage else {})
        | _result(job, report),
    )


def _fault(job: SettledJob, report: Ended, now: datetime) -> Settlement:
    """No fault of the job: it starts again without spending a retry, until the infrastructure budget is used up."""
    faults = job.faults + 1
    fields: dict[str, Any] = {"faults": faults, "next_attempt": report.attempt + 1, "progress": None} | _result(job, report)
    if faults > FAULT_BUDGET:
        why = eventphrases.SPOILED % {"n": faults, "attempt": report.attempt, "ended": _how(report)}
        fields |= {"wait_code": WaitReason.HELD, "wait_message": why}
        return Settlement(state=JobState.HELD, event="held", message=why, fields=fields)
    delay_s = protocol.backoff_s(FAULT_DELAY_S, faults - 1, seed=f"{job.uid}.{report.attempt}")
    fields |= {"not_before": now + timedelta(seconds=delay_s), "wait_code": WaitReason.BACKOFF}
    message = f"{describe_end(report)} {eventphrases.REQUEUED}"
    return Settlement(state=JobState.QUEUED, event="requeued", message=message, fields=fields | {"wait_message": message})


def _result(job: SettledJob, report: Ended) -> dict[str, Any]:
    result: dict[str, Any] = {"exit_code": report.exit_code, "oom_detected": report.oom_detected}
    if job.started_at is None and report.started_at:
        result["started_at"] = moment(report.started_at)
    return result


def _last_progress(state: JobState, job: SettledJob, report: Ended) -> dict[str, Any]:
    """All of it is done where it completed and ever told how far it was; else it stays where it came to."""
    told = job.progress if report.progress is None else min(1.0, max(0.0, report.progress))
    return {"progress": told if told is None or state is not JobState.COMPLETED else 1.0}


def moment(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)


# --- words --------------------------------------------------------------------------------------------------------------


def about_log(report: Ended) -> list[tuple[str, str]]:
    """What happened to the log, as (type, sentence) of an event each."""
    number, found = report.attempt, []
    if report.log_truncated:
        found.append(("log_truncated", eventphrases.LOG_TRUNCATED % {"attempt": number}))
    if report.log_cut_bytes:
        found.append(("log_cut", eventphrases.LOG_CUT % {"attempt": number, "bytes": f"{report.log_cut_bytes:,}"}))
    return found


def describe_end(report: Ended) -> str:
    """How an attempt ended, as a sentence, and what the host says beside it."""
    aside = f" {report.message}" if report.message and report.reason is EndReason.EXITED else ""
    return eventphrases.ENDED % {"attempt": report.attempt, "ended": _how(report)} + aside


def _how(report: Ended) -> str:
    """The rest of `attempt 2 …`."""
    if report.reason is EndReason.EXITED:
        return _exit(report)
    told = {"ended": _ENDINGS[report.reason], "why": report.message.rstrip(".")}
    return eventphrases.ENDED_BECAUSE % told if report.message else told["ended"]


def _exit(report: Ended) -> str:
    if report.signal:
        return (phrases.KILLED_OOM if report.oom_detected else phrases.KILLED) % {"signal": report.signal}
    if report.exit_code == 0:
        return eventphrases.COMPLETED
    probably = (report.exit_code or 0) - 128
    told = {"code": report.exit_code, "signal": probably}
    if 0 < probably < 32:
        return (eventphrases.FAILED_SIGNAL_OOM if report.oom_detected else eventphrases.FAILED_SIGNAL) % told
    return (phrases.FAILED_CODE_OOM if report.oom_detected else phrases.FAILED_CODE) % told


_ENDINGS = {
    EndReason.CANCELLED: eventphrases.WAS_CANCELLED,
    EndReason.TIMED_OUT: eventphrases.TIMED_OUT,
    EndReason.LAUNCH_FAILED: eventphrases.LAUNCH_FAILED,
    EndReason.EXIT_LOST: eventphrases.EXIT_LOST,
    EndReason.HOST_LOST: eventphrases.HOST_LOST,
}
