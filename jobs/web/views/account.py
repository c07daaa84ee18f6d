"""Signing in with a password or a link that works once, and signing out."""

from __future__ import annotations

import math
from typing import Any, cast

from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView, redirect_to_login
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from jobs import access, audit, eventphrases, tokens
from jobs.models.audit import About, Act
from jobs.web import onetime
from jobs.web.people import UserRequest, signed_in

BACKEND = "django.contrib.auth.backends.ModelBackend"


class SignInForm(AuthenticationForm):
    """Counts tries before it looks at the password, so that guessing is slow."""

    def clean(self) -> dict[str, Any]:
        address = self.request.META.get("REMOTE_ADDR", "") if self.request else ""
        wait_s = access.login_wait_s(address, self.cleaned_data.get("username") or "")
        if wait_s:
            raise ValidationError(_("Too many tries. Wait %(count)d s, then try again.") % {"count": math.ceil(wait_s)})
        cleaned: dict[str, Any] = super().clean() or {}
        return cleaned


class SignIn(LoginView):
    form_class = SignInForm
    template_name = "jobs/signin.html"
    redirect_authenticated_user = True

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        answer = super().form_valid(form)
        user = cast("UserRequest", self.request).user
        audit.record(user, Act.SIGNED_IN, About.PERSON, target=user.get_username(), detail=eventphrases.WITH_PASSWORD)
        return answer


sign_in = SignIn.as_view()


@never_cache
@require_GET
def sign_in_by_link(request: HttpRequest, token: str) -> HttpResponse:
    """Signs in whom the link was made for; a link that was used or is too old leads to the password, and says why."""
    user = onetime.spend(token)
    if user is None:
        note = _("This link has been used or is too old. manage.py signin prints a new one.")
        return render(request, "jobs/signin.html", {"note": note, "form": SignInForm(request), "next": "/"}, status=410)
    login(request, user, backend=BACKEND)
    audit.record(user, Act.SIGNED_IN, About.PERSON, target=user.get_username(), detail=eventphrases.WITH_LINK)
    response = redirect("overview")
    response["Referrer-Policy"] = "no-referrer"
    return response


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def my_tokens(request: UserRequest) -> HttpResponse:
    """Tokens for scripts: a new one's secret is shown in the answer to its making, and never again."""
    secret, error = "", ""
    if request.method == "POST" and request.POST.get("take_back"):
        if tokens.take_back(request.user, _number(request.POST["take_back"])):
            messages.success(request, _("The token is taken back: it opens nothing any more."))
        return redirect("tokens")
    if request.method == "POST":
        try:
            name, scope = request.POST.get("name", ""), request.POST.get("scope", "")
            _made, secret = tokens.make(request.user, name=name, scope=scope, days=_number(request.POST.get("days", "")))
        except tokens.TokenRefused as exc:
            error = str(exc)
    context = {"page": "tokens", "tokens": tokens.of(request.user), "secret": secret, "error": error, "days": tokens.DEFAULT_DAYS}
    return render(request, "jobs/tokens.html", context, status=400 if error else 200)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0


@never_cache
def to_sign_in(request: HttpRequest) -> HttpResponse:
    """In place of the admin's own sign-in page, which would not count tries. Who is signed in comes here for lack of rights."""
    if request.user.is_authenticated and not request.user.is_staff:
        raise PermissionDenied
    index = reverse("admin:index")
    return redirect(index) if request.user.is_authenticated else redirect_to_login(request.GET.get("next", index))
