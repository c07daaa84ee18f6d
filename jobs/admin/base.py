"""What the parts of the admin have in common: who gets in, rows that nobody edits by hand, and asking before doing.

Django's own permission rows play no part, `jobs.access` says who may what. A button opens a dialog, and what it does is the
dialog's POST: the plain links that unfold makes of other buttons could be pressed by any page that an operator visits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import BadRequest
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django_htmx.http import HttpResponseClientRedirect
from unfold.admin import ModelAdmin, TabularInline
from unfold.dataclasses import ActionDialog
from unfold.forms import ActionForm, BaseDialogForm
from unfold.widgets import UnfoldAdminTextInputWidget

from jobs import access, fields
from jobs.models import Device
from jobs.web.words import tone

Text = str | Promise
REFUSALS_SHOWN = 5
_LOOKS = {"ours": "primary", "free": "success", "external": "warning", "failed": "danger", "off": "default"}


def looks(words: Iterable[str]) -> dict[str, str]:
    """unfold's colour for each of these states, like the pages'."""
    return {str(word): _LOOKS[tone(word)] for word in words}


class ReasonForm(BaseDialogForm):
    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        help_text=gettext_lazy("Everyone who asks why nothing starts there reads it."),
        required=False,
        widget=UnfoldAdminTextInputWidget,
    )

    def clean_reason(self) -> str:
        try:
            return fields.reason(self.cleaned_data["reason"])
        except ValueError as exc:
            raise forms.ValidationError(str(exc)) from exc


class ReasonActionForm(ActionForm):
    """The actions of a list, with a reason. It is read by the action: a form in error here says "No action selected"."""

    reason = forms.CharField(
        label="", required=False, widget=UnfoldAdminTextInputWidget(attrs={"placeholder": gettext_lazy("Reason for a drain")})
    )


class LookedAt:
    """Rows that operators look at and nobody writes."""

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return access.is_operator(request.user)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class WhateverIsSent:
    """Answers to what Django's own lists fail on."""

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        if any(fields.unfit(text) for name, given in request.GET.lists() for text in (name, *given)):
            raise IncorrectLookupParameters  # PostgreSQL takes no NUL
        try:
            return super().get_changelist_instance(request)  # type: ignore[misc]
        except OverflowError as exc:  # a year
            raise IncorrectLookupParameters(exc) from exc

    def changeform_view(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().changeform_view(*args, **kwargs)  # type: ignore[misc]
        except OverflowError as exc:  # the number of a row in a list of choices, which SQLite takes for none
            raise BadRequest("A number is larger than that of any row.") from exc

    def response_action(self, request: Any, queryset: Any) -> Any:
        chosen = request.POST.getlist(ACTION_CHECKBOX_NAME)
        if not all(text.isascii() and text.isdecimal() and len(text) < 19 for text in chosen):
            raise BadRequest("_selected_action: send the numbers of rows.")
        return super().response_action(request, queryset)  # type: ignore[misc]


class OperatorsAdmin(WhateverIsSent, LookedAt, ModelAdmin):
    """Rows that operators look at. What may be written, a subclass says."""

    list_per_page = 50
    list_fullwidth = True

    def has_module_permission(self, request: HttpRequest) -> bool:
        return access.is_operator(request.user)

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> HttpResponse:
        """Without Django's history, which knows of what was done on this page only: jobs have their events."""
        return super().render_change_form(request, context | {"show_history": False}, *args, **kwargs)  # type: ignore[no-any-return]

    def found(self, request: HttpRequest, object_id: str) -> Any:
        """The row that a button is about; raises Http404."""
        row = self.get_object(request, object_id)
        if row is None:
            raise Http404
        return row


class NowAdmin(OperatorsAdmin):
    """Rows with what is so now beside them: they alone lag a little behind the heartbeats. One look at all hosts for a page."""

    action_form = ReasonActionForm

    def views(self) -> Mapping[str, Any]:
        """What is so now, by the rows' names."""
        raise NotImplementedError

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changes = super().get_changelist_instance(request)
        self._look(changes.result_list)
        return changes

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            self._look([row])
        return row

    def _look(self, rows: Iterable[Any]) -> None:
        views = self.views()
        for row in rows:
            row.now = views.get(row.uuid if isinstance(row, Device) else row.name)


def now(row: Any) -> Any:
    """The HostView or DeviceView beside a row; None for a device that its host shows no more."""
    return row.now


class ReadOnlyRows(LookedAt, TabularInline):
    """What belongs to a row, to be looked at."""

    extra = max_num = 0
    hide_title = True
    can_delete = False
    show_change_link = False


# --- asking before doing ------------------------------------------------------------------------------------------------


def asking(title: Text, description: Text, button: Text, form: type[BaseDialogForm] | None = None) -> ActionDialog:
    return ActionDialog(title=title, description=description, form_class=form, form_submit_text=button)


def go_to(request: HttpRequest, where: str, *args: Any) -> HttpResponse:
    """Leads on from a dialog, which sends its answer by htmx, or as a plain form where there is no script."""
    answer = redirect(where, *args)
    return HttpResponseClientRedirect(answer.url) if getattr(request, "htmx", False) else answer


def reason_given(request: HttpRequest) -> str | None:
    """What was typed beside the action; None, and a message, where it cannot be kept."""
    try:
        return fields.reason(request.POST.get("reason", ""))
    except ValueError as exc:
        messages.error(request, str(exc))
        return None


def for_each(request: HttpRequest, rows: Iterable[Any], do: Callable[[Any], Any], *refusals: type[Exception]) -> None:
    """Do it to each of the rows that were chosen, and tell to how many it was done and why not to the others."""
    done, refused = 0, list[str]()
    for row in rows:
        try:
            do(row)
            done += 1
        except refusals as exc:
            refused.append(str(exc))
    if done:
        messages.success(request, ngettext("Done for one.", "Done for all %(count)d.", done) % {"count": done})
    for why in refused[:REFUSALS_SHOWN]:
        messages.warning(request, why)
    if more := len(refused[REFUSALS_SHOWN:]):
        messages.warning(request, _("And %(count)d more were refused.") % {"count": more})
