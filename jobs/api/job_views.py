"""Jobs over REST: thin, the work is in submission, lifecycle and actions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.http import Http404, HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.exceptions import PermissionDenied, ValidationError
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from jobs import access, actions, lifecycle, listing, submission, swaps
from jobs.api import etags, schemas
from jobs.api.base import ApiView, LongPages, Pages, body_of, job_or_404, no_fields, own_job_or_403, person
from jobs.api.errors import Conflict, invalid
from jobs.api.representation import event_body, job_bodies, job_body
from jobs.models import IdempotencyKey, Job, JobEvent, User
from jobs.states import JobState
from jobs.submission import SubmissionErrors

ORDERINGS = ("id", "name", "state", "priority", "created_at", "started_at", "ended_at")

_FILTERS = [
    OpenApiParameter("state", str, description="One or several states, with commas between."),
    OpenApiParameter("owner", str, description="A user name."),
    OpenApiParameter("search", str, description="In names, owners and numbers; in commands of jobs whose details you may see."),
    OpenApiParameter("ordering", str, description=f"One of {', '.join(ORDERINGS)}; with - before it backwards."),
]
_KEY = OpenApiParameter(
    "Idempotency-Key", str, OpenApiParameter.HEADER, description="For a week, the same key and body answer with the same job."
)


class JobPages(Pages):
    """Counts only where the page does not tell how many there are: counting what is searched for reads all of it."""

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        self.request, self.limit, self.offset = request, self.get_limit(request), self.get_offset(request)
        found = listing.page(queryset, self.offset, self.limit)
        last = len(found) < self.limit and (found or not self.offset)
        self.count = self.offset + len(found) if last else queryset.count()
        return found


class JobsView(ApiView, GenericAPIView[Job]):
    """The whole queue, newest first; submit."""

    pagination_class = JobPages

    @extend_schema(operation_id="jobs_list", parameters=_FILTERS, responses=schemas.JobBody(many=True))
    def get(self, request: Request) -> Response:
        viewer = person(request)
        page = self.paginate_queryset(filtered(access.visible_jobs(viewer), request, viewer)) or []
        return self.get_paginated_response(job_bodies(page, viewer))

    @extend_schema(
        operation_id="jobs_submit",
        parameters=[_KEY],
        request={"application/json": schemas.SUBMIT_SCHEMA},
        responses={201: schemas.JobBody},
    )
    def post(self, request: Request) -> Response:
        owner = person(request)
        if not access.may_submit(owner):
            raise PermissionDenied("Your role lets you see the queue, not submit to it: ask an administrator.")
        key = _idempotency_key(request)
        given = body_of(request)
        job, new = _submit_once(owner, given, key) if key else (_submit(owner, given), True)
        headers = {"Location": request.build_absolute_uri(f"{job.pk}/")} | ({} if new else {"Idempotent-Replayed": "true"})
        return Response(job_body(job, owner, fresh=new), status=201, headers=headers)


class JobView(ApiView):
    """One job; changed until its first start."""

    @extend_schema(operation_id="jobs_retrieve", parameters=[etags.HEADER], responses=schemas.JobBody)
    def get(self, request: Request, id: int) -> Response:
        return _told(job_or_404(request, id), person(request))

    @extend_schema(
        operation_id="jobs_edit",
        parameters=[etags.IF_MATCH, etags.HEADER],
        request={"application/json": schemas.EDIT_SCHEMA},
        responses={
            200: schemas.JobBody,
            409: OpenApiResponse(schemas.ErrorBody, "It has been started before."),
            412: OpenApiResponse(schemas.ErrorBody, "It was changed after you read it (If-Match)."),
        },
    )
    def patch(self, request: Request, id: int) -> Response:
        job, actor = job_or_404(request, id), person(request)
        if not access.may_change(actor, job):
            raise PermissionDenied("Only its owner and operators change a job.")
        with transaction.atomic():  # so that two edits at once cannot make two jobs wait for each other
            job = Job.objects.select_for_update(of=("self",)).select_related("owner").get(pk=job.pk)
            etags.check(request, job, actor)
            edited = _read(body_of(request), job.owner, partial=True, instance=job)
            try:
                actions.edit(job, edited, actor)
            except actions.ActionRefused as exc:
                raise Conflict(str(exc)) from exc
        return _told(job_or_404(request, id), actor)


def _told(job: Job, viewer: User) -> Response:
    body = job_body(job, viewer)
    return Response(body, headers=etags.headers(body))


class JobActionView(ApiView):
    """Cancel, hold or release."""

    action = ""
    done_status = 200

    @extend_schema(request={"application/json": schemas.NOTHING_SCHEMA}, responses={200: schemas.JobBody, 409: schemas.ErrorBody})
    def post(self, request: Request, id: int) -> Response:
        job, actor = job_or_404(request, id), person(request)
        if not actions.allowed(actor, job, self.action):
            raise PermissionDenied("Only its owner and operators may do this.")
        no_fields(body_of(request))
        try:
            done = actions.perform(self.action, job, actor)
        except actions.ActionRefused as exc:
            raise Conflict(str(exc)) from exc
        return Response(job_body(done, actor), status=self.done_status)


class JobResubmitView(JobActionView):
    """A new job like this one, the asker's own."""

    action = "resubmit"
    done_status = 201

    @extend_schema(request={"application/json": schemas.NOTHING_SCHEMA}, responses={201: schemas.JobBody, 409: schemas.ErrorBody})
    def post(self, request: Request, id: int) -> Response:
        return super().post(request, id)


