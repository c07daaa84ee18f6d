"""Who asks: a token in `Authorization: Bearer …`. Sessions are Django's own."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from knox.auth import TokenAuthentication
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request

from jobs import tokens
from jobs.models import PersonalToken

MOST_REMEMBERED = 10_000
_ORDINARY: set[str] = set()
"""Digests of tokens that are no personal ones, and never become such."""


class BearerAuthentication(TokenAuthentication):  # type: ignore[misc] # knox has no types
    """Knox tokens at the cost of one query a request; its own also looks through all other tokens of the person."""

    def authenticate_credentials(self, token: bytes) -> Any:
        if not token.isascii():
            raise AuthenticationFailed("Invalid token.")
        return super().authenticate_credentials(token)

    def authenticate(self, request: Request | HttpRequest) -> Any:
        found = super().authenticate(request)
        if found is not None:
            self._limit(request, found[1])
        return found

    def _limit(self, request: Request | HttpRequest, auth: Any) -> None:
        """A personal token may be for reading alone. Others, which most requests come with, are not looked up again."""
        if auth.pk in _ORDINARY:
            return
        personal = PersonalToken.objects.filter(digest=auth.digest).first()
        if personal is None:
            if len(_ORDINARY) >= MOST_REMEMBERED:
                _ORDINARY.clear()
            _ORDINARY.add(auth.pk)
            return
        if personal.scope == PersonalToken.READ and request.method not in SAFE_METHODS:
            raise PermissionDenied(f"The token “{personal.name}” may only read: make one with the scope all.")
        tokens.used(personal, timezone.now())

    def _cleanup_token(self, auth_token: Any) -> bool:
        """Whether the token has expired; expired ones go away with the next sign-in."""
        return auth_token.expiry is not None and auth_token.expiry < timezone.now()
