"""The outbox: one row for each event, channel and recipient, written with the event and sent later."""

from __future__ import annotations

from django.db import models

from jobs.models.chat import ChatAddress
from jobs.models.job import Job, JobEvent


class Notification(models.Model):
    """`pending` until `next_at`, `sending` until `lease_until` at most, then `sent`, or `dead` when nobody tries any more."""

    PENDING, SENDING, SENT, DEAD = "pending", "sending", "sent", "dead"
    STATES = [(s, s) for s in (PENDING, SENDING, SENT, DEAD)]

    event = models.ForeignKey(JobEvent, on_delete=models.CASCADE, related_name="notifications")
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="notifications")
    channel = models.CharField(max_length=16)
    recipient = models.CharField(max_length=254)
    """A mail address, or the name of a chat with its number."""
    chat = models.ForeignKey(ChatAddress, on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    """Where `channel` is chat; empty: its owner has deleted it."""
    occasion = models.CharField(max_length=16)
    state = models.CharField(max_length=8, choices=STATES, default=PENDING)
    created_at = models.DateTimeField()
    next_at = models.DateTimeField()
    lease_until = models.DateTimeField(null=True, blank=True)
    tries = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True, default="")
    """Why the last try failed, as a sentence."""
    message_id = models.CharField(max_length=200, blank=True, default="")
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["event", "channel", "recipient"], name="notification_once")]
        indexes = [models.Index(fields=["state", "next_at"], name="notification_due")]

    def __str__(self) -> str:
        return f"#{self.job_id} {self.occasion} → {self.recipient}"
