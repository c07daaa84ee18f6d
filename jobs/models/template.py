"""What a person keeps of the submit form, to fill it again."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class JobTemplate(models.Model):
    """One person's, and shown to nobody else. Its rules are in jobs/jobtemplates.py."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    name = models.CharField(max_length=80)
    fields = models.JSONField(default=dict)
    """As `POST jobs/` takes them, each right by itself when it was kept: what a later version or host refuses is met when it is used."""
    version = models.PositiveSmallIntegerField()
    """Of the form that `fields` is from."""
    created_at = models.DateTimeField()
    changed_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["owner", "name"], name="template_name_of_owner")]

    def __str__(self) -> str:
        return self.name
