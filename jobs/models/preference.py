"""How a person wants to be told."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class Preference(models.Model):
    """Of a person; who has none is told of everything, at any hour, in the lab's language."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="preference")
    muted = models.JSONField(default=list)
    """Occasions that the person is not told of: what is added later is told."""
    also = models.JSONField(default=list)
    """Those that nobody is told of who does not ask for it."""
    by_mail = models.BooleanField(default=True)
    """Else only by the chats that the person has named."""
    quiet_from = models.TimeField(null=True, blank=True)
    quiet_until = models.TimeField(null=True, blank=True)
    """In between nothing is sent, every day; both or neither."""
    time_zone = models.CharField(max_length=64, blank=True, default="")
    """Of these hours; empty: the lab's."""
    language = models.CharField(max_length=16, blank=True, default="")
    """Of letters; empty: the lab's."""

    def __str__(self) -> str:
        return str(self.user)
