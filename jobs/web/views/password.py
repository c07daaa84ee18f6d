"""Choosing a password: by a link that was handed over, or with the old one."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.forms import PasswordChangeForm
from django.contrib.auth.views import PasswordChangeView, PasswordResetConfirmView
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.urls import reverse_lazy
from django.utils.translation import gettext as _

from jobs import access, audit, eventphrases
from jobs.models import User
from jobs.models.audit import About, Act


class OldAndNew(PasswordChangeForm):
    """Counts tries: whoever sits down at somebody's open browser must not guess here either."""

    def clean_old_password(self) -> str:
        if wait_s := access.login_wait_s("password page", self.user.get_username()):
            raise ValidationError(_("Too many tries. Wait %(count)d s, then try again.") % {"count": wait_s})
        return super().clean_old_password()


class ByLink(PasswordResetConfirmView):
    template_name = "jobs/password.html"
    success_url = reverse_lazy("signin")

    def get_user(self, uidb64: str) -> User | None:
        """Nobody whose account was closed; a number that is none is as good as a wrong one."""
        try:
            user = super().get_user(uidb64)
        except (ValueError, OverflowError):
            return None
        return user if isinstance(user, User) and user.is_active else None

    def form_valid(self, form: Any) -> HttpResponse:
        answer = super().form_valid(form)
        _told(form.user, "By a link.")
        messages.success(self.request, _("Your password is set. Sign in with it."))
        return answer


class OnesOwn(PasswordChangeView):
    template_name = "jobs/password.html"
    success_url = reverse_lazy("overview")
    form_class = OldAndNew

    def form_valid(self, form: Any) -> HttpResponse:
        answer = super().form_valid(form)
        _told(form.user, eventphrases.WITH_OLD_PASSWORD)
        messages.success(self.request, _("Your password is changed. Other browsers are signed out; tokens go on working."))
        return answer


def _told(person: User, how: str) -> None:
    audit.record(person, Act.PASSWORD_CHANGED, About.PERSON, target=person.get_username(), detail=how)
