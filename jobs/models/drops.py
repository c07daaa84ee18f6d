"""How many messages the control plane has dropped, for /metrics."""

from __future__ import annotations

from django.db import models


class DroppedMessages(models.Model):
    """Of one kind, by all control workers together and ever. What hosts drop they count themselves."""

    kind = models.CharField(max_length=32, unique=True)
    """The `action` of the log lines about them."""
    count = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.count} {self.kind}"
