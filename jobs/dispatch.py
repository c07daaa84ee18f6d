"""One scheduling pass: load, place, write, send. Then, apart from it, tell the others why they wait (jobs/explanation.py).

Placing is the critical path between two jobs, so it reads no more of the line than there is room for, and the sentences
come afterwards. A job whose start nobody heard of is offered again by jobs.reconcile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime

from django.db import transaction

from gpuworker import failpoints
from jobs import capacity, hostlink, lifecycle, line, shares
from jobs.explanation import Explanation
from jobs.models import Attempt, Job
from jobs.scheduling import keeping
from jobs.scheduling.placement import Placement, Planner
from jobs.scheduling.request import Waiting
from jobs.specs import spec_of
from jobs.states import JobState, Line

__all__ = ["Explanation", "place", "queue_positions", "run_pass"]

log = logging.getLogger(__name__)

BATCH = 16
"""Placements that are written in one transaction."""

Writing = Callable[[], AbstractContextManager[None]]
"""Opens the transaction of a write; the scheduler's fails where another one leads by now."""


def run_pass(now: datetime, *, writing: Writing = transaction.atomic) -> float | None:
    """Place what can start and tell the others why they wait; seconds until the next moment that a job waits for, if any."""
    place(now, writing=writing)
    explanation = Explanation(now, writing=writing)
    for _ in explanation.steps():
        pass
    return explanation.next_in_s


def queue_positions(job_ids: Iterable[int]) -> dict[int, int]:
    """Places in line, 1-based, in the order in which jobs are considered. Jobs that are not queued have none, nor have
    those that wait for a moment or for other jobs."""
    return line.positions(job_ids)


def place(now: datetime, *, writing: Writing = transaction.atomic) -> int:
    """Start what can start; the number of jobs that were dispatched."""
    line.admit(now, writing=writing)
    standings = shares.standings()
    heads = line.heads(standings)
    if not heads:
        return 0
    hosts = capacity.hosts_now(now=now)
    planner = Planner(hosts, now, overrun_s=capacity.overrun_s())
    _ask(planner, line.Walk(heads, standings), [head.waiting for head in heads], keeping.keepers(hosts))
    plan = planner.placements()
    twice = frozenset(orphan.job for host in hosts for orphan in host.orphans)
    return sum(_dispatch(plan[i : i + BATCH], now, writing, twice) for i in range(0, len(plan), BATCH))


def _ask(planner: Planner, walk: line.Walk, firsts: Iterable[Waiting], keepers: Collection[str]) -> None:
    """Go through the line in order, as far as there is room for anybody. `keepers`: for whom devices are kept."""
    requests = {keeping.asked_by(job, keepers).request.least for job in firsts}
    hopeful = [request for request in requests if planner.could_place(request)]
    while hopeful and (head := walk.next()):
        job = keeping.asked_by(head.waiting, keepers)
        if planner.has_failed(job.request):
            continue
        if planner.ask(job):
            walk.go_on(head)
        hopeful = [request for request in hopeful if planner.could_place(request)]


def _dispatch(plan: Sequence[Placement], now: datetime, writing: Writing, twice: Collection[str]) -> int:
    """`twice`: jobs (UUIDs) that a host runs already, though the database does not know it; the reconciler holds them."""
    offers: list[tuple[Job, Attempt]] = []
    failpoints.hit("scheduler.picked")
    with writing():
        ids = [p.job_id for p in plan]
        queued = Job.objects.select_for_update().filter(pk__in=ids, state=JobState.QUEUED, line=Line.IN)
        jobs = {job.pk: job for job in queued}
        for placement in plan:
            job = jobs.get(placement.job_id)
            if job is None or line.request_of_job(job) != keeping.anybodys(placement.request):
                continue  # cancelled, held or changed since it was read
            if str(job.uid) in twice:
                continue
            devices = [{"uuid": d.uuid, "index": d.index} for d in placement.devices]
            if attempt := lifecycle.dispatch(job, host=placement.host, devices=devices, now=now):
                offers.append((job, attempt))
        failpoints.hit("scheduler.uncommitted")
    failpoints.hit("scheduler.committed")
    for job, attempt in offers:
        hostlink.offer(job, spec_of(job, attempt), attempt.host)
    failpoints.hit("scheduler.offered")
    return len(offers)
