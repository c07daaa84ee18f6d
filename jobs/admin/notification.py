"""Notifications in the admin: who is told what, how far that has come, and dead ones sent again."""

from __future__ import annotations

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _
from unfold.decorators import action
from unfold.forms import BaseDialogForm
from unfold.widgets import UnfoldAdminTextInputWidget

from jobs.admin.base import OperatorsAdmin, asking, go_to
from jobs.models import Notification
from jobs.notifications.letter import NotSent
from jobs.notifications.sending import send_again
from jobs.notifications.trial import send_test
from jobs.web.people import UserRequest


class AddressForm(BaseDialogForm):
    """Whether it is an address, the sending says, in the same words as everywhere."""

    address = forms.CharField(
        label=_("Address"), help_text=_("Empty: your own."), required=False, max_length=254, widget=UnfoldAdminTextInputWidget
    )


@admin.register(Notification)
class NotificationAdmin(OperatorsAdmin):
    list_display = ("job", "occasion", "recipient", "channel", "state", "tries", "next_at", "sent_at", "error")
    list_filter = ("state", "channel", "occasion")
    search_fields = ("recipient", "job__name")
    fields = ("job", "occasion", "recipient", "channel", "state", "tries", "error", "created_at", "next_at", "sent_at", "message_id")
    actions_list = ("try_it",)
    actions_detail = ("again_one",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Notification]:
        return Notification.objects.select_related("job")

    @action(
        description=_("Send again"),
        url_path="again",
        icon="send",
        dialog=asking(_("Send it again?"), _("It is tried for another week."), _("Send it")),
    )
    def again_one(self, request: UserRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        if send_again(self.found(request, object_id), actor=request.user):
            messages.success(request, _("It is sent again."))
        else:
            messages.warning(request, _("It is not dead, so it was left as it is."))
        return go_to(request, "admin:jobs_notification_change", object_id)

    @action(
        description=_("Send a test"),
        url_path="try",
        icon="mark_email_read",
        dialog=asking(_("Send a test mail?"), _("It says that mail arrives, and goes out at once."), _("Send it"), AddressForm),
    )
    def try_it(self, request: UserRequest, form: AddressForm) -> HttpResponse:
        address = form.cleaned_data["address"] or request.user.email
        if not address:
            messages.error(request, _("Your account has no mail address: type one."))
            return go_to(request, "admin:jobs_notification_changelist")
        try:
            messages.success(request, send_test(address))
        except NotSent as exc:
            messages.error(request, _("Not sent. %(why)s") % {"why": exc})
        return go_to(request, "admin:jobs_notification_changelist")
