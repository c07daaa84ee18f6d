"""Pages of a list of jobs, however many there are.

What lists filter and sort by stands in one index (`job_listing`), so the numbers of a page are found without reading a
single row, and then the rows of these alone are read. Two habits keep it so: the state is named, all of them where none is
asked for, since the index begins with it; and owners are looked up in their own small table. What is not in the index
(commands) is better searched without: by number, until the page is full.
"""

from __future__ import annotations

from django.db.models import Q, QuerySet

from jobs.models import Job, User
from jobs.states import JobState


def owned_by(**name: str) -> Q:
    """Jobs whose owner's row is like this: `username__iexact="ada"`."""
    return Q(owner__in=User.objects.filter(**name).order_by().values("pk"))


def of_any_state(jobs: QuerySet[Job]) -> QuerySet[Job]:
    return jobs.filter(state__in=list(JobState))


def page(jobs: QuerySet[Job], offset: int, limit: int) -> list[Job]:
    """These of the ordered `jobs`, with their owners."""
    numbers = list(jobs.values_list("pk", flat=True)[offset : offset + limit])
    rows = Job.objects.select_related("owner").in_bulk(numbers)
    return [rows[number] for number in numbers if number in rows]
