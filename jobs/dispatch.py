"""One scheduling pass: load, place, write, send. Then, apart from it, tell the others why they wait.

Placing is the critical path between two jobs, so it reads no more of the queue than there is room for, and the sentences
come afterwards. A job whose start nobody heard of is offered again by jobs.reconcile.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Generic, TypeVar

from django.db import transaction
from django.db.models import Case, Exists, F, IntegerField, OuterRef, Q, QuerySet, When, Window
from django.db.models.functions import RowNumber

from jobs import capacity, hostlink, lifecycle
from jobs.capacity import HostView
from jobs.models import Attempt, Job
from jobs.scheduling import reasons
from jobs.scheduling.placement import Placement, Planner, Request, Waiting
from jobs.scheduling.reasons import Parent, Reason
from jobs.states import JobState, WaitReason

log = logging.getLogger(__name__)

ORDER = ("-priority", "pk")
FIRST_CHUNK, CHUNK = 16, 200
"""Jobs that are looked at in one go: few at first, since most passes have room for one."""
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
    """Places in the queue, 1-based, in the order in which jobs are considered; jobs that are not queued have none."""
    place = Window(RowNumber(), order_by=[F("priority").desc(), F("pk").asc()])
    # The wanted ones are picked by an expression over the window: a filter on their keys would be applied before it, and
    # the places would count among the wanted ones only.
    wanted = Case(When(pk__in=list(job_ids), then=place), default=0, output_field=IntegerField())
    return dict(Job.objects.filter(state=JobState.QUEUED).annotate(place=wanted).filter(place__gt=0).values_list("pk", "place"))


# --- placing ------------------------------------------------------------------------------------------------------------


def place(now: datetime, *, writing: Writing = transaction.atomic) -> int:
    """Start what can start; the number of jobs that were dispatched."""
    queue = _Queue(_startable(now), _Row, FIRST_CHUNK)
    first = queue.chunk()
    if not first:
        return 0
    hosts = capacity.hosts_now(now=now)
    planner = Planner(hosts)
    _ask(planner, first, queue)
    plan = planner.placements()
    twice = frozenset(orphan.job for host in hosts for orphan in host.orphans)
    return sum(_dispatch(plan[i : i + BATCH], now, writing, twice) for i in range(0, len(plan), BATCH))


def _ask(planner: Planner, chunk: Sequence[_Row], queue: _Queue[_Row]) -> None:
    """Go through the queue in order, as far as there is room for anybody."""
    while chunk and planner.has_slots:
        for row in chunk:
            planner.ask(row.waiting)
        if not planner.has_devices:
            queue.only_without_gpu()
        chunk = queue.chunk()


def _dispatch(plan: Sequence[Placement], now: datetime, writing: Writing, twice: Collection[str]) -> int:
    """`twice`: jobs (UUIDs) that a host runs already, though the database does not know it; the reconciler holds them."""
    offers: list[tuple[Job, Attempt]] = []
    with writing():
        ids = [p.job_id for p in plan]
        jobs = {job.pk: job for job in Job.objects.select_for_update().filter(pk__in=ids, state=JobState.QUEUED)}
        for placement in plan:
            job = jobs.get(placement.job_id)
            if job is None or _request(job.min_gpus, job.max_gpus, job.gpu_memory_mib, job.hosts) != placement.request:
                continue  # cancelled, held or changed since it was read
            if str(job.uid) in twice:
                continue
            devices = [{"uuid": d.uuid, "index": d.index} for d in placement.devices]
            if attempt := lifecycle.dispatch(job, host=placement.host, devices=devices, now=now):
                offers.append((job, attempt))
    for job, attempt in offers:
        hostlink.offer(job, lifecycle.spec_of(job, attempt), attempt.host)
    return len(offers)


def _startable(now: datetime) -> QuerySet[Job]:
    """Queued jobs whose time has come and whose parents have completed."""
    return Job.objects.filter(
        Q(not_before=None) | Q(not_before__lte=now),
        Q(begin_at=None) | Q(begin_at__lte=now),
        ~Exists(_unfinished_parents(from_job_id=OuterRef("pk"))),
        state=JobState.QUEUED,
    )


def _unfinished_parents(**which: Any) -> QuerySet[Any]:
    return Job.after.through._default_manager.filter(**which).exclude(to_job__state=JobState.COMPLETED)


class _Row:
    """A queued job as it is read to place it."""

    COLUMNS: tuple[str, ...] = ("pk", "priority", "min_gpus", "max_gpus", "gpu_memory_mib", "hosts")
    __slots__ = ("waiting",)

    def __init__(self, values: Sequence[Any], owner: str = "") -> None:
        pk, priority, min_gpus, max_gpus, memory, hosts = values[:6]
        self.waiting = Waiting(pk, priority, _request(min_gpus, max_gpus, memory, hosts), owner)


class _ToldRow(_Row):
    """A queued job as it is read to say why it waits."""

    COLUMNS = (
        *_Row.COLUMNS,
        *(
            "owner__username",
            "not_before",
            "begin_at",
            "retries_spent",
            "max_retries",
            "next_attempt",
            "faults",
            "wait_code",
            "wait_message",
        ),
    )
    __slots__ = ("attempt", "begin_at", "faults", "max_retries", "not_before", "retries_spent", "told")

    def __init__(self, values: Sequence[Any]) -> None:
        super().__init__(values, values[6])
        self.not_before, self.begin_at, self.retries_spent, self.max_retries, self.attempt, self.faults = values[7:13]
        self.told = (values[13], values[14])


R = TypeVar("R", bound=_Row)


class _Queue(Generic[R]):
    """Reads queued jobs in their order, chunk by chunk, each from where the last one ended."""

    def __init__(self, jobs: QuerySet[Job], row: type[R], size: int = CHUNK) -> None:
        self._jobs, self._row, self._size = jobs, row, size
        self._last: Waiting | None = None
        self._over = False

    def only_without_gpu(self) -> None:
        self._jobs = self._jobs.filter(min_gpus=0)

    def chunk(self) -> list[R]:
        if self._over:
            return []
        jobs = self._jobs
        if self._last:
            jobs = jobs.filter(Q(priority__lt=self._last.priority) | Q(priority=self._last.priority, pk__gt=self._last.id))
        rows = [self._row(values) for values in jobs.order_by(*ORDER).values_list(*self._row.COLUMNS)[: self._size]]
        self._over = len(rows) < self._size
        self._size = CHUNK
        if rows:
            self._last = rows[-1].waiting
        return rows


def _request(min_gpus: int, max_gpus: int, gpu_memory_mib: int, hosts: Sequence[str]) -> Request:
    return Request(min_gpus, max(min_gpus, max_gpus), gpu_memory_mib, tuple(hosts))


# --- telling why --------------------------------------------------------------------------------------------------------


class Explanation:
    """Writes down why each queued job waits. Done in steps, so that whoever runs it can place jobs in between."""

    def __init__(self, now: datetime, *, writing: Writing = transaction.atomic) -> None:
        self._now, self._writing, self._zone = now, writing, capacity.lab_zone()
        self._hosts: list[HostView] = capacity.hosts_now(now=now)
        self._planner = Planner(self._hosts)
        self._no_room: dict[Request, Reason] = {}
        self._next: datetime | None = None

    @property
    def next_in_s(self) -> float | None:
        """Seconds until the first moment that a queued job waits for; known after the last step."""
        return max(0.0, (self._next - self._now).total_seconds()) if self._next else None

    def steps(self) -> Iterator[None]:
        queue = _Queue(Job.objects.filter(state=JobState.QUEUED), _ToldRow)
        while rows := queue.chunk():
            parents = _parents(rows)
            changed: dict[Reason, list[int]] = defaultdict(list)
            for row in rows:
                reason = self._reason(row, parents.get(row.waiting.id, []))
                if reason and row.told != (reason.code, reason.message):
                    changed[reason].append(row.waiting.id)
            if changed:
                self._write(changed)
            yield

    def _reason(self, row: _ToldRow, parents: list[Parent]) -> Reason | None:
        """Why it waits; None if it need not, so that the next pass will start it."""
        now, zone, job = self._now, self._zone, row.waiting
        for moment in (row.not_before, row.begin_at):
            if moment and moment > now:
                self._next = min(moment, self._next or moment)
        if parents:
            return reasons.dependency(parents)
        if row.begin_at and row.begin_at > now:
            return reasons.begin_time(row.begin_at, now=now, zone=zone)
        if row.not_before and row.not_before > now:
            if row.told[0] == WaitReason.FILE_IN_USE:
                return None  # The host has said it, and who has the file.
            retry = 0 if row.faults and not row.retries_spent else row.retries_spent
            return reasons.backoff(row.not_before, retry=retry, max_retries=row.max_retries, attempt=row.attempt, now=now, zone=zone)
        if self._planner.ask(job):
            return None
        if first := self._planner.ahead_of(job):
            return reasons.behind(first, job)
        least = job.request.least
        if least not in self._no_room:
            self._no_room[least] = reasons.no_room(least, self._hosts, now=now, zone=zone)
        return self._no_room[least]

    def _write(self, changed: dict[Reason, list[int]]) -> None:
        with self._writing():
            for reason, ids in changed.items():
                Job.objects.filter(pk__in=ids, state=JobState.QUEUED).update(wait_code=reason.code, wait_message=reason.message)


def _parents(rows: Sequence[_Row]) -> dict[int, list[Parent]]:
    """The uncompleted parents of these jobs."""
    found: dict[int, list[Parent]] = defaultdict(list)
    ids = [row.waiting.id for row in rows]
    links = _unfinished_parents(from_job_id__in=ids).order_by("to_job_id")
    for child, parent, name, state in links.values_list("from_job_id", "to_job_id", "to_job__name", "to_job__state"):
        found[child].append(Parent(parent, name, state))
    return found
