"""Stored logs over REST: the raw bytes, or the text that a terminal would show in the end."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import timedelta

from django.http import Http404, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from jobs import logs, retention
from jobs.api import schemas
from jobs.api.base import ApiView, own_job_or_403, streamed, whole
from jobs.api.errors import Gone
from jobs.api.log_file import download
from jobs.models import Attempt, Job

LARGEST_ANSWER = 8 * 2**20
REST_WAIT_S = 10.0
"""How long a read waits for bytes of a log whose attempt has just ended: the relay may be a little behind."""
REST_EXPECTED_S = 60.0
"""After this nobody waits for them any more."""

_ATTEMPT = OpenApiParameter("attempt", int, description="Which attempt; the latest without it.")
_PARAMETERS = [
    _ATTEMPT,
    OpenApiParameter("offset", int, description="The first byte wanted."),
    OpenApiParameter("limit", int, description=f"At most so many bytes; one answer has {LARGEST_ANSWER} at most."),
    OpenApiParameter(
        "format",
        str,
        enum=["raw", "text", "file"],
        description="text: the whole log as a terminal would show it in the end; file: all of it as it was written, for a download "
        "(the header Range is understood, offset and limit are not; a line says where its middle was cut out).",
    ),
]


class WhateverIsAccepted(DefaultContentNegotiation):
    """Logs are bytes or text whatever `Accept` says; refusals are JSON."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, renderer.media_type or ""


class LogView(ApiView):
    """The stored log of an attempt."""

    content_negotiation_class = WhateverIsAccepted

    @extend_schema(
        operation_id="jobs_log",
        parameters=_PARAMETERS,
        responses={
            (200, "application/octet-stream"): OpenApiResponse(
                OpenApiTypes.BINARY,
                "The bytes as the command wrote them; the header X-Log-Size is the size so far. Where a log was longer than "
                "AUTOTRAINER_LOG_LIMIT its middle was cut out: X-Log-Cut says what (from-to); an answer stops before it, and one that "
                "was asked for from inside it begins at its end. X-Log-Offset is the offset of the answer's first byte.",
            ),
            (200, "text/plain"): OpenApiTypes.STR,
            (206, "application/octet-stream"): OpenApiResponse(OpenApiTypes.BINARY, "format=file: the part that Range asked for."),
            416: OpenApiResponse(description="format=file: Range asks for nothing that is there; Content-Range says how long it is."),
            410: OpenApiResponse(schemas.ErrorBody, "The log was removed AUTOTRAINER_RETENTION_DAYS after the job's end."),
        },
    )
    def get(self, request: Request, id: int) -> HttpResponseBase:
        job = own_job_or_403(request, id)
        form = request.GET.get("format", "raw")
        if form not in ("raw", "text", "file"):
            raise ValidationError({"format": ["raw, text or file."]})
        offset, limit = whole(request, "offset", 0), whole(request, "limit", LARGEST_ANSWER)
        attempt = find_attempt(job, whole(request, "attempt", 0, least=1))
        if removed := retention.removed(attempt):
            raise Gone(removed)
        if attempt and (form != "raw" or offset + limit > logs.size(job.pk, attempt.number)):
            _await_rest(attempt)
        if form == "file":
            return download(request, job.pk, attempt.number if attempt else 0)
        return _text(request, job, attempt) if form == "text" else _raw(job, attempt, offset, min(limit, LARGEST_ANSWER))


def find_attempt(job: Job, number: int) -> Attempt | None:
    """This attempt, or with 0 the latest, None where there is none yet; raises Http404."""
    if not number:
        return job.attempts.order_by("number").last()
    found = job.attempts.filter(number=number).first()
    if found is None:
        raise Http404
    return found


def _await_rest(attempt: Attempt) -> None:
    """Give the relay a moment to bring the last bytes of an attempt that has just ended."""
    if attempt.ended_at is None or attempt.ended_at < timezone.now() - timedelta(seconds=REST_EXPECTED_S):
        return
    deadline = time.monotonic() + REST_WAIT_S
    while logs.size(attempt.job_id, attempt.number) < attempt.log_bytes and time.monotonic() < deadline:
        time.sleep(0.05)


def _raw(job: Job, attempt: Attempt | None, offset: int, limit: int) -> HttpResponse:
    number = attempt.number if attempt else 0
    found = logs.piece(job.pk, number, offset, limit)
    size, cut = logs.size(job.pk, number), logs.cut_of(job.pk, number)
    answer = HttpResponse(found.data, content_type="application/octet-stream")
    answer.headers["X-Log-Size"] = str(max(size, found.end if found.data else 0))
    answer.headers["X-Log-Offset"] = str(found.offset)
    if cut:
        answer.headers["X-Log-Cut"] = f"{cut.begin}-{cut.end}"
    answer.headers["Content-Disposition"] = f'attachment; filename="job-{job.pk}-attempt-{number}.log"'
    return answer


def _text(request: Request, job: Job, attempt: Attempt | None) -> StreamingHttpResponse:
    pieces = (text.encode() for text in logs.as_text(job.pk, attempt.number)) if attempt else iter(())
    answer = StreamingHttpResponse(streamed(request, pieces), content_type="text/plain; charset=utf-8")
    answer.headers["X-Content-Type-Options"] = "nosniff"
    return answer
