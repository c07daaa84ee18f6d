"""Hosts and jobs for many.py: `python -m benchmarks.fill_lab HOSTS RUNNING QUEUED`, with the product's environment.

Of those that shall run one in six asks for a GPU, until all GPUs are taken, and the others for a slot; those that wait ask for a
GPU, at a lower priority. All are of twelve people.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

import django

AT_ONCE = 2000
PEOPLE = 12


def main(hosts: int, running: int, queued: int) -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "autotrainer_site.settings"
    django.setup()
    from django.utils import timezone

    from benchmarks.crowd_of_hosts import DEVICES_EACH, name_of
    from jobs.models import Host, Job, User

    Host.objects.bulk_create([Host(name=name_of(n)) for n in range(hosts)], ignore_conflicts=True)
    people = [User.objects.get_or_create(username=f"person-{n}")[0] for n in range(PEOPLE)]
    now, on_gpus = timezone.now(), min(hosts * DEVICES_EACH, running // 6)

    def jobs() -> Iterator[Any]:
        for n in range(running + queued):
            gpus = int(n < on_gpus or n >= running)
            asked = {"min_gpus": gpus, "max_gpus": gpus, "gpu_memory_mib": 8192 * (n % 3) * gpus, "priority": 0 if n < running else -1}
            yield Job(owner=people[n % PEOPLE], name=f"sweep-{n}", command="true", working_dir="/tmp", created_at=now, **asked)

    made = jobs()
    while some := list(islice(made, AT_ONCE)):
        Job.objects.bulk_create(some)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
