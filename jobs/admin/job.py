"""Jobs in the admin: looked at, submitted, changed until they start, and the actions on them. No row is written but by lifecycle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.forms import BaseDialogForm

from jobs import access, actions, lifecycle
from jobs.admin.base import OperatorsAdmin, ReadOnlyRows, asking, for_each, go_to, looks
from jobs.admin.jobform import JobForm, typed
from jobs.admin.usage import usage_view
from jobs.dispatch import queue_positions
from jobs.fields import searched_number
from jobs.models import Attempt, Job, JobEvent
from jobs.phrases import said, said_of_attempt
from jobs.states import TERMINAL, JobState
from jobs.web import forms as page
from jobs.web.people import UserRequest
from jobs.web.verdict import Verdict, verdict
from jobs.web.words import JOB_LABELS, OUTCOME_LABELS, place

STANDS = ("stands", "owner_name", "where", "created_at", "started_at", "ended_at", "uid", "log")


class Attempts(ReadOnlyRows):
    model = Attempt
    fields = ("number", "placed", "how", "exit_code", "signal", "told", "started_at", "ended_at", "log_bytes")
    readonly_fields = ("placed", "how", "told")

    @admin.display(description=_("where"))
    def placed(self, attempt: Attempt) -> str:
        return place(attempt.host, attempt.devices)

    @admin.display(description=_("outcome"))
    def how(self, attempt: Attempt) -> str:
        label = str(OUTCOME_LABELS[attempt.outcome])
        return _("%(outcome)s, out of GPU memory") % {"outcome": label} if attempt.oom_detected else label

    @admin.display(description=_("message"))
    def told(self, attempt: Attempt) -> str:
        return said_of_attempt(attempt.message)


class Events(ReadOnlyRows):
    model = JobEvent
    fields = ("at", "type", "actor_name", "attempt", "told")
    readonly_fields = ("actor_name", "told")
    ordering = ("id",)

    @admin.display(description=_("by"))
    def actor_name(self, event: JobEvent) -> str:
        return event.actor.get_username() if event.actor else ""

    @admin.display(description=_("message"))
    def told(self, event: JobEvent) -> str:
        return said(event.message)


_LABELS = {field.name: field.label for field in page.ALL} | {"swaps": _("Swap files for this job")}


def _told(name: str) -> Callable[[Any, Job], str]:
    """A field of a job that is only shown, in the words of the form; as a column it would be shown as Python writes it."""

    def told(_admin: Any, job: Job) -> str:
        return typed(job)[name] or "-"

    told.short_description = _LABELS[name]  # type: ignore[attr-defined] # what admin.display sets
    return told


class AskedFor:
    """What a job asked for that can be changed no more."""

    told_gpu_memory_mib = _told("gpu_memory_mib")
    told_time_limit_s = _told("time_limit_s")
    told_retry_delay_s = _told("retry_delay_s")
    told_hosts = _told("hosts")
    told_env = _told("env")
    told_artifacts = _told("artifacts")
    told_notify = _told("notify")
    told_swaps = _told("swaps")


@admin.register(Job)
class JobAdmin(AskedFor, OperatorsAdmin):
    list_display = ("number", "name", "owner", "state_now", "why", "where", "priority", "created_at")
    list_display_links = ("number", "name")
    list_filter = ("state", ("owner", admin.RelatedOnlyFieldListFilter))
    search_fields = ("name", "owner__username")
    search_help_text = _("In names, owners and numbers")
    ordering = ("-id",)
    readonly_fields = STANDS
    actions = ("cancel_chosen", "hold_chosen", "release_chosen", "resubmit_chosen")
    actions_list = ("usage",)
    actions_detail = ("cancel_one", "hold_one", "release_one", "resubmit_one")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        return access.visible_jobs(request.user).select_related("owner").prefetch_related("attempts")

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Job], search_term: str) -> tuple[QuerySet[Job], bool]:
        found, duplicates = super().get_search_results(request, queryset, search_term)
        number = searched_number(search_term)
        return found | queryset.filter(pk=number) if number else found, duplicates

    # --- what is shown ---

    @admin.display(description=_("number"), ordering="id")
    def number(self, job: Job) -> str:
        return f"#{job.pk}"

    @display(description=_("state"), ordering="state", label=looks(JobState))
    def state_now(self, job: Job) -> tuple[str, str]:
        return job.state, str(JOB_LABELS[job.state])

    @admin.display(description=_("why it waits, or how it ended"))
    def why(self, job: Job) -> str:
        if job.wait_code:
            return f"{job.wait_code}: {said(job.wait_message)}"
        return _verdict(job).said if job.state in TERMINAL else ""

    @admin.display(description=_("where"))
    def where(self, job: Job) -> str:
        last = _attempts(job)[-1:]
        return place(last[0].host, last[0].devices) if last else ""

    @admin.display(description=_("state"))
    def stands(self, job: Job) -> str:
        said = _verdict(job, position=queue_positions([job.pk]).get(job.pk))
        return f"{said.word}{said.goes_on} {said.next}".rstrip()

    @admin.display(description=_("owner"))
    def owner_name(self, job: Job) -> str:
        return job.owner.get_username()

    @admin.display(description=_("log"))
    def log(self, job: Job) -> SafeString:
        return format_html('<a class="text-link" href="{}">{}</a>', reverse("job", args=[job.pk]), _("On the job's page"))

    readonly_preprocess_fields = {
        name: lambda shown: format_html('<code class="whitespace-pre-wrap">{}</code>', shown) for name in ("command", "working_dir")
    }

    def get_fieldsets(self, request: HttpRequest, obj: Job | None = None) -> list[tuple[Any, dict[str, Any]]]:
        asked = [*(field.name for field in page.ALL if field.name != "hold"), "swaps"]
        if obj is None:
            return [(None, {"fields": [*asked, "hold"]})]
        if not self.has_change_permission(request, obj):
            asked = [f"told_{name}" if hasattr(self, f"told_{name}") else name for name in asked]
        return [(_("How it stands"), {"fields": STANDS}), (_("What it asks for"), {"fields": asked})]

    def get_inlines(self, request: HttpRequest, obj: Job | None) -> tuple[type[ReadOnlyRows], ...]:
        """None beside a form that is sent: Django would look for each of their rows in it, and new ones come at any time."""
        return () if obj is None or request.method == "POST" else (Attempts, Events)

    # --- submitting and changing ---

    def has_add_permission(self, request: HttpRequest, obj: Job | None = None) -> bool:
        return access.is_operator(request.user) and access.may_submit(request.user)

    def has_change_permission(self, request: HttpRequest, obj: Job | None = None) -> bool:
        return access.is_operator(request.user) and (obj is None or (access.may_change(request.user, obj) and actions.editable(obj)))

    def get_form(self, request: HttpRequest, obj: Job | None = None, change: bool = False, **kwargs: Any) -> type[JobForm]:
        return type("JobForm", (JobForm,), {"actor": request.user, "Meta": JobForm.Meta})

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, str]:
        return {field.name: request.GET[field.name] for field in page.ALL if field.name in request.GET}

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """A change that comes too late is said on the job's page, not as an error page."""
        try:
            if request.method == "POST" and object_id and self.has_view_permission(request):
                _refuse_started(self.found(request, object_id))
            return super().changeform_view(request, object_id, form_url, extra_context)  # type: ignore[no-any-return]
        except actions.ActionRefused as exc:
            messages.error(request, str(exc))
            return redirect("admin:jobs_job_change", object_id)

    def save_model(self, request: UserRequest, obj: Job, form: JobForm, change: bool) -> None:
        read = form.submission
        if change:
            actions.edit(obj, read, request.user)
        else:
            obj.pk = lifecycle.submit(request.user, read.fields, after=read.after or (), hold=read.hold).pk
        obj.refresh_from_db()

    # --- actions ---

    def get_actions_detail(self, request: UserRequest, object_id: str) -> list[UnfoldAction]:
        """The buttons that make sense now."""
        job = self.get_object(request, object_id)
        possible = actions.available(request.user, job) if job else []
        return [each for each in super().get_actions_detail(request, object_id) if each.path in possible]

    @action(description=_("GPU-hours"), url_path="usage", icon="bar_chart")
    def usage(self, request: HttpRequest) -> HttpResponse:
        return usage_view(request)

    def _do(self, name: str, request: UserRequest, object_id: str) -> HttpResponse:
        job = self.found(request, object_id)
        try:
            done = actions.perform(name, job, request.user)
            messages.success(request, _done(name, done))
        except actions.ActionRefused as exc:
            done = job
            messages.error(request, str(exc))
        return go_to(request, "admin:jobs_job_change", done.pk)

    def _do_all(self, name: str, request: UserRequest, jobs: QuerySet[Job]) -> None:
        for_each(request, jobs.order_by("id"), lambda job: actions.perform(name, job, request.user), actions.ActionRefused)

    @action(
        description=_("Cancel"),
        url_path="cancel",
        icon="stop_circle",
        variant=ActionVariant.DANGER,
        dialog=asking(
            _("Cancel this job?"), _("Where it runs, its processes are ended; what they have not saved is lost."), _("Yes, cancel the job")
        ),
    )
    def cancel_one(self, request: UserRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        return self._do("cancel", request, object_id)

    @action(
        description=_("Hold"),
        url_path="hold",
        icon="pause",
        dialog=asking(_("Hold this job?"), _("It does not start until somebody releases it."), _("Hold it")),
    )
    def hold_one(self, request: UserRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        return self._do("hold", request, object_id)

    @action(
        description=_("Release"),
        url_path="release",
        icon="play_arrow",
        dialog=asking(_("Release this job?"), _("It waits for its turn again."), _("Release it")),
    )
    def release_one(self, request: UserRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        return self._do("release", request, object_id)

    @action(
        description=_("Run again"),
        url_path="resubmit",
        icon="replay",
        dialog=asking(_("Run it again?"), _("As a new job of your own, copied from this one."), _("Run again")),
    )
    def resubmit_one(self, request: UserRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        return self._do("resubmit", request, object_id)

    @admin.action(description=_("Cancel"))
    def cancel_chosen(self, request: UserRequest, queryset: QuerySet[Job]) -> None:
        self._do_all("cancel", request, queryset)

    @admin.action(description=_("Hold"))
    def hold_chosen(self, request: UserRequest, queryset: QuerySet[Job]) -> None:
        self._do_all("hold", request, queryset)

    @admin.action(description=_("Release"))
    def release_chosen(self, request: UserRequest, queryset: QuerySet[Job]) -> None:
        self._do_all("release", request, queryset)

    @admin.action(description=_("Run again, as jobs of your own"))
    def resubmit_chosen(self, request: UserRequest, queryset: QuerySet[Job]) -> None:
        self._do_all("resubmit", request, queryset)


def _attempts(job: Job) -> list[Attempt]:
    return sorted(job.attempts.all(), key=lambda attempt: attempt.number)


def _verdict(job: Job, position: int | None = None) -> Verdict:
    return verdict(job, _attempts(job), position=position, silent="", private=False, now=timezone.now())


def _refuse_started(job: Job) -> None:
    if not actions.editable(job):
        raise actions.ActionRefused(actions.started(job))


def _done(name: str, job: Job) -> str:
    """What is so now; a resubmitted job is the new one."""
    return _("#%(number)d is a new job.") % {"number": job.pk} if name == "resubmit" else f"#{job.pk}: {JOB_LABELS[job.state]}."
