"""Files that jobs swap in, as they were handed in: kept by their hash, once, whoever hands them in."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class Content(models.Model):
    """In the database and not in a folder, so that a job and what it needs are safe, backed up and restored together."""

    sha256 = models.CharField(max_length=64, primary_key=True)
    data = models.BinaryField()
    owners = models.ManyToManyField(settings.AUTH_USER_MODEL, related_name="+")
    """Who has handed it in, and may name it by its hash: for anybody else a hash would be a way to read what it hides."""

    def __str__(self) -> str:
        return self.sha256
