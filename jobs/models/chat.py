"""Where a person wants to be told besides mail: a room or a device of a chat service."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class ChatAddress(models.Model):
    """`url` is a secret, in the form of apprise: whoever has it can write there. It is shown to nobody, its owner included."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="chats")
    name = models.CharField(max_length=60)
    service = models.CharField(max_length=80)
    """As people know it, and the host where it was chosen: `ntfy at ntfy.example.org`."""
    url = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["name", "id"]
        constraints = [models.UniqueConstraint(fields=["owner", "name"], name="chat_address_once")]

    def __str__(self) -> str:
        return f"{self.name} ({self.service})"
