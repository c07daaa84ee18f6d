"""The page that submits a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from gpuworker.questions import Ask
from jobs import access, asking, jobtemplates, lifecycle, submission
from jobs.capacity import hosts_now
from jobs.models import Job, JobTemplate, User
from jobs.web import forms, precheck, swapform
from jobs.web.people import UserRequest, live_part, signed_in
from jobs.web.views import templates


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def job_new(request: UserRequest) -> HttpResponse:
    if not access.may_submit(request.user):
        raise PermissionDenied
    if request.method == "POST":
        return _submit(request)
    if wanted := request.GET.get("template"):
        return _from_template(request, wanted)
    old = _copied_from(request)
    values = forms.of_job(old) if old else forms.initial()
    return _page(request, values | _in_address(request), {}, copied_from=old, rows=swapform.of_job(old) if old else ())


def _in_address(request: UserRequest) -> dict[str, str]:
    return {field.name: request.GET[field.name] for field in forms.ALL if field.name in request.GET}


def _from_template(request: UserRequest, wanted: str) -> HttpResponse:
    """The form as the template fills it, with what is not accepted any more already said beside its field."""
    template = jobtemplates.found(request.user, wanted)
    if template is None:
        messages.error(request, _("You have no template called “%(name)s”.") % {"name": wanted[: jobtemplates.LONGEST_NAME]})
        return _page(request, forms.initial() | _in_address(request), {})
    values, rows = templates.filled(template)
    values |= _in_address(request)
    _submission, errors = _read(values, rows, request.user)
    if not values.get("command", "").strip():
        errors.pop("command", None)
    return _page(request, values, errors, rows=rows, template=template)


@live_part
@require_POST
def job_check(request: UserRequest) -> HttpResponse:
    """What can be said of what is being typed."""
    if not access.may_submit(request.user):
        raise PermissionDenied
    return render(request, "jobs/parts/findings.html", {"findings": precheck.findings(request.POST.dict(), request.user)})


@live_part
@require_GET
def job_environments(request: UserRequest) -> HttpResponse:
    """Python environments of the hosts, for the list of a field."""
    names = [host.name for host in hosts_now() if host.accepts][: precheck.MOST_HOSTS]
    asked = asking.ask_all(names, Ask.ENVIRONMENTS, {"working_dir": request.GET.get("working_dir", "")[:4096]}) if names else {}
    found = {str(path) for answer in asked.values() if isinstance(answer.told, list) for path in answer.told}
    return render(request, "jobs/parts/environments.html", {"environments": sorted(found)[:200]})


def _copied_from(request: UserRequest) -> Job | None:
    """The job that this one shall be like, where this person may read it."""
    number = request.GET.get("from", "")
    if not (number.isascii() and number.isdecimal() and len(number) < 19):
        return None
    job = access.visible_jobs(request.user).filter(pk=number).first()
    return job if job and access.may_see_details(request.user, job) else None


def _submit(request: UserRequest) -> HttpResponse:
    typed = request.POST.dict()
    rows, unreadable = swapform.typed(typed, request.FILES.dict())
    if swapform.MORE in typed:
        return _page(request, typed, {}, rows=rows, more=True)
    if templates.SAVE in typed:
        return _keep(request, typed, rows)
    read, errors = _read(typed, rows, request.user)
    if unreadable:
        errors["swaps"] = unreadable
    if read is None or errors:
        return _page(request, typed, errors, rows=rows, status=400)
    job = lifecycle.submit(request.user, read.fields, after=read.after or (), hold=read.hold)
    return redirect("job", job.pk)


def _read(typed: Mapping[str, str], rows: Sequence[swapform.Row], owner: User) -> tuple[submission.Submission | None, dict[str, list[str]]]:
    data, errors = forms.read(typed)
    try:
        return submission.validate(data | {"swaps": swapform.data(rows)}, owner=owner), errors
    except submission.SubmissionErrors as exc:
        return None, exc.errors | errors


def _keep(request: UserRequest, typed: dict[str, str], rows: Sequence[swapform.Row]) -> HttpResponse:
    """As a template, which fills the form from now on; what it cannot keep stays in the form as it was typed."""
    try:
        template, replaced = templates.keep(request.user, typed, rows)
    except jobtemplates.TemplateRefused as exc:
        errors = exc.errors if exc.of_fields else {"template_name": exc.errors["name"]}
        return _page(request, typed, errors, rows=rows, status=400)
    messages.success(request, templates.told(template, replaced=replaced, rows=rows))
    if any(row.content for row in rows):
        return _page(request, typed, {}, rows=rows, template=template)
    return redirect(f"{reverse('job-new')}?{urlencode({'template': template.name})}")


def _page(
    request: UserRequest,
    values: dict[str, str],
    errors: dict[str, list[str]],
    *,
    rows: Sequence[swapform.Row] = (),
    more: bool = False,
    copied_from: Job | None = None,
    template: JobTemplate | None = None,
    status: int = 200,
) -> HttpResponse:
    hosts = hosts_now()
    folded = forms.bind(forms.FOLDED, values, errors)
    known = {"swaps", "template_name"} | {field.name for field in forms.ALL}
    context: dict[str, Any] = {
        "page": "new",
        "inputs": forms.bind(forms.INPUTS, values, errors),
        "folded": folded,
        "swap_rows": swapform.shown(rows, more=more),
        "swap_errors": errors.get("swaps", ()),
        "unfold": more
        or "swaps" in errors
        or any(not row.blank for row in rows)
        or any(bound.errors or (bound.value and bound.value != bound.input.initial) for bound in folded),
        "errors": errors,
        "other_errors": [text for name, texts in errors.items() if name not in known for text in texts],
        "copied_from": copied_from,
        "template": template,
        "templates": jobtemplates.of(request.user).only("name"),
        "template_name": values.get("template_name", template.name if template else ""),
        "keeping": templates.SAVE in values,
        "hosts": [(host, max((d.memory_total_mib or 0 for d in host.devices), default=0)) for host in hosts],
        "base_url": settings.AUTOTRAINER.url.rstrip("/"),
    }
    return render(request, "jobs/new.html", context, status=status)
