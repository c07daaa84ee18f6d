"""Devices in the admin: as they are now, drained and resumed."""

from __future__ import annotations

from datetime import datetime

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import localize
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from unfold.decorators import action, display
from unfold.forms import BaseDialogForm
from unfold.widgets import UnfoldAdminTextInputWidget

from jobs import capacity, drains, fields, keeping
from jobs.admin.base import NowAdmin, ReasonForm, asking, for_each, go_to, looks, now, reason_given
from jobs.capacity import DeviceView
from jobs.models import Device
from jobs.phrases import said_of_device
from jobs.states import DeviceState
from jobs.web import words
from jobs.web.people import UserRequest
from jobs.web.words import DEVICE_LABELS, gib


class KeepForm(ReasonForm):
    user = forms.CharField(label=_("Person"), widget=UnfoldAdminTextInputWidget)
    until = forms.CharField(label=_("Until"), widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "2027-01-31T18:00"}))

    def clean_until(self) -> datetime | None:
        try:
            return fields.moment(self.cleaned_data["until"])
        except ValueError as exc:
            raise forms.ValidationError(str(exc)) from exc


@admin.register(Device)
class DeviceAdmin(NowAdmin):
    list_display = ("place", "name", "memory", "state_now", "reason_now", "job_now", "uuid")
    list_filter = ("host",)
    search_fields = ("uuid", "name", "host__name")
    fields = (
        *("place", "name", "memory", "stands", "job_now", "on_it", "kept"),
        *("uuid", "parent", "simulated", "allocatable", "present", "updated_at"),
    )
    actions = ("drain_chosen", "resume_chosen")
    actions_detail = ("drain_one", "resume_one", "keep_one", "unkeep_one")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Device]:
        return Device.objects.select_related("host")

    def views(self) -> dict[str, DeviceView]:
        return {device.uuid: device for host in capacity.hosts_now() for device in host.devices}

    @admin.display(description=_("device"), ordering="host__name")
    def place(self, device: Device) -> str:
        return str(device)

    @admin.display(description=_("memory"), ordering="memory_total_mib")
    def memory(self, device: Device) -> str:
        used = now(device).memory_used_mib if now(device) else None
        return _("%(used)s of %(all)s GiB used") % {"used": gib(used), "all": gib(device.memory_total_mib)}

    @display(description=_("state"), label=looks(DeviceState))
    def state_now(self, device: Device) -> tuple[str, str]:
        state = now(device).state if now(device) else DeviceState.UNKNOWN
        return state, str(DEVICE_LABELS[state])

    @admin.display(description=_("reason"))
    def reason_now(self, device: Device) -> str:
        return said_of_device(now(device).reason) if now(device) else str(_("Its host shows it no more."))

    @admin.display(description=_("state"))
    def stands(self, device: Device) -> str:
        return self.reason_now(device) or self.state_now(device)[1]

    @admin.display(description=_("processes outside the queue"))
    def on_it(self, device: Device) -> str:
        return "; ".join(words.process(p) for p in now(device).processes if not p.ours) if now(device) else ""

    @admin.display(description=_("kept"))
    def kept(self, device: Device) -> str:
        if not now(device) or not now(device).kept_for:
            return ""
        until = localize(timezone.localtime(now(device).kept_until))
        return _("for %(person)s until %(until)s by %(by)s") % {"person": now(device).kept_for, "until": until, "by": now(device).kept_by}

    @admin.display(description=_("job"))
    def job_now(self, device: Device) -> str:
        if not now(device) or not now(device).job:
            return ""
        number = now(device).job
        return format_html('<a class="text-link" href="{}">#{}</a>', reverse("admin:jobs_job_change", args=[number]), number)

    @action(
        description=_("Drain"),
        url_path="drain",
        icon="pause",
        dialog=asking(_("Drain this device?"), _("No other job gets it; one that has it may finish."), _("Drain it"), ReasonForm),
    )
    def drain_one(self, request: UserRequest, form: ReasonForm, object_id: str) -> HttpResponse:
        drains.drain_device(self.found(request, object_id).uuid, request.user, form.cleaned_data["reason"])
        return go_to(request, "admin:jobs_device_change", object_id)

    @action(
        description=_("Resume"),
        url_path="resume",
        icon="play_arrow",
        dialog=asking(_("Resume this device?"), _("Jobs may get it again."), _("Resume it")),
    )
    def resume_one(self, request: UserRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        drains.resume_device(self.found(request, object_id).uuid, request.user)
        return go_to(request, "admin:jobs_device_change", object_id)

    @action(
        description=_("Keep for a person"),
        url_path="keep",
        icon="person",
        dialog=asking(_("Keep this device for a person?"), _("Only that person's jobs start there until then."), _("Keep it"), KeepForm),
    )
    def keep_one(self, request: UserRequest, form: KeepForm, object_id: str) -> HttpResponse:
        told = form.cleaned_data
        try:
            keeping.keep(self.found(request, object_id).uuid, request.user, person=told["user"], until=told["until"], reason=told["reason"])
        except keeping.KeepRefused as exc:
            messages.error(request, str(exc))
        return go_to(request, "admin:jobs_device_change", object_id)

    @action(
        description=_("Keep for nobody"),
        url_path="unkeep",
        icon="group",
        dialog=asking(_("Keep this device for nobody any more?"), _("Everybody's jobs may start there again."), _("Give it back")),
    )
    def unkeep_one(self, request: UserRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        keeping.give_back(self.found(request, object_id).uuid, request.user)
        return go_to(request, "admin:jobs_device_change", object_id)

    @admin.action(description=_("Drain"))
    def drain_chosen(self, request: UserRequest, queryset: QuerySet[Device]) -> None:
        if (reason := reason_given(request)) is not None:
            for_each(request, queryset, lambda device: drains.drain_device(device.uuid, request.user, reason))

    @admin.action(description=_("Resume"))
    def resume_chosen(self, request: UserRequest, queryset: QuerySet[Device]) -> None:
        for_each(request, queryset, lambda device: drains.resume_device(device.uuid, request.user))
