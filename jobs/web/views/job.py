"""A job's page: how it stands in a sentence, what it prints, what happened to it, and what one can do."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.db.models import Value
from django.http import Http404, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from jobs import access, actions, artifacts, failures, logs, logsearch, phrases, quiet, retention
from jobs.capacity import hosts_now
from jobs.dispatch import queue_positions
from jobs.fields import LARGEST_ID, unfit
from jobs.models import Attempt, Job, JobEvent
from jobs.notifications.excerpt import excerpt
from jobs.states import ACTIVE, TERMINAL, HostState, JobState, Outcome
from jobs.tracebacks import Traceback
from jobs.web import loglines
from jobs.web.people import UserRequest, live_part, signed_in
from jobs.web.swapview import swaps_of
from jobs.web.verdict import verdict
from jobs.web.views.overview import Row

DEPENDENTS_SHOWN = 20
FAILURE_WITHIN = 2**22
"""Bytes of the end of a log in which its traceback is looked for."""
STOP_POLLING = 286
"""htmx stops asking at this answer: nothing changes any more."""


@signed_in
def job_page(request: UserRequest, number: int) -> HttpResponse:
    return render(request, "jobs/job.html", _context(request, _find(request, number)))


@live_part
def job_live(request: UserRequest, number: int) -> HttpResponse:
    job = _find(request, number)
    status = STOP_POLLING if job.state in TERMINAL else 200
    return render(request, "jobs/parts/job.html", _context(request, job), status=status)


@signed_in
@require_POST
def job_action(request: UserRequest, number: int, name: str) -> HttpResponse:
    """A button of the page. What the state no longer allows is said on the page, not as an error page."""
    job = _find(request, number)
    if name not in actions.ACTIONS:
        raise Http404
    try:
        done = actions.perform(name, job, request.user)
    except actions.ActionRefused as exc:
        messages.error(request, str(exc))
        return redirect("job", number)
    if done.pk != number:
        messages.success(request, _("This is a new job like #%(number)d.") % {"number": number})
    return redirect("job", done.pk)


@signed_in
def job_log_lines(request: UserRequest, number: int) -> HttpResponse:
    """{"line"} at `offset`, or {"offset"} of `line`, in the log of `attempt`."""
    job = _find(request, number)
    if not access.may_see_details(request.user, job):
        raise Http404
    attempt, offset, line = (_whole(request.GET.get(name, "")) for name in ("attempt", "offset", "line"))
    if attempt is None or (offset is None) == (line is None):
        return JsonResponse({"detail": "Give attempt, and either offset or line."}, status=400)
    if offset is not None:
        return JsonResponse({"line": loglines.line_at(number, attempt, offset)})
    return JsonResponse({"offset": loglines.offset_of(number, attempt, line or 1)})


@signed_in
def job_log_find(request: UserRequest, number: int) -> HttpResponse:
    """The lines of the log of `attempt` that have `q` in them, from the byte `from` on; `next` is where to go on, or null."""
    job = _find(request, number)
    if not access.may_see_details(request.user, job):
        raise Http404
    attempt, begin, text = _whole(request.GET.get("attempt", "")), _whole(request.GET.get("from", "0")), request.GET.get("q", "")
    if attempt is None or begin is None or not text.strip() or len(text) > logsearch.LONGEST_TEXT or unfit(text):
        return JsonResponse({"detail": "Give attempt, and q with at most 200 characters."}, status=400)
    found = logsearch.find(number, attempt, text, at=begin)
    hits = [
        {"line": loglines.line_at(number, attempt, hit.offset), "before": hit.before, "match": hit.match, "after": hit.after}
        for hit in found.hits
    ]
    return JsonResponse({"hits": hits, "next": found.next_at})


@signed_in
def job_log_failure(request: UserRequest, number: int) -> HttpResponse:
    """Leads to the line of the log where the traceback of `attempt` ends. Only on a click: counting a gigabyte's lines takes seconds."""
    job = _find(request, number)
    if not access.may_see_details(request.user, job):
        raise Http404
    attempt = _chosen(request, list(job.attempts.order_by("number")))
    found = _failure(job, attempt)
    if attempt is None or found is None:
        raise Http404
    size = logs.size(number, attempt.number)
    begin = max(0, size - FAILURE_WITHIN)
    at = logs.read(number, attempt.number, begin, size - begin).rfind(found.lines[-1].encode())
    line = f"#L{loglines.line_at(number, attempt.number, begin + at)}" if at >= 0 else "#log"
    return redirect(f"{reverse('job', args=[number])}?attempt={attempt.number}{line}")


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 17 else None


def _find(request: UserRequest, number: int) -> Job:
    job = access.visible_jobs(request.user).select_related("owner").filter(pk=number).first() if number <= LARGEST_ID else None
    if job is None:
        raise Http404
    return access.veiled(request.user, job)


