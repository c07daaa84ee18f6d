"""Notifications in the admin: who is told what, how far that has come, and dead ones sent again."""

from __future__ import annotations

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _
from unfold.decorators import action
from unfold.forms import BaseDialogForm

from jobs.admin.base import OperatorsAdmin, asking, go_to
from jobs.models import Notification
from jobs.notifications.sending import send_again
from jobs.web.people import UserRequest


@admin.register(Notification)
class NotificationAdmin(OperatorsAdmin):
    list_display = ("job", "occasion", "recipient", "channel", "state", "tries", "next_at", "sent_at", "error")
    list_filter = ("state", "channel", "occasion")
    search_fields = ("recipient", "job__name")
    fields = ("job", "occasion", "recipient", "channel", "state", "tries", "error", "created_at", "next_at", "sent_at", "message_id")
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
