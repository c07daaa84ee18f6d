"""Sign-in links that work once, for ten minutes: what `up` and `signin` print into a terminal."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta

from django.conf import settings
from django.urls import reverse
from django.utils import timezone

from jobs.models import OneTimeLink, User

LIFETIME = timedelta(minutes=10)


def make_link(user: User) -> str:
    """The address that signs `user` in once. It is a password for ten minutes: print it, never log it."""
    now = timezone.now()
    OneTimeLink.objects.filter(expires_at__lt=now).delete()
    token = secrets.token_urlsafe(32)
    OneTimeLink.objects.create(user=user, digest=_digest(token), expires_at=now + LIFETIME)
    return settings.AUTOTRAINER.url.rstrip("/") + reverse("signin-link", args=[token])


def spend(token: str) -> User | None:
    """The user of a link that is still good, which it is no more afterwards; None for a used, old or invented one."""
    link = OneTimeLink.objects.select_related("user").filter(digest=_digest(token), expires_at__gt=timezone.now()).first()
    if link is None or OneTimeLink.objects.filter(pk=link.pk).delete()[0] != 1:  # two at once: one of them deleted it
        return None
    return link.user if link.user.is_active else None


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