def _context(request: UserRequest, job: Job) -> dict[str, Any]:
    now = timezone.now()
    attempts = list(job.attempts.order_by("number"))
    chosen = _chosen(request, attempts)
    may_see = access.may_see_details(request.user, job)
    position = queue_positions([job.pk]).get(job.pk) if job.state == JobState.QUEUED else None
    silent = _silent(job, attempts, now)
    events = list(job.events.defer("data").order_by("id")) if may_see else []
    return {
        "page": "jobs",
        "job": job,
        "verdict": verdict(job, attempts, position=position, silent=silent, private=not may_see, now=now),
        "actions": _buttons(request, job),
        "may_see": may_see,
        "attempts": attempts,
        "attempt": chosen,
        "row": Row(job, attempts[-1] if attempts else None),
        "asked_attempt": bool(chosen and request.GET.get("attempt")),
        "removed": retention.removed(chosen) if may_see else "",
        "log_size": logs.size(job.pk, chosen.number) if chosen and may_see else 0,
        "swaps": swaps_of(job, chosen) if may_see else [],
        "failure": _failure(job, chosen) if may_see else None,
        "alike": failures.alike(job, chosen) if may_see else None,
        "left": _left(job, chosen) if may_see else None,
        "events": events,
        "quiet": _quiet(chosen, events),
        **_related(job),
        "retries_left": max(0, job.max_retries - job.retries_spent),
    }


def _related(job: Job) -> dict[str, list[dict[str, Any]]]:
    """The jobs that it comes after, and the first ones of those that come after it."""
    parents = job.after.order_by().values("pk", "state", kind=Value("parents"))
    first = job.dependents.order_by("id").values("pk")[:DEPENDENTS_SHOWN]
    dependents = Job.objects.filter(pk__in=first).order_by().values("pk", "state", kind=Value("dependents"))
    others: list[Any] = list(parents.union(dependents, all=True).order_by("pk"))
    return {kind: [other for other in others if other["kind"] == kind] for kind in ("parents", "dependents")}


def _quiet(attempt: Attempt | None, events: Sequence[JobEvent]) -> dict[str, str] | None:
    """That a running attempt may hang, and what its processes were doing when that was found."""
    if attempt is None or attempt.outcome:
        return None
    said = next((event.message for event in events if event.type == quiet.EVENT and event.attempt == attempt.number), "")
    return {"message": said, "stack": quiet.stack_of(attempt)} if said else None


def _failure(job: Job, attempt: Attempt | None) -> Traceback | None:
    """The last traceback of an attempt that failed, to be read first."""
    if attempt is None or attempt.outcome != Outcome.FAILED or attempt.log_removed_at:
        return None
    return _traceback(job.uid, job.pk, attempt.number, logs.size(job.pk, attempt.number))


@functools.lru_cache(maxsize=64)
def _traceback(uid: UUID, job_id: int, number: int, size: int) -> Traceback | None:
    """Of an attempt whose log has this size. Kept, since reading it takes 100 ms; by the UUID, since numbers repeat after a restore."""
    return excerpt(Attempt(job_id=job_id, number=number)).traceback


def _left(job: Job, attempt: Attempt | None) -> artifacts.Left | None:
    """What an attempt left; of one that runs nobody asks its host with each look at the page."""
    if not job.artifacts or attempt is None or not attempt.outcome:
        return None
    return artifacts.left_by(job, attempt, wait_s=0.5)


def _chosen(request: UserRequest, attempts: Sequence[Attempt]) -> Attempt | None:
    """The attempt in the address, else the last one."""
    wanted = request.GET.get("attempt")
    return next((a for a in attempts if str(a.number) == wanted), attempts[-1] if attempts else None)


def _buttons(request: UserRequest, job: Job) -> list[dict[str, str]]:
    labels = {"cancel": _("Cancel"), "hold": _("Hold"), "release": _("Release"), "resubmit": _("Run again")}
    sure = _("End this training now? What it has not saved is lost.") if job.state in ACTIVE else ""
    return [
        {"name": name, "label": labels[name], "sure": sure if name == "cancel" else "", "danger": "danger" if name == "cancel" else ""}
        for name in actions.available(request.user, job)
        if not (name == "cancel" and job.state == JobState.STOPPING)
    ]


def _silent(job: Job, attempts: Sequence[Attempt], now: datetime) -> str:
    """Why the host that runs it is not heard, as advice; empty where it is."""
    if job.state not in ACTIVE or not attempts:
        return ""
    host = next((host for host in hosts_now(now=now) if host.name == attempts[-1].host), None)
    if host is None or not (host.stale or host.state in (HostState.UNREACHABLE, HostState.LOST)):
        return ""
    said = {"host": host.name, "reason": phrases.said_of_host(host.reason)}
    return _("%(host)s %(reason)s. The training goes on there; its log comes when the host is heard again.") % said
