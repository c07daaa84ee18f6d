"""All jobs: filtered by the address, so that a filter can be kept and sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_POST

from jobs import access, actions, listing
from jobs.dispatch import queue_positions
from jobs.fields import searched_number
from jobs.models import Job
from jobs.states import ACTIVE, TERMINAL, WAITING, JobState
from jobs.web.people import UserRequest, live_part, signed_in
from jobs.web.views.overview import Row, last_attempts

PER_PAGE = 50
MOST_AT_ONCE, REFUSALS_SHOWN = 200, 5

FILTERS: dict[str, tuple[str | Promise, frozenset[JobState]]] = {
    "all": (_("All"), frozenset(JobState)),
    "waiting": (_("Waiting"), WAITING),
    "active": (_("Running"), ACTIVE),
    "completed": (_("Completed"), frozenset({JobState.COMPLETED})),
    "failed": (_("Failed"), frozenset({JobState.FAILED})),
    "cancelled": (_("Cancelled"), frozenset({JobState.CANCELLED})),
}
"""What the chips offer; a single state or "ended" works in the address too."""
_MORE: dict[str, frozenset[JobState]] = {"ended": TERMINAL, **{state.value: frozenset({state}) for state in JobState}}


@dataclass(frozen=True, slots=True)
class Query:
    """The filter in an address; whatever is not understood there is left out."""

    state: str
    whose: str
    search: str
    page: int

    def url(self, **changes: str | int) -> str:
        """The address of this filter with changes, without what is the default."""
        wanted: dict[str, Any] = {"state": self.state, "whose": self.whose, "search": self.search, "page": self.page} | changes
        defaults = {"state": "all", "search": "", "page": 1}
        kept = {name: value for name, value in wanted.items() if value != defaults.get(name)}
        return "?" + urlencode(kept)

    def states(self) -> frozenset[JobState]:
        return FILTERS[self.state][1] if self.state in FILTERS else _MORE[self.state]


def read_query(request: UserRequest) -> Query:
    given = request.GET
    state = given.get("state", "all")
    page = given.get("page", "1")
    default = "mine" if request.user.may_submit and not request.user.is_operator else "all"
    return Query(
        state=state if state in FILTERS or state in _MORE else "all",
        whose=given["whose"] if given.get("whose") in ("mine", "all") else default,
        search=given.get("search", "").replace("\0", "")[:200].strip(),
        page=min(int(page), 100_000) if page.isascii() and page.isdecimal() and len(page) < 8 and int(page) else 1,
    )


@signed_in
def job_list(request: UserRequest) -> HttpResponse:
    return render(request, "jobs/joblist.html", _context(request))


@live_part
def job_list_live(request: UserRequest) -> HttpResponse:
    return render(request, "jobs/parts/joblist.html", _context(request))


@signed_in
@require_POST
def job_list_act(request: UserRequest) -> HttpResponse:
    """One action on all jobs that were ticked; what is refused is said, and keeps no other from being done."""
    name = request.POST.get("action", "")
    if name not in actions.ACTIONS:
        raise Http404
    numbers = [int(text) for text in request.POST.getlist("job")[:MOST_AT_ONCE] if text.isascii() and text.isdecimal() and len(text) < 19]
    done, refused = 0, list[str]()
    for job in access.visible_jobs(request.user).filter(pk__in=numbers).select_related("owner").order_by("pk"):
        try:
            actions.perform(name, job, request.user)
            done += 1
        except actions.ActionRefused as exc:
            refused.append(str(exc))
        except PermissionDenied:
            refused.append(_("#%(number)d is not yours.") % {"number": job.pk})
    if done:
        messages.success(request, ngettext("Done for %(count)d job.", "Done for %(count)d jobs.", done) % {"count": done})
    for why in refused[:REFUSALS_SHOWN]:
        messages.error(request, why)
    if len(refused) > REFUSALS_SHOWN:
        messages.error(request, _("And %(count)d more were refused.") % {"count": len(refused) - REFUSALS_SHOWN})
    if not numbers:
        messages.error(request, _("Tick the jobs first."))
    back = request.POST.get("back", "")
    return redirect(reverse("jobs") + (back if back.startswith("?") else ""))


def _context(request: UserRequest) -> dict[str, Any]:
    query = read_query(request)
    found = _found(request, query)
    counts: dict[str, int] = dict(found.order_by().values_list("state").annotate(n=Count("pk")))
    total = sum(counts.get(state, 0) for state in query.states())
    pages = max(1, -(-total // PER_PAGE))
    page = min(query.page, pages)
    chips = [
        {
            "name": label,
            "url": query.url(state=name, page=1),
            "current": name == query.state,
            "count": sum(counts.get(s, 0) for s in states),
        }
        for name, (label, states) in FILTERS.items()
    ]
    return {
        "page": "jobs",
        "query": query,
        "chips": chips,
        "rows": _rows(request, found.filter(state__in=query.states()), page),
        "total": total,
        "number": page,
        "pages": pages,
        "newer": query.url(page=page - 1) if page > 1 else "",
        "older": query.url(page=page + 1) if page < pages else "",
        "mine": query.url(whose="mine", page=1),
        "everyone": query.url(whose="all", page=1),
        "live": query.url(),
        "bulk": _bulk(request),
        "filtered": query.search or query.state != "all",
    }


def _bulk(request: UserRequest) -> list[dict[str, Any]]:
    """What may be done to several jobs at once, by somebody who may do it to any."""
    if not request.user.may_submit:
        return []
    sure = _("Cancel all that are ticked? What running ones have not saved is lost.")
    labels = {"cancel": _("Cancel"), "hold": _("Hold"), "release": _("Release"), "resubmit": _("Run again")}
    return [{"name": name, "label": label, "sure": sure if name == "cancel" else ""} for name, label in labels.items()]


def _found(request: HttpRequest, query: Query) -> QuerySet[Job]:
    """Of whom, and with these words in the name, the owner's name, or as the number."""
    jobs = access.visible_jobs(request.user)
    if query.whose == "mine":
        jobs = jobs.filter(owner=request.user.pk)
    if query.search:
        wanted = Q(name__icontains=query.search) | listing.owned_by(username__iexact=query.search)
        if number := searched_number(query.search):
            wanted |= Q(pk=number)
        jobs = jobs.filter(wanted)
    return jobs


def _rows(request: HttpRequest, jobs: QuerySet[Job], page: int) -> list[Row]:
    shown = listing.page(jobs.order_by("-id"), (page - 1) * PER_PAGE, PER_PAGE)
    last = last_attempts(shown)
    queued = [job.pk for job in shown if job.state == JobState.QUEUED]
    positions = queue_positions(queued) if queued else {}
    return [Row(access.veiled(request.user, job), last.get(job.pk), positions.get(job.pk)) for job in shown]
