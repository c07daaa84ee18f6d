"""The audit log: one row for each change that a person makes, written in the transaction of the change.

It is written where the change is made (jobs.lifecycle, drains, keeping, rules, tokens, people), so that page, admin, REST and
command line cannot forget it. Who it was is known there; from where is noted by a middleware for the time of the request.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from jobs.fields import unfit
from jobs.models import User
from jobs.models.audit import About, Act, AuditEntry, Via

LONGEST_DETAIL = 2000


@dataclass(frozen=True, slots=True)
class Door:
    via: Via
    address: str


_HERE = Door(Via.COMMAND, "")
_door: ContextVar[Door] = ContextVar("door", default=_HERE)


def note_door(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: for the time of a request, changes come through its door."""

    def respond(request: HttpRequest) -> HttpResponse:
        before = _door.set(Door(_via(request.path), str(request.META.get("REMOTE_ADDR") or "")[:64]))
        try:
            return get_response(request)
        finally:
            _door.reset(before)

    return respond


def _via(path: str) -> Via:
    return Via.API if path.startswith("/api/") else Via.ADMIN if path.startswith("/admin/") else Via.PAGE


def record(actor: User | None, act: Act, about: About, *, target: str | int, detail: str = "") -> None:
    """Add a row; `actor` is None for manage.py, which anybody may have run who can read the database."""
    door, name = _door.get(), actor.get_username() if actor else ""
    AuditEntry.objects.create(
        at=timezone.now(),
        actor=actor,
        actor_name=name,
        via=door.via,
        address=door.address,
        act=act,
        about=about,
        target=_storable(str(target))[:200],
        detail=_storable(detail)[:LONGEST_DETAIL],
    )


def _storable(text: str) -> str:
    return "".join(c for c in text if not unfit(c)) if unfit(text) else text
