"""Templates of jobs over REST: one's own, as the submit page keeps and fills them."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.exceptions import PermissionDenied, ValidationError
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from jobs import access, jobtemplates
from jobs.api import etags, schemas
from jobs.api.base import ApiView, LongPages, body_of, no_fields, person
from jobs.api.errors import Changed
from jobs.api.representation import moment
from jobs.jobtemplates import TemplateRefused
from jobs.models import JobTemplate, User

_NAME = OpenApiParameter("name", str, description="Only the one of this name.")


class TemplatesView(ApiView, GenericAPIView[JobTemplate]):
    """Your own templates, by name."""

    pagination_class = LongPages

    @extend_schema(operation_id="templates", parameters=[_NAME], responses=schemas.TemplateBody(many=True))
    def get(self, request: Request) -> Response:
        mine, name = jobtemplates.of(person(request)), request.GET.get("name")
        if name is not None and "\0" in name:
            raise ValidationError({"name": ["NUL characters are not possible here: leave them out."]})
        page = self.paginate_queryset(mine if name is None else mine.filter(name=name)) or []
        return self.get_paginated_response([_body(template) for template in page])

    @extend_schema(
        operation_id="templates_make",
        request={"application/json": schemas.MAKE_TEMPLATE_SCHEMA},
        responses={201: schemas.TemplateBody},
    )
    def post(self, request: Request) -> Response:
        owner, body = _submitter(request), body_of(request)
        given = _given(body)
        for name in ("name", "fields"):
            if name not in given:
                raise ValidationError({name: ["This is missing."]})
        try:
            made = jobtemplates.make(owner, name=given["name"], given=given["fields"])
        except TemplateRefused as exc:
            raise _invalid(exc) from exc
        return _told(made, status=201, headers={"Location": request.build_absolute_uri(f"{made.pk}/")})


class TemplateView(ApiView):
    """One of your own templates."""

    @extend_schema(operation_id="templates_retrieve", parameters=[etags.HEADER], responses=schemas.TemplateBody)
    def get(self, request: Request, id: int) -> Response:
        return _told(_mine(jobtemplates.of(person(request)), id))

    @extend_schema(
        operation_id="templates_change",
        parameters=[etags.IF_MATCH, etags.HEADER],
        request={"application/json": schemas.CHANGE_TEMPLATE_SCHEMA},
        responses={
            200: schemas.TemplateBody,
            412: OpenApiResponse(schemas.ErrorBody, "It was changed after you read it (If-Match)."),
        },
    )
    def patch(self, request: Request, id: int) -> Response:
        """`fields` takes the place of all that it had."""
        with transaction.atomic():
            template, given = _mine(jobtemplates.locked(person(request)), id), _given(body_of(request))
            if not etags.matches(request, lambda: _tag(template)):
                raise Changed(f"Template {id} was changed after you read it: read it again, then send your change with its new ETag.")
            try:
                changed = jobtemplates.change(template, name=given.get("name"), given=given.get("fields"))
            except TemplateRefused as exc:
                raise _invalid(exc) from exc
        return _told(changed)

    @extend_schema(operation_id="templates_delete", responses={204: None})
    def delete(self, request: Request, id: int) -> Response:
        if not jobtemplates.delete(person(request), id):
            raise Http404
        return Response(status=204)


def _submitter(request: Request) -> User:
    user = person(request)
    if not access.may_submit(user):
        raise PermissionDenied("Your role lets you see the queue, not submit to it: ask an administrator.")
    return user


def _mine(templates: QuerySet[JobTemplate], number: int) -> JobTemplate:
    template = templates.filter(pk=number).first()
    if template is None:
        raise Http404
    return template


def _given(body: dict[str, Any]) -> dict[str, Any]:
    no_fields(body, "name", "fields")
    if not isinstance(body.get("name", ""), str):
        raise ValidationError({"name": ["Write this as text."]})
    if not isinstance(body.get("fields", {}), dict):
        raise ValidationError({"fields": ['Write an object such as {"command": "python train.py"}.']})
    return body


def _invalid(refused: TemplateRefused) -> ValidationError:
    return ValidationError({"fields": refused.errors} if refused.of_fields else refused.errors)


def _told(template: JobTemplate, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_body(template), status=status, headers={"ETag": _tag(template)} | (headers or {}))


def _tag(template: JobTemplate) -> str:
    return etags.tag_of([template.pk, template.name, template.fields])


def _body(template: JobTemplate) -> dict[str, Any]:
    return {
        "id": template.pk,
        "name": template.name,
        "fields": template.fields,
        "created_at": moment(template.created_at),
        "changed_at": moment(template.changed_at),
    }
