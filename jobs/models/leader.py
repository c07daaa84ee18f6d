"""Who schedules: one row, one term number that only grows."""

from __future__ import annotations

from django.db import models


class Leader(models.Model):
    """The scheduler's lock. `term` goes into each write of a leader, so that one that wakes up late changes nothing."""

    term = models.BigIntegerField(default=0)
    holder = models.CharField(max_length=200, blank=True)
    """`<boot id> <pid> <start ticks> <nonce>`: a holder on this machine whose process is gone is replaced at once.
    With " away" behind it: it cannot reach Redis, and offers its place to whoever can."""
    renewed_at = models.DateTimeField()
    home = models.CharField(max_length=64, blank=True, default="")
    """The AUTOTRAINER_HOME of all who may lead (jobs/homes.py)."""

    def __str__(self) -> str:
        return f"term {self.term}"
