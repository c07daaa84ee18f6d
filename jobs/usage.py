"""GPU-hours of each person, or each group of people, by month of the lab's own zone: for reports, not for the queue's order.

Counted as the fair order counts (jobs.shares): for how long an attempt has had its devices, from its dispatch to its end; a
device that several share counts in full for each. Attempts within one month, nearly all of them, are summed by the database.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from django.contrib.auth.models import Group
from django.db.models import Count, F, Func, IntegerField, Q, QuerySet, Sum
from django.db.models.functions import TruncMonth
from django.utils import timezone

from jobs.models import Attempt, User

MOST_MONTHS = 60


class _Length(Func):
    """Of a JSON list."""

    output_field = IntegerField()

    def as_sqlite(self, compiler: Any, connection: Any, **more: Any) -> Any:
        return self.as_sql(compiler, connection, function="JSON_ARRAY_LENGTH", **more)

    def as_postgresql(self, compiler: Any, connection: Any, **more: Any) -> Any:
        return self.as_sql(compiler, connection, function="jsonb_array_length", **more)


@dataclass(frozen=True, slots=True)
class Used:
    """By one person or group in one month. Without a GPU attempts count, and hours do not."""

    who: str
    month: date
    gpu_hours: float
    attempts: int


def by_person(first: date, last: date, *, now: datetime) -> list[Used]:
    """Of everybody who used anything in these months, both included, newest month first, then by name."""
    names = dict(User.objects.values_list("pk", "username"))
    return _sorted(Used(names[owner], month, hours, count) for (owner, month), (hours, count) in _counted(first, last, now).items())


def by_group(first: date, last: date, *, now: datetime) -> list[Used]:
    """Of each group's members; who is in several counts in each."""
    groups: dict[int, list[str]] = defaultdict(list)
    for name, member in Group.objects.filter(user__isnull=False).values_list("name", "user"):
        groups[member].append(name)
    sums: dict[tuple[str, date], tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for (owner, month), (hours, count) in _counted(first, last, now).items():
        for name in groups[owner]:
            before = sums[name, month]
            sums[name, month] = (before[0] + hours, before[1] + count)
    return _sorted(Used(name, month, hours, count) for (name, month), (hours, count) in sums.items())


def _sorted(rows: Iterator[Used]) -> list[Used]:
    return sorted(rows, key=lambda row: (-row.month.toordinal(), row.who))


def _counted(first: date, last: date, now: datetime) -> dict[tuple[int, date], tuple[float, int]]:
    """(owner, month) -> device-hours, and how many attempts had them; an attempt counts in each month that it saw."""
    begin, end = _start(first), _start(_next(last))
    seconds: dict[tuple[int, date], float] = defaultdict(float)
    counts: dict[tuple[int, date], int] = defaultdict(int)
    attempts: QuerySet[Any] = Attempt.objects.filter(Q(ended_at=None) | Q(ended_at__gt=begin), created_at__lt=end).order_by()
    zone = timezone.get_default_timezone()
    attempts = attempts.annotate(opened=TruncMonth("created_at", tzinfo=zone), closed=TruncMonth("ended_at", tzinfo=zone))
    within = attempts.filter(opened=F("closed"), created_at__gte=begin)
    for owner, month, devices, lasted, number in _summed(within):
        key = (owner, month.date())
        seconds[key] += devices * max(0.0, lasted.total_seconds())
        counts[key] += number
    others = attempts.filter(Q(ended_at=None) | Q(created_at__lt=begin) | ~Q(opened=F("closed")))
    for owner, devices, since, until in others.values_list("job__owner", "devices", "created_at", "ended_at").iterator():
        for month, lasted in _cut(max(since, begin), min(until or now, now, end)):
            seconds[owner, month] += len(devices) * lasted.total_seconds()
            counts[owner, month] += 1
    return {key: (seconds[key] / 3600, number) for key, number in counts.items()}


def _summed(attempts: QuerySet[Any]) -> Any:
    counted = attempts.annotate(gpus=_Length("devices")).values_list("job__owner", "opened", "gpus")
    return counted.annotate(lasted=Sum(F("ended_at") - F("created_at")), n=Count("pk"))


def _cut(since: datetime, until: datetime) -> Iterator[tuple[date, timedelta]]:
    """A stretch of time, month by month."""
    while since < until:
        month = timezone.localtime(since, timezone.get_default_timezone()).date().replace(day=1)
        stop = min(until, _start(_next(month)))
        yield month, stop - since
        since = stop


def _next(month: date) -> date:
    return (month.replace(day=28) + timedelta(days=4)).replace(day=1)


def _start(month: date) -> datetime:
    return timezone.make_aware(datetime(month.year, month.month, 1), timezone.get_default_timezone())
