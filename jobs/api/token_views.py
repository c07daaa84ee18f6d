"""Personal tokens over REST: a list, a new one, one less."""

from __future__ import annotations

from typing import Any

from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from jobs import tokens
from jobs.api import schemas
from jobs.api.base import ApiView, LongPages, body_of, no_fields, person
from jobs.api.representation import moment
from jobs.models import PersonalToken
from jobs.tokens import DEFAULT_DAYS, TokenRefused


class TokensView(ApiView, GenericAPIView[PersonalToken]):
    """Your own tokens that still work; their secrets are shown once, when they are made."""

    pagination_class = LongPages

    @extend_schema(operation_id="tokens", responses=schemas.PersonalTokenBody(many=True))
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(tokens.of(person(request))) or []
        return self.get_paginated_response([_body(token) for token in page])

    @extend_schema(operation_id="tokens_make", request=schemas.MakeTokenBody, responses={201: schemas.MadeTokenBody})
    def post(self, request: Request) -> Response:
        body = body_of(request)
        no_fields(body, "name", "scope", "days")
        days = body.get("days", DEFAULT_DAYS)
        if not isinstance(days, int) or isinstance(days, bool):
            raise ValidationError({"days": ["Write a whole number."]})
        try:
            made, secret = tokens.make(
                person(request), name=str(body.get("name") or ""), scope=str(body.get("scope") or PersonalToken.ALL), days=days
            )
        except TokenRefused as exc:
            raise ValidationError({exc.field: [str(exc)]}) from exc
        return Response(_body(made) | {"token": secret}, status=201)


class TokenView(ApiView):
    """One of your own tokens."""

    @extend_schema(operation_id="tokens_take_back", responses={204: None})
    def delete(self, request: Request, id: int) -> Response:
        if not tokens.take_back(person(request), id):
            raise Http404
        return Response(status=204)


def _body(token: PersonalToken) -> dict[str, Any]:
    return {
        "id": token.pk,
        "name": token.name,
        "scope": token.scope,
        "created_at": moment(token.created_at),
        "expires_at": moment(token.expires_at),
        "last_used_at": moment(token.last_used_at),
    }
