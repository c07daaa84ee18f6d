"""Fill a running product's queue: `python -m benchmarks.fill_queue DEPTH`, with the product's own environment.

Through the database and not over REST, since a hundred thousand submits would take longer than all that is measured. The
jobs are of four people, at three priorities, and ask for two dozen different things; some wait for a moment or for another
job, some fit nowhere. None of them comes before a job of priority 0. It returns when each has been told why it waits.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from itertools import islice
from typing import Any

import django

PEOPLE = 4
AT_ONCE = 2000


def main(depth: int) -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "autotrainer_site.settings"
    django.setup()
    from django.utils import timezone

    from jobs.models import Job, User

    owners = [User.objects.get_or_create(username=f"person-{n}")[0] for n in range(PEOPLE)]
    missing = depth - Job.objects.filter(state="queued").count()
    now = timezone.now()
    jobs = (Job(owner=owners[n % PEOPLE if n % 10 else 0], created_at=now, **_asked(n, now)) for n in range(max(0, missing)))
    while some := list(islice(jobs, AT_ONCE)):
        made = Job.objects.bulk_create(some)
        links = Job.after.through
        links._default_manager.bulk_create(
            [links(from_job_id=made[n].pk, to_job_id=made[n - 1].pk) for n in range(17, len(made), 97) if made[n].pk]
        )
    while Job.objects.filter(state="queued", wait_code="").exists():
        time.sleep(0.2)
    _tidy()


def _tidy() -> None:
    """What PostgreSQL's autovacuum begins by itself within a minute; else it would do so while something is measured."""
    from django.db import connection

    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")


def _asked(n: int, now: Any) -> dict[str, Any]:
    never = n % 23 == 5
    return {
        "name": f"waits-{n}",
        "command": "true",
        "working_dir": "/tmp",
        "min_gpus": 4 if never else 1,
        "max_gpus": 4 if never else 1 + n % 2,
        "gpu_memory_mib": 4096 * (n % 4),
        "time_limit_s": (None, 600, 3600)[n % 3],
        "priority": (-10, -9, -8)[n % 7 % 3],
        "begin_at": now + timedelta(days=1) if n % 101 == 7 else None,
    }


if __name__ == "__main__":
    main(int(sys.argv[1]))
