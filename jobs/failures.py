"""Why an attempt failed, in a line that equal failures share: `KeyError: 'lr' at train.py:88`. Read from the end of its log, once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from jobs import logs
from jobs.models import Attempt, Job
from jobs.notifications.excerpt import excerpt
from jobs.states import JobState, Outcome

LOOK_FOR = timedelta(hours=1)
LOG_PATIENCE = timedelta(seconds=30)
"""The rest of a log comes a little after its end."""
NONE_FOUND = "-"
LONGEST = 300
LAST_ENDED = 20
"""Jobs of a person that are compared."""
WORTH_TELLING = 2


@dataclass(frozen=True, slots=True)
class Alike:
    """`count` of a person's last `ended` jobs failed in the same way."""

    count: int
    ended: int
    how: str


def explain(now: datetime, *, most: int = 50) -> int:
    """Note down how attempts failed that have ended lately; how many were looked at."""
    fresh = Attempt.objects.filter(outcome=Outcome.FAILED, ended_at__gt=now - LOOK_FOR, failure="", log_removed_at=None)
    looked = 0
    for attempt in fresh.order_by("ended_at")[:most]:
        late = attempt.ended_at is None or now - attempt.ended_at > LOG_PATIENCE
        if late or logs.size(attempt.job_id, attempt.number) >= attempt.log_bytes:
            Attempt.objects.filter(pk=attempt.pk, failure="").update(failure=signature(attempt) or NONE_FOUND)
            looked += 1
    return looked


def signature(attempt: Attempt) -> str:
    """Empty where its log says nothing that can be told in a line."""
    found = excerpt(attempt)
    if found.traceback:
        return found.traceback.headline[:LONGEST]
    return found.oom[:LONGEST]


def alike(job: Job, attempt: Attempt | None) -> Alike | None:
    """How many of its owner's last jobs failed as this one did; None where that tells nothing."""
    if attempt is None or attempt.outcome != Outcome.FAILED or attempt.failure in ("", NONE_FOUND):
        return None
    last = list(
        Job.objects.filter(owner=job.owner, state__in=(JobState.COMPLETED, JobState.FAILED), ended_at__isnull=False)
        .order_by("-ended_at")
        .values_list("pk", flat=True)[:LAST_ENDED]
    )
    count = Attempt.objects.filter(job__in=last, failure=attempt.failure).values("job").distinct().count()
    return Alike(count, len(last), attempt.failure) if count >= WORTH_TELLING else None
