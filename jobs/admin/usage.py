"""GPU-hours by person or group and month: a table for operators, and the same as CSV."""

from __future__ import annotations

import csv
from datetime import date
from typing import Any

from django.contrib import admin
from django.core.exceptions import BadRequest, PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from jobs import access, usage
from jobs.usage import Used

USUAL_MONTHS = 12
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def usage_view(request: HttpRequest) -> HttpResponse:
    """`?from=2026-01&to=2026-12&by=group&format=csv`; a year until now, by person, as a page without them."""
    if not access.is_operator(request.user):
        raise PermissionDenied
    first, last = _months(request)
    by = request.GET.get("by", "person")
    if by not in ("person", "group"):
        raise BadRequest("by: person or group.")
    rows = (usage.by_group if by == "group" else usage.by_person)(first, last, now=timezone.now())
    if request.GET.get("format") == "csv":
        return _csv(rows, by)
    table = {
        "headers": [_("Month"), _("Group") if by == "group" else _("Person"), _("GPU-hours"), _("Attempts")],
        "rows": [[date_format(row.month, "YEAR_MONTH_FORMAT"), row.who, f"{row.gpu_hours:,.1f}", row.attempts] for row in rows],
    }
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": _("GPU-hours"),
        "table": table,
        "total": f"{sum(row.gpu_hours for row in rows):,.1f}",
        "by": by,
        "first": f"{first:%Y-%m}",
        "last": f"{last:%Y-%m}",
    }
    return TemplateResponse(request, "jobs/admin/usage.html", context)


def _months(request: HttpRequest) -> tuple[date, date]:
    """Raises BadRequest."""
    this = timezone.localdate(timezone=timezone.get_default_timezone()).replace(day=1)
    last = _month(request, "to", this)
    usual = last.year * 12 + last.month - USUAL_MONTHS
    first = _month(request, "from", date(max(1, usual // 12), usual % 12 + 1, 1))
    between = (last.year - first.year) * 12 + last.month - first.month
    if not 0 <= between < usage.MOST_MONTHS:
        raise BadRequest(f"from and to: at most {usage.MOST_MONTHS} months, the earlier one first.")
    return first, last


def _month(request: HttpRequest, name: str, default: date) -> date:
    text = request.GET.get(name, "")
    if not text:
        return default
    try:
        month = date.fromisoformat(f"{text}-01")
    except ValueError as exc:
        raise BadRequest(f"{name}: write a month as 2026-11.") from exc
    if not 2000 <= month.year <= 2200:
        raise BadRequest(f"{name}: write a month from 2000-01 to 2200-12.")
    return month


def _csv(rows: list[Used], by: str) -> HttpResponse:
    answer = HttpResponse(content_type="text/csv; charset=utf-8", headers={"Content-Disposition": 'attachment; filename="gpu-hours.csv"'})
    out = csv.writer(answer)
    out.writerow(["month", by, "gpu_hours", "attempts"])
    for row in rows:
        # A spreadsheet would take a name that begins so for a formula.
        who = f"'{row.who}" if row.who.startswith(_FORMULA) else row.who
        out.writerow([f"{row.month:%Y-%m}", who, f"{row.gpu_hours:.3f}", row.attempts])
    return answer
