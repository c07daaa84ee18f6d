"""Who asks: requests of people who are signed in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, cast

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache

from jobs.models import User

P = ParamSpec("P")


class UserRequest(HttpRequest):
    """A request behind `signed_in` or `live_part`."""

    user: User


View = Callable[Concatenate[UserRequest, P], HttpResponse]


def signed_in(view: View[P]) -> View[P]:
    """A page: whoever is not signed in goes to the sign-in page. Never kept in caches, so that "back" shows what is."""
    return never_cache(login_required(view))


def live_part(view: View[P]) -> View[P]:
    """A part that a page asks for again and again: without a session the page is loaded anew, which leads to signing in."""

    @functools.wraps(view)
    def part(request: UserRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        if not request.user.is_authenticated:
            return HttpResponse(headers={"HX-Refresh": "true"})
        return view(request, *args, **kwargs)

    return cast("View[P]", never_cache(part))
