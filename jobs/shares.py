"""What people have used lately, for the fair order: device-hours of their attempts, of which half are forgotten each day.

The leader counts twice a minute and writes one row for each person, so that scheduler, pages and positions go by the same
figures. A count goes on from the last one: open attempts, and those that have ended since. What is counted is for how long
an attempt has had its devices, from its dispatch on. A device that several share counts in full for each of them. Jobs
without a GPU cost nothing.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import BigIntegerField, Count, FloatField, Min, Q, Value

from jobs.models import Attempt, Share
from jobs.scheduling.order import NOBODY, Standing

log = logging.getLogger(__name__)

HALF_LIFE = timedelta(days=1)
FORGOTTEN_AFTER = 12 * HALF_LIFE
"""What is older counts for less than a four-thousandth."""
EVERY_S = 30.0

Writing = Callable[[], AbstractContextManager[None]]


def decayed(hours: float, age: timedelta) -> float:
    return hours * float(2 ** (-(age / HALF_LIFE)))


def used_hours(devices: int, begin: datetime, end: datetime, *, now: datetime) -> float:
    """Device-hours from `begin` to `end`, each hour as much as is left of it now."""
    if end <= begin or not devices:
        return 0.0
    half_life_h = HALF_LIFE / timedelta(hours=1)
    until, since = (decayed(1.0, now - end), decayed(1.0, now - begin))
    return devices * half_life_h / math.log(2) * (until - since)


def count(now: datetime, *, writing: Writing = transaction.atomic) -> None:
    """Bring all shares to `now`."""
    last = {share.owner_id: share for share in Share.objects.all()}
    since = max((share.as_of for share in last.values()), default=now - FORGOTTEN_AFTER)
    if now <= since:
        return
    hours: dict[int, float] = defaultdict(float)
    for owner, share in last.items():
        hours[owner] = decayed(share.gpu_hours, now - share.as_of)
    attempts = Attempt.objects.filter(Q(outcome="") | Q(ended_at__gt=since)).order_by()
    for owner, devices, begin, end in attempts.values_list("job__owner_id", "devices", "created_at", "ended_at"):
        hours[owner] += used_hours(len(devices), max(begin, since), min(end or now, now), now=now)
    with writing():
        Share.objects.bulk_create(
            [Share(owner_id=owner, gpu_hours=used, as_of=now) for owner, used in hours.items()],
            update_conflicts=True,
            unique_fields=["owner"],
            update_fields=["gpu_hours", "as_of"],
        )


def standings() -> Mapping[int, Standing]:
    """Of everybody who has used or runs anything."""
    nothing, nobody = Value(0.0, FloatField()), Value(None, BigIntegerField())
    used = Share.objects.values_list("owner_id", "gpu_hours", Value(0, BigIntegerField()), nobody)
    running = Attempt.objects.filter(outcome="").order_by().values_list("job__owner_id", nothing)
    found: dict[int, Standing] = {}
    for owner, hours, count, oldest in used.union(running.annotate(n=Count("pk"), oldest=Min("job_id")), all=True):
        before = found.get(owner, NOBODY)
        found[owner] = Standing(before.used + round(10 * hours), before.running + count, before.oldest if oldest is None else oldest)
    return found


class Counter:
    """Counts when it is time to. For the leader's scheduler."""

    def __init__(self, *, writing: Writing, clock: Callable[[], float] = time.monotonic) -> None:
        self._writing, self._clock = writing, clock
        self._next_at = -math.inf

    def turn(self, now: datetime) -> bool:
        """Whether it was time."""
        if self._clock() < self._next_at:
            return False
        count(now, writing=self._writing)
        self._next_at = self._clock() + EVERY_S
        return True
