"""What all REST views have in common: the body's reader, pages, and who asks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import IO, Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import Http404, HttpRequest
from rest_framework.exceptions import ParseError, PermissionDenied, ValidationError
from rest_framework.pagination import LimitOffsetPagination
from rest_framework.parsers import JSONParser
from rest_framework.request import Request
from rest_framework.views import APIView

from jobs import access
from jobs.api.errors import LengthRequired
from jobs.fields import unfit
from jobs.models import Job, User


class Body(JSONParser):
    """A JSON object in which every text can be stored."""

    def parse(self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            data = json.loads(stream.read().decode(), parse_constant=_no_constant)
        except UnicodeDecodeError as exc:
            raise ParseError(f"The body is not UTF-8 text (byte {exc.start}).") from exc
        except (ValueError, RecursionError) as exc:
            raise ParseError(f"The body is not readable as JSON: {exc}.") from exc
        if not isinstance(data, dict):
            raise ParseError("The body must be a JSON object, such as {}.")
        _refuse_unfit(data)
        return data


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _refuse_unfit(data: dict[str, Any]) -> None:
    """NUL bytes and lone surrogates break databases, shells and answers alike: none comes in, wherever it stands."""
    for name, value in data.items():
        if unfit(name):
            raise ParseError(f"The name of a field: {unfit(name)}")
        pending = [value]
        while pending:
            each = pending.pop()
            if isinstance(each, str) and (why := unfit(each)):
                raise ValidationError({name: [why]})
            if isinstance(each, dict):
                pending += [*each, *each.values()]
            elif isinstance(each, list):
                pending += each


class Pages(LimitOffsetPagination):
    default_limit = 50
    max_limit = 1000

    def get_limit(self, request: Request) -> int:
        return min(whole(request, "limit", self.default_limit or 50, least=1), self.max_limit or 1000)

    def get_offset(self, request: Request) -> int:
        return whole(request, "offset", 0)


class LongPages(Pages):
    """For lists that people want whole: events, hosts, devices."""

    default_limit = 200


def whole(request: Request | HttpRequest, name: str, default: int, *, least: int = 0) -> int:
    """A number in the query; raises ValidationError."""
    text = request.GET.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 18) or int(text) < least:
        raise ValidationError({name: [f"Write a whole number of {least} or more."]})
    return int(text)


class ApiView(APIView):
    parser_classes = [Body]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self._measure(request)
        super().initial(request, *args, **kwargs)
        if any(isinstance(part, str) and unfit(part) for part in kwargs.values()):
            raise Http404  # there is no such host, and PostgreSQL would fail on its name

    def _measure(self, request: Request) -> None:
        """Refuse a body that is too large before anything reads it, and one of unknown size: it would be taken for none."""
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        length = request.META.get("CONTENT_LENGTH") or "0"
        if "HTTP_TRANSFER_ENCODING" in request.META and length == "0":
            raise LengthRequired
        if not length.isdecimal() or int(length) > limit:
            raise ParseError(f"The body is larger than {limit // 2**20} MiB: put large data into a file on the host and name its path.")


def person(request: Request | HttpRequest) -> User:
    """Who is signed in; the permission classes have let nobody else in."""
    user = request.user
    if not isinstance(user, User):
        raise PermissionDenied
    return user


def body_of(request: Request) -> dict[str, Any]:
    """The fields of the body: our parser lets nothing through but an object."""
    data: Any = request.data
    return dict(data)


def job_or_404(request: Request, number: int) -> Job:
    job = access.visible_jobs(person(request)).select_related("owner").filter(pk=number).first()
    if job is None:
        raise Http404
    return job


def own_job_or_403(request: Request, number: int) -> Job:
    """A job whose details the asker may see."""
    job = job_or_404(request, number)
    if not access.may_see_details(person(request), job):
        raise PermissionDenied("Only its owner and operators see this.")
    return job


def no_fields(data: Mapping[str, Any], *known: str) -> None:
    """Refuse what an action would silently ignore."""
    if unknown := [name for name in data if name not in known]:
        raise ValidationError({unknown[0]: ["There is no such field: mend its name or leave it out."]})


def operator(request: Request) -> User:
    user = person(request)
    if not access.is_operator(user):
        raise PermissionDenied("Only operators may do this.")
    return user


def streamed(request: Request, pieces: Iterator[bytes]) -> Iterator[bytes] | AsyncIterator[bytes]:
    """The content of a long answer. Making it takes seconds: that must not hold up everybody else's requests."""
    return _in_other_threads(pieces) if isinstance(request._request, ASGIRequest) else pieces


async def _in_other_threads(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    while piece := await sync_to_async(lambda: next(pieces, b""), thread_sensitive=False)():
        yield piece
