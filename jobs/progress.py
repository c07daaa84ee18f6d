"""How far the running trainings are, as heartbeats tell it, and how long the rest will take.

Written where it has moved by half a percent, all jobs in one statement. That keeps a thousand progress bars from being a
thousand writes a second, and nobody sees less on a bar.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime

from django.db import transaction
from django.db.models import Case, F, FloatField, Q, Value, When
from django.utils import timezone

from gpuworker.protocol import AttemptReading, Beat
from jobs.models import Attempt, Job
from jobs.states import ACTIVE, JobState

STEP = 0.005
EVERY_S = 0.9
"""A job's progress is written no more often than with every look of the leader."""
WRITTEN_AT_ONCE = 200
LEAST_TOLD = 0.02
"""With less done, what is left is a guess."""


class Progress:
    """The leader's memory of what it has written, so that a look at which nothing has moved asks the database nothing."""

    def __init__(self, *, writing: Callable[[], AbstractContextManager[None]] = transaction.atomic) -> None:
        self._writing = writing
        self._written: dict[int, tuple[float, float]] = {}
        """Fence -> the progress, and when (monotonic)."""

    def note(self, beats: Iterable[tuple[str, Beat]]) -> int:
        """Write what has moved, of hosts that are heard now; how many jobs that were."""
        told = {a.fence: (host, a) for host, beat in beats for a in beat.attempts if _tells(a)}
        self._written = {fence: last for fence, last in self._written.items() if fence in told}
        moved = [fence for fence, (_, reading) in told.items() if self._has_moved(fence, reading.progress or 0.0)]
        return sum(self._write(moved[i : i + WRITTEN_AT_ONCE], told) for i in range(0, len(moved), WRITTEN_AT_ONCE))

    def _has_moved(self, fence: int, progress: float) -> bool:
        last, at = self._written.get(fence, (-1.0, 0.0))
        return abs(progress - last) >= STEP and (last < 0 or time.monotonic() - at >= EVERY_S)

    def _write(self, fences: Sequence[int], told: Mapping[int, tuple[str, AttemptReading]]) -> int:
        with self._writing():
            new = {pk: (fence, told[fence][1].progress) for fence, pk in _open_jobs(fences, told)}
            cases = [When(pk=pk, then=Value(progress)) for pk, (_, progress) in new.items()]
            # Not of an attempt that has ended since it was read: what comes after it begins anew.
            still = Q(state__in=ACTIVE, attempts__outcome="", attempts__fence__in=[fence for fence, _ in new.values()])
            jobs = Job.objects.filter(still, pk__in=new)
            count = (
                jobs.update(progress=Case(*cases, default=F("progress"), output_field=FloatField()), progress_at=timezone.now())
                if new
                else 0
            )
        self._written |= {fence: (told[fence][1].progress or 0.0, time.monotonic()) for fence in fences}
        return count


def _tells(reading: AttemptReading) -> bool:
    return reading.running and reading.fence < 2**63 and reading.progress is not None and 0.0 <= reading.progress <= 1.0


def _open_jobs(fences: Sequence[int], told: Mapping[int, tuple[str, AttemptReading]]) -> list[tuple[int, int]]:
    """Fence and job of those whose row does not say so yet. A fence alone names no attempt: after a restored backup they repeat."""
    opened = Attempt.objects.filter(fence__in=fences, outcome="").values_list(
        "fence", "host", "number", "job__uid", "job_id", "job__progress"
    )
    found = []
    for fence, host, number, uid, pk, before in opened:
        by, reading = told[fence]
        named = (by, reading.attempt, reading.job) == (host, number, str(uid))
        if named and (before is None or abs(before - (reading.progress or 0.0)) >= STEP):
            found.append((fence, pk))
    return found


def remaining_s(job: Job, attempt: Attempt | None, now: datetime | None = None) -> float | None:
    """Seconds that the rest takes if it goes on as fast as until now; None where nobody can honestly tell.

    Counted from the moment at which it got there: a training that prints once an hour is further than it has told.
    """
    if job.state != JobState.RUNNING or attempt is None or attempt.started_at is None or job.progress is None or job.progress_at is None:
        return None
    took_s = (job.progress_at - attempt.started_at).total_seconds()
    if not LEAST_TOLD <= job.progress < 1.0 or took_s <= 0:
        return None
    left_s = took_s * (1.0 - job.progress) / job.progress - ((now or timezone.now()) - job.progress_at).total_seconds()
    return round(left_s, 1) if left_s >= 0 else None
