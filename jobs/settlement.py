"""What becomes of a job whose attempt is over: a pure decision, which jobs.lifecycle writes down."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from gpuworker import protocol
from gpuworker.protocol import Ended, EndReason
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
    said = (shortage.numbers if shortage else "", "Not tried again after that, as its owner asked (retry_on_oom)." if unwanted else "")
    return replace(to, message=" ".join(filter(None, (to.message, *said))), data=to.data | (shortage.data if shortage else {}))


def _final(state: JobState, job: SettledJob, report: Ended) -> Settlement:
    ending = {"ended_at": moment(report.ended_at), "wait_code": "", "wait_message": "", "not_before": None}
    ending |= _result(job, report) | _last_progress(state, job, report)
    return Settlement(state=state, event=state.value, message=describe_end(report), fields=ending)


def _retry(job: SettledJob, report: Ended, delay_s: float, now: datetime, shortage: Shortage | None) -> Settlement:
    spent = job.retries_spent + 1
    told = [describe_end(report), f"Retry {spent} of {job.max_retries} in {delay_s:.0f} s."]
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
            "wait_message": f"Retry {spent} of {job.max_retries} in {delay_s:.0f} s, after attempt {report.attempt} ended.",
        }
        | (shortage.columns(job.oom_floor_mib) if shortage else {})
        | _result(job, report),
    )


def _fault(job: SettledJob, report: Ended, now: datetime) -> Settlement:
    """No fault of the job: it starts again without spending a retry, until the infrastructure budget is used up."""
    faults = job.faults + 1
    fields: dict[str, Any] = {"faults": faults, "next_attempt": report.attempt + 1, "progress": None} | _result(job, report)
    if faults > FAULT_BUDGET:
        why = f"Held after {faults} starts that the infrastructure spoiled; the last one: {describe_end(report)}"
        fields |= {"wait_code": WaitReason.HELD, "wait_message": why}
        return Settlement(state=JobState.HELD, event="held", message=why, fields=fields)
    delay_s = protocol.backoff_s(FAULT_DELAY_S, faults - 1, seed=f"{job.uid}.{report.attempt}")
    fields |= {"not_before": now + timedelta(seconds=delay_s), "wait_code": WaitReason.BACKOFF}
    message = f"{describe_end(report)} Requeued without spending a retry."
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
        kept = "what had been read before is kept, what came next follows on it"
        found.append(("log_truncated", f"The command of attempt {number} truncated its own log: {kept}."))
    if report.log_cut_bytes:
        cut = f"{report.log_cut_bytes:,} bytes of its middle were cut out"
        found.append(("log_cut", f"The log of attempt {number} was longer than AUTOTRAINER_LOG_LIMIT: {cut}."))
    return found


def describe_end(report: Ended) -> str:
    """How an attempt ended, as a sentence."""
    number = report.attempt
    oom = " after running out of GPU memory" if report.oom_detected else ""
    detail = f": {report.message.rstrip('.')}" if report.message else ""
    aside = f" {report.message}" if report.message else ""
    if report.reason is EndReason.EXITED and report.signal:
        return f"Attempt {number} was killed by signal {report.signal}{oom}.{aside}"
    if report.reason is EndReason.EXITED:
        if report.exit_code == 0:
            return f"Attempt {number} completed.{aside}"
        probably = f" (probably signal {report.exit_code - 128})" if report.exit_code and 128 < report.exit_code < 160 else ""
        return f"Attempt {number} failed with exit code {report.exit_code}{probably}{oom}.{aside}"
    return f"Attempt {number} {_ENDINGS[report.reason]}{detail}."


_ENDINGS = {
    EndReason.CANCELLED: "was cancelled",
    EndReason.TIMED_OUT: "reached its time limit and was ended",
    EndReason.LAUNCH_FAILED: "could not be launched",
    EndReason.EXIT_LOST: "ended, but its exit code is lost",
    EndReason.HOST_LOST: "was lost with its host",
}
