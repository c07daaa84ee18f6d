"""Who changed what: rows that are only ever added, and removed when they are old (jobs/retention.py)."""

from __future__ import annotations

from enum import StrEnum

from django.conf import settings
from django.db import models


class About(StrEnum):
    """What a change is on."""

    JOB = "job"
    HOST = "host"
    DEVICE = "device"
    PERSON = "person"
    GROUP = "group"
    TOKEN = "token"  # noqa: S105 - a word, no secret
    LETTER = "letter"
    CHAT = "chat"
    TEMPLATE = "template"


class Via(StrEnum):
    """The door that it came through."""

    API = "api"
    PAGE = "page"
    ADMIN = "admin"
    COMMAND = "command"


class Act(StrEnum):
    """What was done. Those on jobs are the types of the events that tell it."""

    SUBMITTED = "submitted"
    EDITED = "edited"
    HELD = "held"
    RELEASED = "released"
    CANCELLED = "cancelled"
    STOPPING = "stopping"
    DRAINED = "drained"
    RESUMED = "resumed"
    DECLARED_LOST = "declared_lost"
    KEPT = "kept"
    GIVEN_BACK = "given_back"
    RULE_SET = "rule_set"
    IGNORED = "ignored"
    HEEDED = "heeded"
    ORPHAN_ENDED = "orphan_ended"
    MADE = "made"
    CHANGED = "changed"
    DELETED = "deleted"
    TAKEN_BACK = "taken_back"
    SIGNED_IN = "signed_in"
    LINK_MADE = "link_made"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105 - a word, no secret
    SENT_AGAIN = "sent_again"
    KEY_REPLACED = "key_replaced"


class AuditEntry(models.Model):
    """One change by one person."""

    at = models.DateTimeField()
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    actor_name = models.CharField(max_length=150, blank=True)
    """Stays when the account is deleted; empty: whoever could run manage.py."""
    address = models.CharField(max_length=64, blank=True)
    via = models.CharField(max_length=8, choices=[(v.value, v.value) for v in Via])
    act = models.CharField(max_length=20, choices=[(a.value, a.value) for a in Act])
    about = models.CharField(max_length=8, choices=[(a.value, a.value) for a in About])
    target = models.CharField(max_length=200)
    """A job's number, a host's name, a device's UUID, a person's name, the name of a token or template."""
    detail = models.TextField(blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "audit entries"
        indexes = [models.Index(fields=["at"], name="audit_at"), models.Index(fields=["about", "target"], name="audit_target")]

    def __str__(self) -> str:
        return f"{self.target}: {self.act} ({self.actor_name or 'manage.py'})"
