"""What each person's trainings have used lately: what the fair order goes by (jobs/shares.py)."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class Share(models.Model):
    """Of one person, as of one moment; the same moment for all."""

    owner = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+", primary_key=True)
    gpu_hours = models.FloatField(default=0)
    """Device-hours, of which half are forgotten each jobs.shares.HALF_LIFE."""
    as_of = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.owner}: {self.gpu_hours:.1f} GPU-hours"
