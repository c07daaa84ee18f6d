"""What a job's attempts left behind, over REST: the list, and the files themselves, through their host."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePosixPath
from urllib.parse import quote

from django.http import Http404, HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from jobs import artifacts
from jobs.api import schemas
from jobs.api.base import ApiView, own_job_or_403, whole
from jobs.api.log_views import WhateverIsAccepted, find_attempt

_ATTEMPT = OpenApiParameter("attempt", int, description="Which attempt; the latest without it.")
_SIZES = {"thumb": artifacts.THUMBNAIL, "full": artifacts.FULL}


class ArtifactsView(ApiView):
    """Files that match the job's `artifacts`, as its host has them, or as they were when the attempt ended."""

    @extend_schema(operation_id="jobs_artifacts", parameters=[_ATTEMPT], responses={200: schemas.ArtifactsBody})
    def get(self, request: Request, id: int) -> Response:
        job = own_job_or_403(request, id)
        attempt = find_attempt(job, whole(request, "attempt", 0, least=1))
        left = artifacts.left_by(job, attempt) if attempt else artifacts.Left()
        results = [
            {
                "name": file.name,
                "size": file.size,
                "modified_at": datetime.fromtimestamp(file.modified_at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
                "picture": file.is_picture,
            }
            for file in left.files
        ]
        return Response({"attempt": attempt.number if attempt else None, "error": left.error, "results": results})


class ArtifactView(ApiView):
    """One of these files as a download, or with `size` a picture that is encoded anew."""

    content_negotiation_class = WhateverIsAccepted

    @extend_schema(
        operation_id="jobs_artifact",
        parameters=[
            _ATTEMPT,
            OpenApiParameter("name", str, required=True, description="As the list has it."),
            OpenApiParameter("size", str, enum=[*_SIZES], description="A picture, its longest side no longer than this."),
        ],
        responses={(200, "application/octet-stream"): OpenApiResponse(OpenApiTypes.BINARY, "The file; with `size` a PNG or JPEG.")},
    )
    def get(self, request: Request, id: int) -> HttpResponse:
        job = own_job_or_403(request, id)
        name, size = request.GET.get("name", ""), request.GET.get("size", "")
        if not name:
            raise ValidationError({"name": ["Say which file."]})
        if size and size not in _SIZES:
            raise ValidationError({"size": [f"One of {', '.join(_SIZES)}."]})
        attempt = find_attempt(job, whole(request, "attempt", 0, least=1))
        if attempt is None:
            raise Http404
        try:
            data, kind = artifacts.content(job, attempt, name), "application/octet-stream"
            if size:
                data, kind = artifacts.picture(data, longest=_SIZES[size])
        except artifacts.NotToBeHad as exc:
            raise Http404(str(exc)) from exc
        return HttpResponse(data, content_type=kind, headers=_headers(name, shown=bool(size)))


def _headers(name: str, *, shown: bool) -> dict[str, str]:
    """Nothing of it is ever taken for a page of ours."""
    plain = quote(PurePosixPath(name).name.encode(errors="replace")[:200])
    how = "inline" if shown else f"attachment; filename*=UTF-8''{plain}"
    return {"Content-Disposition": how, "X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}
