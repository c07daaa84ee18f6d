"""Who was told of a job, and what became of it, over REST."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from jobs.api import schemas
from jobs.api.base import ApiView, LongPages, own_job_or_403
from jobs.api.representation import moment
from jobs.models import Notification


class NotificationsView(ApiView, GenericAPIView[Notification]):
    """Oldest first; `sending` and `pending` are still being tried, `dead` ones until somebody sends them again."""

    pagination_class = LongPages

    @extend_schema(operation_id="jobs_notifications", responses=schemas.NotificationBody(many=True))
    def get(self, request: Request, id: int) -> Response:
        job = own_job_or_403(request, id)
        page = self.paginate_queryset(Notification.objects.filter(job=job).order_by("id")) or []
        return self.get_paginated_response([_body(row) for row in page])


def _body(row: Notification) -> dict[str, Any]:
    return {
        "id": row.pk,
        "occasion": row.occasion,
        "channel": row.channel,
        "recipient": row.recipient,
        "state": row.state,
        "tries": row.tries,
        "error": row.error,
        "created_at": moment(row.created_at),
        "next_at": moment(row.next_at) if row.state == Notification.PENDING else None,
        "sent_at": moment(row.sent_at),
    }
