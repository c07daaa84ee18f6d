"""Tokens: sign in for one, sign it out again."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import authenticate
from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema
from knox.models import AuthToken
from rest_framework.exceptions import AuthenticationFailed, Throttled, ValidationError
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from jobs import access, audit, eventphrases
from jobs.api import schemas
from jobs.api.base import ApiView, body_of, no_fields, person
from jobs.api.representation import moment
from jobs.models import User
from jobs.models.audit import About, Act

_ANSWERS = {
    200: schemas.TokenBody,
    401: OpenApiResponse(schemas.ErrorBody, "The user name or the password is wrong."),
    429: OpenApiResponse(schemas.ErrorBody, f"More than {access.LOGINS_PER_MINUTE} tries a minute of an address for a user: Retry-After."),
}


class LoginView(ApiView):
    """A user name and a password for a token."""

    authentication_classes = []
    permission_classes = [AllowAny]

    @extend_schema(operation_id="auth_login", request=schemas.LoginBody, responses=_ANSWERS)
    def post(self, request: Request) -> Response:
        body = body_of(request)
        no_fields(body, "username", "password")
        username, password = _text(body, "username"), _text(body, "password")
        if wait_s := access.login_wait_s(request.META.get("REMOTE_ADDR", ""), username):
            raise Throttled(wait=wait_s)
        user = authenticate(request, username=username, password=password)
        if not isinstance(user, User):
            raise AuthenticationFailed("The user name or the password is wrong.")
        AuthToken.objects.filter(user=user, expiry__lt=timezone.now()).delete()
        token, secret = AuthToken.objects.create(user)
        audit.record(user, Act.SIGNED_IN, About.PERSON, target=username, detail=eventphrases.WITH_PASSWORD_FOR_TOKEN)
        return Response({"token": secret, "expires_at": moment(token.expiry)})

    def get_authenticate_header(self, request: Request) -> str:
        """A wrong password is a 401, though nothing else could sign in here."""
        return "Bearer"


class LogoutView(ApiView):
    """Make the token of this request useless."""

    @extend_schema(operation_id="auth_logout", request={"application/json": schemas.NOTHING_SCHEMA}, responses={204: None})
    def post(self, request: Request) -> Response:
        no_fields(body_of(request))
        if isinstance(request.auth, AuthToken):
            request.auth.delete()
        return Response(status=204)


class MeView(ApiView):
    """Who the token or the session of this request belongs to."""

    @extend_schema(operation_id="auth_me", responses=schemas.MeBody)
    def get(self, request: Request) -> Response:
        user = person(request)
        return Response({"username": user.get_username(), "role": user.role})


def _text(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value or len(value) > 4096:
        raise ValidationError({name: ["Write this as text." if value else "This is missing."]})
    return value
