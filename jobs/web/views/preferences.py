"""How one wants to be told: a page of one's own."""

from __future__ import annotations

from typing import Any
from zoneinfo import available_timezones

from django import forms
from django.conf import settings
from django.contrib import messages
from django.db import transaction
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods

from jobs import audit, eventphrases
from jobs.models import Preference
from jobs.models.audit import About, Act
from jobs.notifications import channels
from jobs.notifications.chat import addresses
from jobs.notifications.occasions import OPTIONAL, Occasion
from jobs.web.people import UserRequest, signed_in

TOLD_OF = (
    (Occasion.COMPLETED, gettext_lazy("It has completed")),
    (Occasion.FAILED, gettext_lazy("It has failed, and is not tried again")),
    (Occasion.OOM, gettext_lazy("It ran out of GPU memory")),
    (Occasion.TIMED_OUT, gettext_lazy("It was stopped at its time limit")),
    (Occasion.HOST_LOST, gettext_lazy("Its host was lost")),
    (Occasion.HELD, gettext_lazy("It is held, and needs somebody to look")),
    (Occasion.CANCELLED, gettext_lazy("Somebody else cancelled it")),
    (Occasion.QUIET, gettext_lazy("It may hang: nothing printed, or idle GPUs")),
    (Occasion.STARTED, gettext_lazy("It has started")),
    (Occasion.RETRIED, gettext_lazy("An attempt has failed, and it is tried again")),
)


class PreferenceForm(forms.Form):
    told = forms.MultipleChoiceField(choices=[(str(occasion), words) for occasion, words in TOLD_OF], required=False)
    by_mail = forms.BooleanField(required=False)
    quiet_from = forms.TimeField(required=False)
    quiet_until = forms.TimeField(required=False)
    time_zone = forms.ChoiceField(required=False)
    language = forms.ChoiceField(required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        zones: Any = self.fields["time_zone"]
        zones.choices = [("", _("the lab's, %(zone)s") % {"zone": settings.TIME_ZONE}), *((z, z) for z in sorted(available_timezones()))]
        languages: Any = self.fields["language"]
        languages.choices = [("", _("the lab's")), *settings.LANGUAGES]

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        begin, end = cleaned.get("quiet_from"), cleaned.get("quiet_until")
        if "quiet_from" in cleaned and "quiet_until" in cleaned and (begin is None) != (end is None):
            self.add_error("quiet_until" if end is None else "quiet_from", _("Write both times, or neither."))
        elif begin is not None and begin == end:
            self.add_error("quiet_until", _("This would be all day: take another time."))
        return cleaned


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def my_preferences(request: UserRequest) -> HttpResponse:
    kept = Preference.objects.filter(user=request.user).first() or Preference(user=request.user)
    form = PreferenceForm(request.POST if request.method == "POST" else None, initial=_initial(kept))
    if request.method == "POST" and form.is_valid():
        _keep(request, kept, form.cleaned_data)
        messages.success(request, _("Kept: messages go by this from now on."))
        return redirect("preferences")
    status = 400 if form.errors else 200
    return render(
        request, "jobs/preferences.html", {"form": form, "mail": channels.for_mail(), "chats": addresses.of(request.user)}, status=status
    )


def _initial(kept: Preference) -> dict[str, Any]:
    return {
        "told": [str(one) for one, _words in TOLD_OF if (one in kept.also if one in OPTIONAL else one not in kept.muted)],
        "by_mail": kept.by_mail,
        "quiet_from": kept.quiet_from,
        "quiet_until": kept.quiet_until,
        "time_zone": kept.time_zone,
        "language": kept.language,
    }


@transaction.atomic
def _keep(request: UserRequest, kept: Preference, told: dict[str, Any]) -> None:
    kept.muted = [str(one) for one, _words in TOLD_OF if one not in OPTIONAL and one not in told["told"]]
    kept.also = [str(one) for one, _words in TOLD_OF if one in OPTIONAL and one in told["told"]]
    for name in ("by_mail", "quiet_from", "quiet_until", "time_zone", "language"):
        setattr(kept, name, told[name])
    kept.save()
    audit.record(request.user, Act.CHANGED, About.PERSON, target=request.user.get_username(), detail=eventphrases.HOW_TOLD)
