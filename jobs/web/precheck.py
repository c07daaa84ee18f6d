"""What can be said of a job before it is submitted: whether it could start where it may run, and when. Never keeps anybody from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

from gpuworker.questions import Ask
from jobs import asking, capacity, line, submission
from jobs.asking import Asked
from jobs.models import Job, User
from jobs.phrases import said
from jobs.scheduling import keeping, reasons
from jobs.scheduling.inventory import HostView
from jobs.scheduling.placement import Planner
from jobs.scheduling.request import Waiting
from jobs.web import forms

_WHY = (
    *(gettext_noop("does not exist"), gettext_noop("is a file"), gettext_noop("may not be entered"), gettext_noop("may not be written to")),
    *(gettext_noop("is not found"), gettext_noop("is no program that may be run"), gettext_noop("has no folder 'bin'")),
)
"""What hosts say (gpuworker/lookingaround.py), for the catalogue."""
WAIT_S = 1.5
MOST_HOSTS = 20


@dataclass(frozen=True, slots=True)
class Finding:
    text: str
    good: bool


def findings(typed: Mapping[str, str], user: User) -> list[Finding]:
    """Nothing of what cannot be read yet: whoever types is not interrupted."""
    data, unreadable = forms.read(typed)
    if unreadable or not typed.get("command", "").strip():
        return []
    try:
        fields = submission.validate(data, owner=user).fields
    except submission.SubmissionErrors as exc:
        return [Finding(forms.in_labels(text), good=False) for texts in exc.errors.values() for text in texts]
    job = Job(**{name: value for name, value in fields.items() if name != "swaps"})
    hosts = capacity.hosts_now()
    return [*_on_hosts(job, hosts), *_in_queue(job, user, hosts)]


# --- what the hosts say -------------------------------------------------------------------------------------------------


def _on_hosts(job: Job, hosts: Iterable[HostView]) -> Iterable[Finding]:
    request = line.request_of_job(job)
    names = [host.name for host in hosts if host.accepts and request.allows(host.name)][:MOST_HOSTS]
    if not names:
        return
    args = {"working_dir": job.working_dir, "command": job.command, "environment": job.environment, "path": job.env.get("PATH", "")}
    answers = asking.ask_all(names, Ask.CHECK, args, wait_s=WAIT_S)
    wrong: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, answer in answers.items():
        for what, why in _wrong(answer):
            wrong[what, why].append(name)
    for (what, why), where in wrong.items():
        yield Finding(
            _("%(what)s %(why)s on %(hosts)s.") % {"what": _named(what, job), "why": _(why), "hosts": ", ".join(where)}, good=False
        )
    good = [name for name, answer in answers.items() if not answer.error and not any(_wrong(answer))]
    if good:
        yield Finding(_("Directory and program are there on %(hosts)s.") % {"hosts": ", ".join(good)}, good=True)
    if silent := [name for name, answer in answers.items() if answer.error]:
        yield Finding(_("%(hosts)s did not answer in time, and cannot be told about.") % {"hosts": ", ".join(silent)}, good=False)


def _wrong(answer: Asked) -> list[tuple[str, str]]:
    """(what, why not), in the host's words."""
    told: Any = answer.told if isinstance(answer.told, dict) else {}
    return [(what, str(told[what])[:200]) for what in ("directory", "program", "environment") if told.get(what)]


def _named(what: str, job: Job) -> str:
    program = job.command.split()[0] if job.command.split() else job.command
    return {"directory": job.working_dir, "program": program[:80], "environment": job.environment}[what]


# --- when it would start ------------------------------------------------------------------------------------------------


def _in_queue(job: Job, user: User, hosts: list[HostView]) -> Iterable[Finding]:
    now = timezone.now()
    waiting = line.in_line().count()
    asked = Waiting(0, job.priority, line.request_of_job(job), user.get_username())
    asked = keeping.asked_by(asked, keeping.keepers(hosts))
    placed = Planner(hosts, now, overrun_s=capacity.overrun_s()).ask(asked)
    if placed and not waiting:
        yield Finding(_("It would start at once."), good=True)
        return
    if waiting:
        told = ngettext(
            "%(count)d job waits in line before it or beside it.", "%(count)d jobs wait in line before it or beside it.", waiting
        )
        yield Finding(told % {"count": waiting}, good=bool(placed))
    if not placed:
        yield Finding(said(reasons.no_room(asked.request.least, hosts, now=now, zone=capacity.lab_zone()).message), good=False)
