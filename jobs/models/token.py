"""Tokens that people make for their scripts: named, limited, and shown once."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class PersonalToken(models.Model):
    """Beside the token itself, of which only a hash is kept. Tokens without one come from signing in with a password."""

    READ, ALL = "read", "all"

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    digest = models.CharField(max_length=128, unique=True)
    """Of knox's row for it. Not a foreign key: knox changed its own key in a migration that ours cannot name."""
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    name = models.CharField(max_length=80)
    scope = models.CharField(max_length=8, choices=[(READ, READ), (ALL, ALL)])
    """`read`: looks and changes nothing. `all`: whatever its owner may."""
    last_used_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return self.name
