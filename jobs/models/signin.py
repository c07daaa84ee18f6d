"""Links that sign somebody in once."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class OneTimeLink(models.Model):
    """A sign-in link that has not been used. Only the digest of its token is kept: reading the table opens nothing."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    digest = models.CharField(max_length=64, unique=True)
    expires_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"link for {self.user}"
