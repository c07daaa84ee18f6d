"""Who asks: a token in `Authorization: Bearer …`. Sessions are Django's own."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from knox.auth import TokenAuthentication
from rest_framework.exceptions import AuthenticationFailed


class BearerAuthentication(TokenAuthentication):  # type: ignore[misc] # knox has no types
    """Knox tokens at the cost of one query a request; its own also looks through all other tokens of the person."""

    def authenticate_credentials(self, token: bytes) -> Any:
        if not token.isascii():
            raise AuthenticationFailed("Invalid token.")
        return super().authenticate_credentials(token)

    def _cleanup_token(self, auth_token: Any) -> bool:
        """Whether the token has expired; expired ones go away with the next sign-in."""
        return auth_token.expiry is not None and auth_token.expiry < timezone.now()
