"""What a page of ours may load and run: nothing but our own files, and no inline script or style."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

_COMMON = "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
STRICT = f"default-src 'self'; {_COMMON}"
# Swagger's page styles itself inline. Nothing comes from another host there either.
_STYLED = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
STYLED = f"{_STYLED}; {_COMMON}"
# Alpine in the admin needs eval, Swagger's one-file page an inline script.
RELAXED = f"{_STYLED}; script-src 'self' 'unsafe-inline' 'unsafe-eval'; {_COMMON}"
DOCS, ADMIN = "/api/v1/docs/", "/admin/"
HEADER = "Content-Security-Policy"

Respond = Callable[[HttpRequest], HttpResponseBase] | Callable[[HttpRequest], Awaitable[HttpResponseBase]]


@sync_and_async_middleware
def content_security_policy(get_response: Any) -> Respond:
    """Adds the header to every answer; the relaxed one only for staff, on the pages that cannot do without it."""

    if iscoroutinefunction(get_response):  # log streams must not cost a thread each

        async def respond_async(request: HttpRequest) -> HttpResponseBase:
            response: HttpResponseBase = await get_response(request)
            staff = request.path.startswith((DOCS, ADMIN)) and (await request.auser()).is_staff
            return _stamp(request, response, staff=staff)

        return respond_async

    def respond(request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase = get_response(request)
        staff = request.path.startswith((DOCS, ADMIN)) and request.user.is_staff
        return _stamp(request, response, staff=staff)

    return respond


def _stamp(request: HttpRequest, response: HttpResponseBase, *, staff: bool) -> HttpResponseBase:
    if HEADER not in response:
        response[HEADER] = RELAXED if staff else STYLED if request.path.startswith(DOCS) else STRICT
    return response
