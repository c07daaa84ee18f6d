"""The OpenAPI document and its page. Everybody may read it: it says what there is, not what is in it."""

from __future__ import annotations

import functools
from typing import Any

from django.utils.decorators import method_decorator
from django.views.decorators.clickjacking import xframe_options_deny
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView
from rest_framework.request import Request

STREAM_PATH = "/api/v1/jobs/{id}/log/stream/"
_EVENT = {
    "description": "The whole is text; tools that know server-sent events see one of these each time.",
    "type": ["string", "object"],
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9]+$"},
        "event": {"type": "string", "enum": ["log", "cut", "end"]},
        "data": {"type": "string", "description": "JSON."},
    },
    "required": ["id", "event", "data"],
}
_STREAM: dict[str, Any] = {
    "operationId": "jobs_log_stream",
    "description": "The log as server-sent events while it grows. `id` is the byte offset after the chunk: resume with Last-Event-ID.",
    "tags": ["jobs"],
    "parameters": [
        {"in": "path", "name": "id", "schema": {"type": "integer"}, "required": True},
        {"in": "query", "name": "attempt", "schema": {"type": "integer"}, "description": "Which attempt; the latest without it."},
        {"in": "query", "name": "offset", "schema": {"type": "integer"}, "description": "The byte to begin at; 0 without it."},
        {"in": "header", "name": "Last-Event-ID", "schema": {"type": "string"}, "description": "Goes before offset."},
    ],
    "responses": {
        "200": {
            "description": "`event: log`, its data a JSON string; `event: end` when the attempt is over, its data a JSON object.",
            "content": {"text/event-stream": {"schema": _EVENT}},
        },
    },
}


_REFUSED = {
    "description": "Refused: `errors` says which field, why, and what to do.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}},
}


def add_what_no_view_tells(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """A postprocessing hook: the stream, which is no REST framework view, and the one shape of all refusals."""
    paths = result["paths"]
    if log := paths.get("/api/v1/jobs/{id}/log/"):
        paths[STREAM_PATH] = {"get": {**_STREAM, "responses": {**_STREAM["responses"]}, "security": log["get"].get("security", [])}}
    for operations in paths.values():
        for operation in operations.values():
            operation["responses"].setdefault("4XX", _REFUSED)
    return result


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call] # registers itself
    target_class = "jobs.api.authentication.BearerAuthentication"
    name = "bearer"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer"}


class CachedGenerator(SchemaGenerator):
    """The document never changes while the process lives, and making it takes a good part of a second."""

    def get_schema(self, request: Request | None = None, public: bool = False) -> Any:
        return _document()


@functools.cache
def _document() -> Any:
    return SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]


class SchemaView(SpectacularAPIView):
    generator_class = CachedGenerator


@method_decorator(xframe_options_deny, name="dispatch")
class DocsView(SpectacularSwaggerView):
    """Swagger UI, all of it from this server."""
