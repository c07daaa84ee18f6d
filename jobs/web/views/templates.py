"""Templates of jobs on the pages: kept from the submit form, which they fill again; a page of one's own to rename and delete them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from jobs import access, jobtemplates
from jobs.jobtemplates import TemplateRefused
from jobs.models import JobTemplate, User
from jobs.web import forms, swapform
from jobs.web.people import UserRequest, signed_in

SAVE = "save_template"
"""The button of the submit form that keeps it instead of submitting it."""


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def my_templates(request: UserRequest) -> HttpResponse:
    if not access.may_submit(request.user):
        raise PermissionDenied
    if request.method == "POST" and (number := _number(request.POST.get("delete", ""))):
        if jobtemplates.delete(request.user, number):
            messages.success(request, _("The template is deleted."))
        return redirect("job-templates")
    if request.method == "POST":
        return _renamed(request)
    return _page(request)


def _renamed(request: UserRequest) -> HttpResponse:
    template = jobtemplates.of(request.user).filter(pk=_number(request.POST.get("rename", ""))).first()
    if template is None:
        return redirect("job-templates")
    name = request.POST.get(f"name_{template.pk}", "")
    try:
        jobtemplates.change(template, name=name)
    except TemplateRefused as exc:
        return _page(request, wrong=template.pk, typed=name, error=str(exc))
    messages.success(request, _("The template is called “%(name)s” now.") % {"name": template.name})
    return redirect("job-templates")


def _page(request: UserRequest, *, wrong: int = 0, typed: str = "", error: str = "") -> HttpResponse:
    context = {"page": "templates", "templates": jobtemplates.of(request.user), "wrong": wrong, "typed": typed, "error": error}
    return render(request, "jobs/templates.html", context, status=400 if error else 200)


def keep(owner: User, typed: Mapping[str, str], rows: Sequence[swapform.Row]) -> tuple[JobTemplate, bool]:
    """What is in the form, under the name beside the button or else the job's own; raises TemplateRefused."""
    data, errors = forms.read(typed)
    if errors:
        raise TemplateRefused(errors, of_fields=True)
    given: dict[str, Any] = {
        name: value.isoformat() if name == "begin_at" and not isinstance(value, str) else value for name, value in data.items()
    }
    if not given["command"].strip():
        del given["command"]
    if swaps := swapform.data(swapform.without_contents(rows)):
        given["swaps"] = swaps
    name = typed.get("template_name", "").strip() or typed.get("name", "").strip()
    return jobtemplates.keep(owner, name=name, given=given)


def told(template: JobTemplate, *, replaced: bool, rows: Sequence[swapform.Row]) -> str:
    """What was done, and what of the form is not in it."""
    what = _("The template “%(name)s” is replaced.") if replaced else _("Kept as the template “%(name)s”.")
    cut = any(row.content for row in rows)
    return what % {"name": template.name} + (" " + _("The contents of swapped files are not in it.") if cut else "")


def filled(template: JobTemplate) -> tuple[dict[str, str], list[swapform.Row]]:
    """The form as this template fills it: what it does not say is the form's own beginning."""
    values = forms.initial() | forms.of_fields(template.fields)
    least, most = template.fields.get("min_gpus"), template.fields.get("max_gpus")
    if most is None and least is not None:
        values["max_gpus"] = values["min_gpus"]
    elif least is None and most == 0:
        values["min_gpus"] = "0"
    return values, swapform.of_fields(template.fields.get("swaps"))


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0
