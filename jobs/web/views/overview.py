"""The page that people come for: what the GPUs do, what runs, what waits and why, what ended today."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import Count, QuerySet, Value
from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from jobs import access, line, progress, rings
from jobs.capacity import HostView, hosts_now
from jobs.models import Attempt, Job
from jobs.states import ACTIVE, TERMINAL, JobState, Line, Outcome
from jobs.web.cards import DENSE_FROM, address, blocks, folding, shown
from jobs.web.people import UserRequest, live_part, signed_in
from jobs.web.words import left, place

ROWS = 50
RUNNING_ROWS = 200
ENDED_ROWS = 15
_HOW = {
    Outcome.LAUNCH_FAILED: gettext_lazy("could not be launched"),
    Outcome.TIMED_OUT: gettext_lazy("at its time limit"),
    Outcome.HOST_LOST: gettext_lazy("with its host"),
    Outcome.EXIT_LOST: gettext_lazy("with its exit code lost"),
}
"""Endings that say more than the signal or the exit code which came with them."""


@dataclass(frozen=True, slots=True)
class Row:
    job: Job
    attempt: Attempt | None = None
    position: int | None = None

    @property
    def where(self) -> str:
        return place(self.attempt.host, self.attempt.devices) if self.attempt else ""

    @property
    def progress(self) -> float | None:
        return None if self.job.progress is None else 100 * self.job.progress

    @property
    def progress_label(self) -> str:
        return _("%(percent)d %% done") % {"percent": self.progress or 0}

    @property
    def left(self) -> str:
        return left(progress.remaining_s(self.job, self.attempt))

    @property
    def how(self) -> str:
        """Why it failed, in two or three words; the job's page has the sentence."""
        if self.job.state != JobState.FAILED or self.attempt is None:
            return ""
        if self.job.oom_detected:
            return _("out of GPU memory")
        if self.attempt.outcome in _HOW:
            return str(_HOW[Outcome(self.attempt.outcome)])
        if self.attempt.signal:
            return _("signal %(number)d") % {"number": self.attempt.signal}
        return "" if self.job.exit_code is None else _("exit code %(code)d") % {"code": self.job.exit_code}


@signed_in
def overview(request: UserRequest) -> HttpResponse:
    return render(request, "jobs/overview.html", _context(request, timezone.now()))


@live_part
def overview_live(request: UserRequest) -> HttpResponse:
    return render(request, "jobs/parts/overview.html", _context(request, timezone.now()))


def _context(request: UserRequest, now: datetime) -> dict[str, Any]:
    running, waiting, ended = _rows(now)
    for row in waiting:
        access.veiled(request.user, row.job)
    hosts = hosts_now(now=now)
    opened = {host.name for host in hosts} & set(request.GET.getlist("open"))
    drawn = shown(hosts, opened)
    counts = _counts(now)
    return {
        "page": "overview",
        "blocks": blocks(hosts, _started(drawn, running), rings.hours([host.name for host in drawn], now_s=now.timestamp()), opened),
        "dense": sum(len(host.devices) for host in hosts) >= DENSE_FROM,
        "folding": folding(hosts),
        "opened": address(opened) if opened else "",
        "summary": _summary(hosts, counts["active"], counts["queued"]),
        "running": running,
        "more_running": counts["active"] - len(running),
        "waiting": waiting,
        "more_waiting": counts["queued"] + counts["held"] - len(waiting),
        "ended": ended,
        "ended_count": counts["ended"],
        "more_ended": counts["ended"] - len(ended),
        "counts": counts,
        "never": not (running or waiting or ended) and not Job.objects.exists(),
        "base_url": settings.AUTOTRAINER.url.rstrip("/"),
    }


def _started(hosts: Iterable[HostView], running: Iterable[Row]) -> dict[int, datetime]:
    """Since when the jobs that hold these hosts' devices run."""
    started = {row.job.pk: row.attempt.started_at for row in running if row.attempt}
    held = {holder.job for host in hosts for device in host.devices for holder in device.holders}
    if unlisted := held - started.keys():
        started |= dict(Attempt.objects.filter(job__in=unlisted).order_by("number").values_list("job_id", "started_at"))
    return {job: since for job, since in started.items() if since}


