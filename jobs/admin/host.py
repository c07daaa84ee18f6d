"""Hosts in the admin: as they are now, drained, resumed, and declared lost."""

from __future__ import annotations

from collections.abc import Callable

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpResponse
from django.utils import timezone
from django.utils.formats import localize
from django.utils.translation import gettext_lazy as _
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.forms import BaseDialogForm
from unfold.widgets import UnfoldAdminTextInputWidget

from jobs import capacity, drains, rules
from jobs.admin.base import NowAdmin, ReadOnlyRows, ReasonForm, asking, for_each, go_to, looks, now, reason_given
from jobs.capacity import HostView
from jobs.models import Device, Host
from jobs.phrases import said_of_drain, said_of_host
from jobs.states import HostState
from jobs.web import words
from jobs.web.people import UserRequest
from jobs.web.words import HOST_LABELS, gib

DRAIN = _("Nothing new starts there; what runs may finish.")
RESUME = _("Jobs may start there again.")
RULE = _("One that holds less memory and has not computed for so long counts as memory only. Empty: the default.")
IGNORE = _("It counts as memory only, until it ends. A later process with its number is not ignored.")
HEED = _("It keeps its device from the queue again, if it uses it.")


class RuleForm(ReasonForm):
    memory_mib = forms.IntegerField(
        label=_("Memory from which on it counts, in MiB"),
        required=False,
        min_value=1,
        max_value=rules.LARGEST_MIB,
        widget=UnfoldAdminTextInputWidget,
    )
    idle_min = forms.IntegerField(
        label=_("Minutes for which it counts after computing"),
        required=False,
        min_value=0,
        max_value=rules.LONGEST_IDLE_MIN,
        widget=UnfoldAdminTextInputWidget,
    )


class PidForm(BaseDialogForm):
    pid = forms.IntegerField(label=_("Process number (pid)"), min_value=1, max_value=2**31 - 1, widget=UnfoldAdminTextInputWidget)


class IgnoreForm(ReasonForm, PidForm):
    """With a reason."""


class Devices(ReadOnlyRows):
    model = Device
    fields = ("index", "name", "uuid", "memory", "remark")
    readonly_fields = ("memory", "remark")
    ordering = ("index", "uuid")

    @admin.display(description=_("memory"))
    def memory(self, device: Device) -> str:
        return f"{gib(device.memory_total_mib)} GiB"

    @admin.display(description=_("remark"))
    def remark(self, device: Device) -> str:
        gone = "" if device.present else str(_("not shown by its host any more"))
        drained = str(_("drained by %(whom)s") % {"whom": said_of_drain(device.drain_reason)}) if device.drain else ""
        return "; ".join(filter(None, (drained, gone)))


