"""What people are told of, by the events that tell it."""

from __future__ import annotations

from enum import StrEnum

from jobs.models import Attempt, Job, JobEvent
from jobs.states import JobState, Outcome, WaitReason


class Occasion(StrEnum):
    COMPLETED = "completed"
    FAILED = "failed"
    OOM = "oom"
    TIMED_OUT = "timed_out"
    HOST_LOST = "host_lost"
    CANCELLED = "cancelled"
    HELD = "held"
    QUIET = "quiet"
    STARTED = "started"
    RETRIED = "retried"


FAILURES = frozenset({Occasion.FAILED, Occasion.OOM, Occasion.TIMED_OUT})
"""Where many come at once they are told as one."""
OPTIONAL = frozenset({Occasion.STARTED, Occasion.RETRIED})
"""Owners are told of these where they ask for it, and nobody else is."""
OPTIONAL_TYPES = frozenset({"attempt_started", "retry_scheduled"})
TYPES = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, "requeued", "held", "went_quiet"})
"""Types of events that may be an occasion."""


def occasion_of(event: JobEvent, job: Job) -> Occasion | None:
    """None where nobody needs to be told: what somebody did to his own job he knows."""
    attempt = job.attempts.filter(number=event.attempt).first() if event.attempt else None
    match event.type:
        case JobState.COMPLETED:
            return Occasion.COMPLETED
        case JobState.FAILED:
            return _failure(job, attempt)
        case JobState.CANCELLED:
            return Occasion.CANCELLED if _by_somebody_else(job) else None
        case "requeued" if attempt and attempt.outcome == Outcome.HOST_LOST:
            return Occasion.HOST_LOST
        case "held" if job.wait_code == WaitReason.HELD and event.actor_id is None and event.attempt:
            return Occasion.HELD
        case "went_quiet":
            return Occasion.QUIET
        case "attempt_started" if event.attempt == 1:
            return Occasion.STARTED
        case "retry_scheduled":
            return Occasion.RETRIED
    return None


def _failure(job: Job, attempt: Attempt | None) -> Occasion:
    if attempt and attempt.outcome == Outcome.TIMED_OUT:
        return Occasion.TIMED_OUT
    return Occasion.OOM if job.oom_detected else Occasion.FAILED


def asked_to_end(job: Job) -> JobEvent | None:
    """The event that says who cancelled it, or because of what."""
    return job.events.filter(type__in=("stopping", JobState.CANCELLED)).order_by("id").first()


def _by_somebody_else(job: Job) -> bool:
    """Another person, or the job that it waited for."""
    asked = asked_to_end(job)
    return asked is None or asked.actor_id != job.owner_id
