"""The audit log in the admin: who changed what, from where; looked at and written by nobody here."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from django.utils.translation import override

from jobs import audit
from jobs.admin.base import OperatorsAdmin
from jobs.models.audit import About, Act, AuditEntry
from jobs.phrases import said_of_change
from jobs.web.people import UserRequest


@admin.register(AuditEntry)
class AuditAdmin(OperatorsAdmin):
    list_display = ("at", "who", "act", "about", "what", "told", "via", "address")
    list_filter = ("about", "act", "via", ("actor", admin.RelatedOnlyFieldListFilter))
    search_fields = ("=actor_name", "=target", "=address", "detail")
    search_help_text = _("A person, a job's number, a host, an address, or words of the detail")
    date_hierarchy = "at"
    ordering = ("-id",)
    show_full_result_count = False
    fields = ("at", "who", "act", "about", "what", "told", "via", "address")

    def get_queryset(self, request: HttpRequest) -> QuerySet[AuditEntry]:
        return AuditEntry.objects.all()

    @admin.display(description=_("by"), ordering="actor_name")
    def who(self, entry: AuditEntry) -> str:
        return entry.actor_name or "manage.py"

    @admin.display(description=_("what it was done to"), ordering="target")
    def what(self, entry: AuditEntry) -> str:
        if entry.about != About.JOB:
            return entry.target
        return format_html('<a class="text-link" href="{}">#{}</a>', reverse("admin:jobs_job_change", args=[entry.target]), entry.target)

    @admin.display(description=_("detail"), ordering="detail")
    def told(self, entry: AuditEntry) -> str:
        return said_of_change(entry.detail)


class Audited:
    """What is written in an admin page by Django's own ways gets its row beside Django's."""

    about: About

    def log_addition(self, request: Any, obj: Any, message: Any) -> Any:
        return self._recorded(request, Act.MADE, obj, super().log_addition(request, obj, message))  # type: ignore[misc]

    def log_change(self, request: Any, obj: Any, message: Any) -> Any:
        return self._recorded(request, Act.CHANGED, obj, super().log_change(request, obj, message))  # type: ignore[misc]

    def log_deletions(self, request: Any, queryset: Any) -> Any:
        for obj in queryset:
            audit.record(request.user, Act.DELETED, self.about, target=str(obj))
        return super().log_deletions(request, queryset)  # type: ignore[misc]

    def stands(self, obj: Any) -> str:
        """What is so after the change, where the fields' names alone say too little."""
        return ""

    def _recorded(self, request: UserRequest, act: Act, obj: Model, entry: LogEntry) -> LogEntry:
        with override("en"):
            audit.record(request.user, act, self.about, target=str(obj), detail=f"{entry.get_change_message()} {self.stands(obj)}".strip())
        return entry
