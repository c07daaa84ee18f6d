"""Attempts that a host runs and the database does not know: a backup was restored, or the host's home is another installation's.

They are somebody's work. So they are shown, their devices count as taken, their jobs (where the database knows the job)
do not start a second time, and only a person ends them: `manage.py orphans --end KEY`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from uuid import UUID

from django.conf import settings

from jobs import audit, capacity, eventphrases, hostlink, lifecycle
from jobs.hostlink import Heard
from jobs.models import Job
from jobs.models.audit import About, Act
from jobs.scheduling import words
from jobs.scheduling.inventory import HostView, Orphan
from jobs.states import JobState

log = logging.getLogger(__name__)


def all_of(views: Iterable[HostView]) -> dict[str, tuple[str, Orphan]]:
    """Key -> its host and what is known of it."""
    return {orphan.key: (view.name, orphan) for view in views for orphan in view.orphans}


class Crier:
    """Says once in the log that there is one, and that it is over."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}

    def tell(self, views: Iterable[HostView]) -> bool:
        """True if there is a new one."""
        now = all_of(views)
        new = [found for key, found in now.items() if key not in self._told]
        for host, orphan in new:
            log.error("%s runs %s: left alone", host, words.orphan(orphan), extra={"action": "orphan", "attempt_key": orphan.key})
        for key in self._told.keys() - now.keys():
            log.info("%s no longer runs %s", self._told[key], key, extra={"action": "orphan_over", "attempt_key": key})
        self._told = {key: host for key, (host, _) in now.items()}
        return bool(new)


def hold_their_jobs(beats: Mapping[str, Heard]) -> None:
    """A job of which a host runs an unknown attempt would run twice at once."""
    found = {orphan.job: host for host, orphan in all_of(capacity.hosts_now(beats=beats)).values()}
    for pk, uid in Job.objects.filter(uid__in=[*filter(_is_uuid, found)], state=JobState.QUEUED).values_list("pk", "uid"):
        lifecycle.hold_because(pk, eventphrases.UNKNOWN_ATTEMPT % {"host": found[str(uid)]}, eventphrases.ONCE_OVER)


def end(key: str) -> str:
    """Tell an orphan's host to end it; the host's name, or empty where there is no such orphan. Raises redis.RedisError."""
    host, orphan = all_of(capacity.hosts_now()).get(key, ("", None))
    if orphan is None:
        return ""
    fence = int(key.rpartition(".")[2])
    log.warning("%s is told to end %s", host, words.orphan(orphan), extra={"action": "orphan_stopped", "attempt_key": key})
    sent = hostlink.stop_on(host, job=orphan.job, attempt=orphan.attempt, fence=fence, kill_grace_s=settings.AUTOTRAINER.kill_grace_s)
    if not sent:
        return ""
    audit.record(None, Act.ORPHAN_ENDED, About.HOST, target=host, detail=f"{key}: {words.orphan(orphan)}")
    return host


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
