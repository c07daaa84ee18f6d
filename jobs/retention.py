"""What is thrown away after a while: logs and swapped files of jobs that ended long ago, and keys, links, tokens and sessions
that have expired; and audit rows after years.

Jobs, attempts and events stay. A log that is gone says so, and when it went.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from knox.models import AuthToken

from jobs.models import Attempt, AuditEntry, Content, IdempotencyKey, Job, OneTimeLink, PersonalToken
from jobs.scheduling import words
from jobs.states import TERMINAL

log = logging.getLogger(__name__)

BATCH = 200
KEEP_KEYS = timedelta(days=7)
"""How long a submission that is sent again with its Idempotency-Key is recognised."""
KEEP_AUDIT = timedelta(days=2 * 365)
"""At least, whatever is told to go: who did something is often asked long after its logs have gone."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What went, or would go."""

    jobs: int
    log_bytes: int
    """Of the disk, holes not counted."""
    expired: int
    contents: int
    """Files that were handed in to be swapped, and that no job needs any more."""
    audit: int = 0

    def __str__(self) -> str:
        size = f"{self.log_bytes / 2**20:,.1f} MiB"
        files = words.plural(self.contents, "swapped file")
        rows = f"{self.expired} expired keys, links, tokens and sessions, {words.plural(self.audit, 'audit row')}"
        return f"the logs of {words.plural(self.jobs, 'job')} ({size}), {files}, {rows}"


def prune(*, days: int, now: datetime, dry_run: bool = False) -> Pruned:
    """Remove what is older than it has to be kept; `days` counts from a job's end. What a crash leaves is removed the next time."""
    jobs = log_bytes = 0
    for numbers in _batches(_numbers()):
        old = Job.objects.filter(pk__in=numbers, state__in=TERMINAL, ended_at__lt=now - timedelta(days=days))
        for number in old.values_list("pk", flat=True):
            jobs, log_bytes = jobs + 1, log_bytes + _used(_folder(number))
            if not dry_run:
                _remove(number, now)
    contents = _forget_contents(now - timedelta(days=days), dry_run=dry_run)
    audit = _forget(AuditEntry.objects.filter(at__lt=now - max(KEEP_AUDIT, timedelta(days=days))), dry_run)
    pruned = Pruned(jobs, log_bytes, sum(_forget(rows, dry_run) for rows in _expired(now)), contents, audit)
    if not dry_run:
        log.info("pruned: %s", pruned, extra={"action": "pruned"})
    return pruned


def removed(attempt: Attempt | None) -> str:
    """Why an attempt's log is not there any more, as a sentence; empty where it was not removed."""
    if attempt is None or attempt.log_removed_at is None:
        return ""
    when = f"{timezone.localtime(attempt.log_removed_at):%Y-%m-%d}"
    return f"The log of attempt {attempt.number} was removed on {when}, because its job had ended long ago (AUTOTRAINER_RETENTION_DAYS)."


# --- logs ---------------------------------------------------------------------------------------------------------------


def _folder(number: int) -> Path:
    return Path(settings.LOGS_HOME) / str(number)


def _numbers() -> Iterator[int]:
    """The jobs that have stored logs: far fewer, after years, than there are old jobs."""
    try:
        with os.scandir(settings.LOGS_HOME) as entries:
            yield from (int(entry.name) for entry in entries if entry.name.isascii() and entry.name.isdecimal())
    except FileNotFoundError:
        return


def _batches(numbers: Iterable[int]) -> Iterator[list[int]]:
    every = list(numbers)
    return (every[i : i + BATCH] for i in range(0, len(every), BATCH))


def _used(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir() if path.is_file())


def _remove(number: int, now: datetime) -> None:
    """The mark first: chunks that still come are dropped, and nobody reads half of a log."""
    Attempt.objects.filter(job_id=number, log_removed_at=None).update(log_removed_at=now)
    shutil.rmtree(_folder(number), ignore_errors=True)


# --- swapped files ------------------------------------------------------------------------------------------------------


def _forget_contents(before: datetime, *, dry_run: bool) -> int:
    """Those that only jobs need which ended before then. Such a job is not run again without its file (jobs/actions.py)."""
    unneeded = set(Content.objects.values_list("pk", flat=True)) - _needed(before)
    return len(unneeded) if dry_run else sum(_forget_content(sha256, before) for sha256 in unneeded)


def _needed(before: datetime) -> set[str]:
    young = Job.objects.exclude(swaps=[]).exclude(state__in=TERMINAL, ended_at__lt=before)
    return {row["sha256"] for rows in young.values_list("swaps", flat=True).iterator() for row in rows if "sha256" in row}


def _forget_content(sha256: str, before: datetime) -> bool:
    """False where somebody has handed it in again meanwhile: whoever writes such a job holds the lock on the row."""
    with transaction.atomic():
        content = Content.objects.select_for_update().filter(pk=sha256).first()
        if content is None or sha256 in _needed(before):
            return False
        content.delete()
    return True


# --- rows ---------------------------------------------------------------------------------------------------------------


def _expired(now: datetime) -> Iterator[QuerySet[Any]]:
    yield IdempotencyKey.objects.filter(created_at__lt=now - KEEP_KEYS)
    yield OneTimeLink.objects.filter(expires_at__lt=now)
    yield AuthToken.objects.filter(expiry__lt=now)
    yield PersonalToken.objects.filter(expires_at__lt=now)
    yield Session.objects.filter(expire_date__lt=now)


def _forget(rows: QuerySet[Any], dry_run: bool) -> int:
    return rows.count() if dry_run else rows.delete()[0]
