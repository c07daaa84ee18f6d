"""What attempts used of their devices, what they printed of loss and the like, and the last hour of each device, over REST."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from jobs import curves, rings, samples
from jobs.api import schemas
from jobs.api.base import ApiView, job_or_404, own_job_or_403, whole
from jobs.api.log_views import find_attempt
from jobs.models import Host

_ATTEMPT = OpenApiParameter("attempt", int, description="Which attempt; the latest without it.")


class SamplesView(ApiView):
    """Memory and utilisation of an attempt's devices over its life; for everybody who sees the queue."""

    @extend_schema(operation_id="jobs_samples", parameters=[_ATTEMPT], responses={200: schemas.SamplesBody})
    def get(self, request: Request, id: int) -> Response:
        attempt = find_attempt(job_or_404(request, id), whole(request, "attempt", 0, least=1))
        series = samples.series_of(attempt) if attempt else []
        return Response(
            {
                "attempt": attempt.number if attempt else None,
                "open": attempt is not None and not attempt.outcome,
                "series": [one.body() | {"began_at": _moment(one.began_at)} for one in series],
            }
        )


class CurvesView(ApiView):
    """Numbers that a training printed, read from its log; `complete` is false while an answer does not cover all of it yet: ask again."""

    @extend_schema(operation_id="jobs_curves", parameters=[_ATTEMPT], responses={200: schemas.CurvesBody})
    def get(self, request: Request, id: int) -> Response:
        job = own_job_or_403(request, id)
        attempt = find_attempt(job, whole(request, "attempt", 0, least=1))
        reading = curves.read(job.pk, attempt.number) if attempt else curves.Reading(whole=True)
        return Response(
            {
                "attempt": attempt.number if attempt else None,
                "open": attempt is not None and not attempt.outcome,
                "complete": reading.whole,
                "curves": [_curve(curve) for curve in reading.curves],
            }
        )


class HistoryView(ApiView):
    """The last hour of each device, a point a minute, the newest last."""

    @extend_schema(operation_id="devices_history", responses={200: schemas.HistoryBody})
    def get(self, request: Request) -> Response:
        found = rings.hours(Host.objects.values_list("name", flat=True), now_s=time.time())
        told = [
            {"uuid": uuid, "utilization_pct": hour.utilization_pct, "memory_used_mib": hour.memory_used_mib} for uuid, hour in found.items()
        ]
        return Response({"step_s": 60, "results": sorted(told, key=lambda one: str(one["uuid"]))})


def _curve(curve: curves.Curve) -> dict[str, Any]:
    return {
        "name": curve.name,
        "every": curve.every,
        "points": curve.points,
        "last": curve.last,
        "min": curve.least,
        "max": curve.most,
    }


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