@admin.register(Host)
class HostAdmin(NowAdmin):
    list_display = ("name", "state_now", "reason_now", "seen", "devices_now", "slots", "agent_version")
    search_fields = ("name",)
    fields = ("name", "stands", "seen", "devices_now", "slots", "rule_now", "agent_version", "device_source", "created_at")
    inlines = (Devices,)
    actions = ("drain_chosen", "resume_chosen")
    actions_detail = ("drain_one", "resume_one", "rule_one", "ignore_one", "heed_one", "lost_one")

    def views(self) -> dict[str, HostView]:
        return {view.name: view for view in capacity.hosts_now()}

    @display(description=_("state"), label=looks(HostState))
    def state_now(self, host: Host) -> tuple[str, str]:
        return now(host).state, str(HOST_LABELS[now(host).state])

    @admin.display(description=_("reason"))
    def reason_now(self, host: Host) -> str:
        return said_of_host(now(host).reason)

    @admin.display(description=_("state"))
    def stands(self, host: Host) -> str:
        return f"{host.name} {said_of_host(now(host).reason)}" if now(host).reason else str(HOST_LABELS[now(host).state])

    @admin.display(description=_("last seen"), ordering="last_seen_at")
    def seen(self, host: Host) -> str:
        at = now(host).last_seen_at
        return localize(timezone.localtime(at)) if at else str(_("never"))

    @admin.display(description=_("devices"))
    def devices_now(self, host: Host) -> str:
        return _("%(free)d of %(all)d free") % {"free": len(now(host).free_devices), "all": now(host).device_count}

    @admin.display(description=_("job slots"))
    def slots(self, host: Host) -> str:
        return _("%(used)d of %(all)d used") % {"used": now(host).used_slots, "all": now(host).job_slots}

    @action(description=_("Drain"), url_path="drain", icon="pause", dialog=asking(_("Drain this host?"), DRAIN, _("Drain it"), ReasonForm))
    def drain_one(self, request: UserRequest, form: ReasonForm, object_id: str) -> HttpResponse:
        drains.drain_host(self.found(request, object_id).name, request.user, form.cleaned_data["reason"])
        return go_to(request, "admin:jobs_host_change", object_id)

    @action(description=_("Resume"), url_path="resume", icon="play_arrow", dialog=asking(_("Resume this host?"), RESUME, _("Resume it")))
    def resume_one(self, request: UserRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        drains.resume_host(self.found(request, object_id).name, request.user)
        return go_to(request, "admin:jobs_host_change", object_id)

    @action(
        description=_("Declare lost"),
        url_path="lost",
        icon="heart_broken",
        variant=ActionVariant.DANGER,
        dialog=asking(
            _("Is this host dead?"),
            _("Its attempts end as lost and their jobs start elsewhere. If one of them still runs there, it runs twice."),
            _("It is dead"),
        ),
    )
    def lost_one(self, request: UserRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        name = self.found(request, object_id).name
        try:
            ended = drains.declare_lost(name, request.user)
            messages.success(request, _("%(host)s is lost; attempts that ended with it: %(count)d.") % {"host": name, "count": ended})
        except drains.HostRefused as exc:
            messages.error(request, str(exc))
        return go_to(request, "admin:jobs_host_change", object_id)

    @admin.display(description=_("processes outside the queue"))
    def rule_now(self, host: Host) -> str:
        return words.rule(now(host).rule)

    @action(
        description=_("Rule for processes outside the queue"),
        url_path="rule",
        icon="rule",
        dialog=asking(_("When does a process outside the queue use a device here?"), RULE, _("Set the rule"), RuleForm),
    )
    def rule_one(self, request: UserRequest, form: RuleForm, object_id: str) -> HttpResponse:
        told = form.cleaned_data
        numbers = {"memory_mib": told["memory_mib"], "idle_min": told["idle_min"]}
        rules.set_rule(self.found(request, object_id).name, request.user, reason=told["reason"], **numbers)
        return go_to(request, "admin:jobs_host_change", object_id)

    @action(
        description=_("Ignore a process"),
        url_path="ignore",
        icon="visibility_off",
        dialog=asking(_("Ignore one process of this host?"), IGNORE, _("Ignore it"), IgnoreForm),
    )
    def ignore_one(self, request: UserRequest, form: IgnoreForm, object_id: str) -> HttpResponse:
        told = form.cleaned_data
        name = self.found(request, object_id).name
        return self._tried(request, object_id, lambda: rules.ignore(name, request.user, told["pid"], told["reason"]))

    @action(
        description=_("Heed a process again"),
        url_path="heed",
        icon="visibility",
        dialog=asking(_("Let an ignored process count again?"), HEED, _("Heed it"), PidForm),
    )
    def heed_one(self, request: UserRequest, form: PidForm, object_id: str) -> HttpResponse:
        name = self.found(request, object_id).name
        return self._tried(request, object_id, lambda: rules.heed(name, request.user, form.cleaned_data["pid"]))

    def _tried(self, request: UserRequest, object_id: str, do: Callable[[], None]) -> HttpResponse:
        try:
            do()
        except drains.HostRefused as exc:
            messages.error(request, str(exc))
        return go_to(request, "admin:jobs_host_change", object_id)

    @admin.action(description=_("Drain"))
    def drain_chosen(self, request: UserRequest, queryset: QuerySet[Host]) -> None:
        if (reason := reason_given(request)) is not None:
            for_each(request, queryset, lambda host: drains.drain_host(host.name, request.user, reason))

    @admin.action(description=_("Resume"))
    def resume_chosen(self, request: UserRequest, queryset: QuerySet[Host]) -> None:
        for_each(request, queryset, lambda host: drains.resume_host(host.name, request.user))
