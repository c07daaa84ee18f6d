"""Adds up in the database what control workers drop (gpuworker/dropped.py), so that every web process can tell it at /metrics."""

from __future__ import annotations

from collections import Counter

from django.db import transaction
from django.db.models import F

from gpuworker import dropped
from jobs.models import DroppedMessages


class Adder:
    """One per control worker, whether it leads or not."""

    def __init__(self) -> None:
        self._added: Counter[str] = Counter()

    def add(self) -> None:
        """What this process has dropped since the last call. Where the database is away, the next call adds it."""
        for kind, count in dropped.counts().items():
            if more := count - self._added[kind]:
                with transaction.atomic():
                    row, _ = DroppedMessages.objects.get_or_create(kind=kind)
                    DroppedMessages.objects.filter(pk=row.pk).update(count=F("count") + more)
                self._added[kind] = count


def counted() -> dict[str, int]:
    """By kind, ever."""
    return dict(DroppedMessages.objects.order_by("kind").values_list("kind", "count"))
