"""Devices in the admin: as they are now, drained and resumed."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from unfold.decorators import action, display
from unfold.forms import BaseDialogForm

from jobs import capacity, drains
from jobs.admin.base import NowAdmin, ReasonForm, asking, for_each, go_to, looks, now, reason_given
from jobs.capacity import DeviceView
from jobs.models import Device
from jobs.states import DeviceState
from jobs.web.people import UserRequest
from jobs.web.words import DEVICE_LABELS, gib


@admin.register(Device)
class DeviceAdmin(NowAdmin):
    list_display = ("place", "name", "memory", "state_now", "reason_now", "job_now", "uuid")
    list_filter = ("host",)
    search_fields = ("uuid", "name", "host__name")
    fields = ("place", "name", "memory", "stands", "job_now", "uuid", "parent", "simulated", "allocatable", "present", "updated_at")
    actions = ("drain_chosen", "resume_chosen")
    actions_detail = ("drain_one", "resume_one")

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
        return now(device).reason if now(device) else str(_("Its host shows it no more."))

    @admin.display(description=_("state"))
    def stands(self, device: Device) -> str:
        return self.reason_now(device) or self.state_now(device)[1]

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

    @admin.action(description=_("Drain"))
    def drain_chosen(self, request: UserRequest, queryset: QuerySet[Device]) -> None:
        if (reason := reason_given(request)) is not None:
            for_each(request, queryset, lambda device: drains.drain_device(device.uuid, request.user, reason))

    @admin.action(description=_("Resume"))
    def resume_chosen(self, request: UserRequest, queryset: QuerySet[Device]) -> None:
        for_each(request, queryset, lambda device: drains.resume_device(device.uuid, request.user))
