"""What is done once when the database is older than the world, because a backup was restored (autotrainer_site/backup.py)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from django.db import connection, transaction
from django.utils import timezone

from jobs import eventphrases, lifecycle
from jobs.models import Attempt, Dispatch, Job
from jobs.settlement import FAULT_BUDGET
from jobs.states import JobState

FURTHER_ON = {Job: 1_000, Dispatch: 1_000_000}
"""Ids that were given out since the backup must not be given out again: they stand in mails and logs, and hosts compare fences."""


@dataclass(frozen=True, slots=True)
class Summary:
    made_at: datetime
    aside: Path
    """Where what was here lies now."""
    held: int
    open: int
    """Jobs that ran when the backup was made."""


def look_through(*, made_at: datetime, aside: Path) -> Summary:
    """Hold what may have run since, and let numbers begin further on."""
    with transaction.atomic():
        for model, by in FURTHER_ON.items():
            _begin_further_on(model._meta.db_table, by)
        for attempt in Attempt.objects.filter(outcome="", started_at=None, job__state=JobState.STARTING).select_related("job"):
            lifecycle.withdraw(attempt, eventphrases.RESTORED_OFFER)
        why = eventphrases.RESTORED % {"until": f"{timezone.localtime(made_at):%Y-%m-%d %H:%M}"}
        waiting = list(Job.objects.filter(state=JobState.QUEUED).values_list("pk", flat=True))
        held = sum(lifecycle.hold_because(job_id, why, eventphrases.LOOK) for job_id in waiting)
        # What ran then is asked of its host. Where that knows nothing any more it may have run to its end: it is held, not started.
        running = Job.objects.filter(state__in=(JobState.RUNNING, JobState.STOPPING))
        open_jobs = running.update(faults=FAULT_BUDGET)
    return Summary(made_at, aside, held, open_jobs)


def _begin_further_on(table: str, by: int) -> None:
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            sequence = "pg_get_serial_sequence(%s, 'id')"
            cursor.execute(f"SELECT setval({sequence}, nextval({sequence}) + %s)", [table, table, by])
            return
        cursor.execute("UPDATE sqlite_sequence SET seq = seq + %s WHERE name = %s", [by, table])
        if not cursor.rowcount:
            cursor.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (%s, %s)", [table, by])
