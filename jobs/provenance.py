"""Which code an attempt ran: the commit of its working directory when it began, asked of its host."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any

from gpuworker.questions import Ask
from jobs import asking
from jobs.models import Attempt

ASK_FOR = timedelta(minutes=2)
"""After this the directory may be at another commit: then nothing is said."""
AGAIN = timedelta(seconds=30)
AT_ONCE = 100


class Provenance:
    """One per leader. A host that did not answer is left alone for a while: others wait for the same thread."""

    def __init__(self) -> None:
        self._not_before: dict[str, datetime] = {}

    def look(self, now: datetime) -> int:
        """Ask about attempts that have begun just now; of how many something was heard."""
        fresh = Attempt.objects.filter(started_at__gt=now - ASK_FOR, git__isnull=True).select_related("job").order_by("started_at")
        by_place: dict[tuple[str, str], list[int]] = defaultdict(list)
        for attempt in fresh[:AT_ONCE]:
            if self._not_before.get(attempt.host, now) <= now:
                by_place[attempt.host, attempt.job.working_dir].append(attempt.pk)
        heard = 0
        for (host, directory), ids in by_place.items():
            answer = asking.ask(host, Ask.GIT, {"working_dir": directory})
            if answer.error:
                self._not_before[host] = now + AGAIN
            else:
                heard += Attempt.objects.filter(pk__in=ids).update(git=_read(answer.told))
        return heard


def _read(told: Any) -> dict[str, Any]:
    """Empty where it is in no repository."""
    if not isinstance(told, dict) or not str(told.get("commit") or "").isalnum():
        return {}
    dirty = told.get("dirty")
    branch = str(told.get("branch") or "").replace("\0", "")[:200]
    return {"commit": str(told["commit"])[:64], "branch": branch, "dirty": dirty if isinstance(dirty, bool) else None}