class JobEventsView(ApiView, GenericAPIView[JobEvent]):
    """What happened to a job, oldest first."""

    pagination_class = LongPages

    @extend_schema(operation_id="jobs_events", responses=schemas.EventBody(many=True))
    def get(self, request: Request, id: int) -> Response:
        job = own_job_or_403(request, id)
        page = self.paginate_queryset(job.events.select_related("actor").order_by("id")) or []
        return self.get_paginated_response([event_body(event) for event in page])


class JobSwapView(ApiView):
    """The content of a job's swap, counted from 1, as it was handed in."""

    @extend_schema(operation_id="jobs_swap", responses={(200, "text/plain"): OpenApiTypes.STR})
    def get(self, request: Request, id: int, number: int) -> HttpResponse:
        rows = own_job_or_403(request, id).swaps
        data = swaps.content_of(rows[number - 1]) if 0 < number <= len(rows) else None
        if data is None:
            raise Http404
        return HttpResponse(data, content_type="text/plain; charset=utf-8", headers={"X-Content-Type-Options": "nosniff"})


# --- submit once --------------------------------------------------------------------------------------------------------


def _read(data: Mapping[str, Any], owner: User, **how: Any) -> submission.Submission:
    try:
        return submission.validate(data, owner=owner, **how)
    except SubmissionErrors as exc:
        raise invalid(exc) from exc


def _submit(owner: User, data: Mapping[str, Any]) -> Job:
    read = _read(data, owner)
    return lifecycle.submit(owner, read.fields, after=read.after or (), hold=read.hold)


def _idempotency_key(request: Request) -> str:
    key: str = request.headers.get("Idempotency-Key", "")
    if len(key) > 200 or not key.isprintable():
        raise ValidationError({"Idempotency-Key": ["At most 200 printable characters."]})
    return key


def _submit_once(owner: User, data: Mapping[str, Any], key: str) -> tuple[Job, bool]:
    """The job of this key and whether it is new; raises Conflict where the key was used for something else."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    if earlier := _submitted_before(owner, key, fingerprint):
        return earlier, False
    try:
        with transaction.atomic():
            job = _submit(owner, data)
            IdempotencyKey.objects.create(owner=owner, key=key, fingerprint=fingerprint, job=job, created_at=timezone.now())
            return job, True
    except IntegrityError:  # the same submission at the same moment came first; ours is undone
        earlier = _submitted_before(owner, key, fingerprint)
        if earlier is None:
            raise
        return earlier, False


def _submitted_before(owner: User, key: str, fingerprint: str) -> Job | None:
    used = IdempotencyKey.objects.select_related("job__owner").filter(owner=owner, key=key).first()
    if used is None:
        return None
    if used.fingerprint != fingerprint:
        raise Conflict(f"This Idempotency-Key was used for job {used.job_id} with another body: take a new key for a new job.")
    return used.job


# --- filters ------------------------------------------------------------------------------------------------------------


def filtered(jobs: QuerySet[Job], request: Request, viewer: User) -> QuerySet[Job]:
    """What the query asks for; raises ValidationError. Commands are searched only where the viewer may see them."""
    given = request.GET
    states = [word for word in given.get("state", "").split(",") if word]
    if unknown := [word for word in states if word not in set(JobState)]:
        raise ValidationError({"state": [f"There is no state {unknown[0]!r}: one of {', '.join(JobState)}."]})
    if states:
        jobs = jobs.filter(state__in=states)
    for name in ("owner", "search"):
        if "\0" in given.get(name, ""):
            raise ValidationError({name: ["NUL characters are not possible here: leave them out."]})
    if owner := given.get("owner"):
        jobs = jobs.filter(listing.owned_by(username=owner))
    if wanted := given.get("search", "").strip():
        jobs = jobs.filter(_matches(wanted, viewer))
    elif not states:
        jobs = listing.of_any_state(jobs)
    ordering = given.get("ordering") or "-id"
    if ordering.removeprefix("-") not in ORDERINGS:
        raise ValidationError({"ordering": [f"One of {', '.join(ORDERINGS)}, with - before it for backwards."]})
    return jobs.order_by(ordering, "-id")


def _matches(wanted: str, viewer: User) -> Q:
    found = Q(name__icontains=wanted) | listing.owned_by(username__icontains=wanted)
    if wanted.lstrip("#").isdecimal() and len(wanted) < 18:
        found |= Q(pk=int(wanted.lstrip("#")))
    mine = Q(owner=viewer) if not access.sees_all_details(viewer) else Q()
    return found | (Q(command__icontains=wanted) & mine)