def _rows(now: datetime) -> tuple[list[Row], list[Row], list[Row]]:
    """What runs, what waits and what ended today. All of them are asked for at once: this page is open all day, everywhere."""
    positions = {row.waiting.id: place for place, row in enumerate(line.first(ROWS), start=1)}
    found = Job.objects.filter(pk__in=_shown(now, positions)).order_by("id")
    jobs = list(found.select_related("owner").defer(*access.HIDDEN_FROM_OTHERS))
    running = [job for job in jobs if job.state in ACTIVE]
    ended = sorted((job for job in jobs if job.state in TERMINAL and job.ended_at), key=_ended_at, reverse=True)
    last = last_attempts([*running, *ended])
    waiting = [Row(job, position=positions.get(job.pk)) for job in _in_order(jobs, positions)]
    return [Row(job, last.get(job.pk)) for job in running], waiting, [Row(job, last.get(job.pk)) for job in ended]


def _shown(now: datetime, in_line: Collection[int]) -> QuerySet[Job, Any]:
    """The numbers of the jobs on the page; `in_line`: those of the first ones in line."""
    rest = ROWS - len(in_line)
    queued = Job.objects.filter(state=JobState.QUEUED)
    found = (
        _limited(Job.objects.filter(state__in=ACTIVE).order_by("id"), RUNNING_ROWS),
        queued.filter(pk__in=in_line),
        _limited(queued.exclude(line=Line.IN).order_by("ready_at", "id"), rest),
        _limited(Job.objects.filter(state=JobState.HELD).order_by("id"), rest),
        _limited(Job.objects.filter(ended_at__gte=midnight(now), state__in=TERMINAL).order_by("-ended_at"), ENDED_ROWS),
    )
    first, *others = (jobs.order_by().values("pk") for jobs in found)
    return first.union(*others, all=True)


def _limited(jobs: QuerySet[Job], count: int) -> QuerySet[Job]:
    """SQLite takes no limit in a part of a union, but in what a part asks for."""
    return Job.objects.filter(pk__in=jobs.values("pk")[:count])


def _ended_at(job: Job) -> datetime:
    return job.ended_at or job.created_at


def _in_order(jobs: Iterable[Job], positions: Mapping[int, int]) -> list[Job]:
    """Queued jobs in the order they will start, then those that wait for a moment or for other jobs, then held ones."""
    queued = [job for job in jobs if job.state == JobState.QUEUED]
    in_line = sorted((job for job in queued if job.pk in positions), key=lambda job: positions[job.pk])
    others = sorted((job for job in queued if job.pk not in positions), key=lambda job: (job.ready_at is not None, job.ready_at, job.pk))
    return [*in_line, *others, *(job for job in jobs if job.state == JobState.HELD)][:ROWS]


def last_attempts(jobs: Iterable[Job]) -> dict[int, Attempt]:
    """The newest attempt of each of these jobs that has one."""
    return {a.job_id: a for a in Attempt.objects.filter(job__in=[job.pk for job in jobs]).order_by("number")}


def midnight(now: datetime) -> datetime:
    """The beginning of the lab's day."""
    return timezone.localtime(now).replace(hour=0, minute=0, second=0, microsecond=0)


def _counts(now: datetime) -> dict[str, int]:
    waiting = Job.objects.filter(state__in=[JobState.QUEUED, JobState.HELD]).order_by().values_list("state")
    active = Job.objects.filter(state__in=ACTIVE).order_by().values_list(Value("active"))
    ended = Job.objects.filter(ended_at__gte=midnight(now), state__in=TERMINAL).order_by().values_list(Value("ended"))
    counted = waiting.annotate(n=Count("pk")).union(active.annotate(n=Count("pk")), ended.annotate(n=Count("pk")), all=True)
    return {"queued": 0, "held": 0, "active": 0, "ended": 0} | dict(counted)


def _summary(hosts: list[HostView], running: int, queued: int) -> str:
    """One sentence that answers why somebody opened this page."""
    usable = sum(device.allocatable for host in hosts for device in host.devices)
    free = sum(len(host.free_devices) for host in hosts)
    runs = ngettext("%(count)d job runs", "%(count)d jobs run", running) % {"count": running}
    waits = ngettext("%(count)d waits", "%(count)d wait", queued) % {"count": queued}
    if not usable:
        return _("No GPU to give out; %(runs)s, %(waits)s.") % {"runs": runs, "waits": waits}
    gpus = ngettext("%(free)d of %(all)d GPU is free", "%(free)d of %(all)d GPUs are free", usable) % {"free": free, "all": usable}
    return _("%(gpus)s; %(runs)s, %(waits)s.") % {"gpus": gpus, "runs": runs, "waits": waits}
