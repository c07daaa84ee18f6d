"""Why each queued job waits, written down beside it.

The first jobs of the line are told one by one, with who goes first and what they need. Those far behind are told what they
ask for and that many go first, in words that change only when they come to the front: so what is written each time does
not grow with the line. What waits for a moment or for other jobs is told what it waits for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import QuerySet

from jobs import capacity, line, shares
from jobs.models import Attempt, Job
from jobs.scheduling import keeping, reasons
from jobs.scheduling.inventory import HostView
from jobs.scheduling.placement import Planner
from jobs.scheduling.reasons import LastEnd, Reason
from jobs.scheduling.request import Request, Waiting
from jobs.states import JobState, Line, WaitReason

TOLD_ONE_BY_ONE = 200
WRITTEN_AT_ONCE = 1000
MOST_OWNERS = 3

Writing = Callable[[], AbstractContextManager[None]]

_ALIKE = frozenset({WaitReason.NEVER_FITS, WaitReason.HOST_DOWN})
"""Reasons that hold for all that ask for the same, wherever they stand."""


@dataclass(slots=True)
class Told:
    """What the last explanations wrote. A leader keeps it; without it everything is looked at."""

    far: dict[int, Reason] = field(default_factory=dict)
    """By request: what its jobs far behind were told."""
    ahead: tuple[str, ...] = ()
    """The owners of jobs near the front whom they were told of."""
    others: bool = False
    """And that others have some too: said until the names change, since people come and go."""
    near: frozenset[int] = frozenset()
    """Jobs that were told one by one."""


class Explanation:
    """Done in steps, so that whoever runs it can place jobs in between."""

    def __init__(self, now: datetime, *, writing: Writing = transaction.atomic, told: Told | None = None) -> None:
        self._now, self._writing, self._zone = now, writing, capacity.lab_zone()
        self._told = Told() if told is None else told
        self._hosts: list[HostView] = capacity.hosts_now(now=now)
        self._keepers = keeping.keepers(self._hosts)
        self._planner = Planner(self._hosts, now, overrun_s=capacity.overrun_s())
        self._no_room: dict[Request, Reason] = {}
        self._waiting_ahead: Counter[str] = Counter()
        self._owners: Counter[str] = Counter()

    @property
    def next_in_s(self) -> float | None:
        """Seconds until the first moment that a queued job waits for."""
        soon = Job.objects.filter(state=JobState.QUEUED, line=Line.WAITING, ready_at__isnull=False).order_by("ready_at")
        ready_at = soon.values_list("ready_at", flat=True).first()
        return max(0.0, (ready_at - self._now).total_seconds()) if ready_at else None

    def steps(self) -> Iterator[None]:
        standings = shares.standings()
        rows = line.first(TOLD_ONE_BY_ONE, standings)
        self._owners.update(row.waiting.owner for row in rows)
        near = self._explain_near(rows)
        yield
        yield from self._explain_far(near, line.heads(standings) if len(rows) == TOLD_ONE_BY_ONE else [])
        self._told.near = near
        yield from self._explain_waiting()

    # --- in line --------------------------------------------------------------------------------------------------------

    def _explain_near(self, rows: list[line.Row]) -> frozenset[int]:
        changed: dict[Reason, list[int]] = defaultdict(list)
        for row in rows:
            reason = self._why(row.waiting)
            if reason and row.told != (reason.code, reason.message):
                changed[reason].append(row.waiting.id)
        self._write(changed)
        return frozenset(row.waiting.id for row in rows)

    def _why(self, job: Waiting) -> Reason | None:
        """None if it need not wait, so that the next pass will start it."""
        job = keeping.asked_by(job, self._keepers)
        if self._planner.ask(job):
            return None
        first = self._planner.ahead_of(job)
        reason = self._without_room(job.request.least)
        if first and reason.code not in _ALIKE:
            slips_past_s = self._planner.slips_past_s(job)
            until = self._now + timedelta(seconds=slips_past_s) if slips_past_s is not None else None
            before = self._waiting_ahead[first.owner]
            reason = reasons.behind(first, job, before=before, until=until, now=self._now, zone=self._zone)
        self._waiting_ahead[job.owner] += 1
        return reason

    def _without_room(self, least: Request) -> Reason:
        least = self._planner.comes_to(least)
        if least not in self._no_room:
            self._no_room[least] = reasons.no_room(least, self._hosts, now=self._now, zone=self._zone)
        return self._no_room[least]

    def _explain_far(self, near: Collection[int], heads: list[line.Head]) -> Iterator[None]:
        """Those behind: all that ask for the same are told the same. Written where it is new, or where they are."""
        self._name_owners()
        far: dict[int, Reason] = {}
        for head in sorted(heads, key=lambda h: h.waiting.order):
            if head.request_key not in far:
                far[head.request_key] = self._why_far(head.waiting)
        for key, reason in far.items():
            if self._told.far.get(key) != reason:
                alike = line.in_line().filter(request_key=key).exclude(pk__in=near)
                yield from self._write_all(alike.exclude(wait_code=reason.code, wait_message=reason.message), reason)
        self._told.far = far
        # Those that were told one by one when they were nearer to the front; and who is untold until now.
        self._write_far(line.in_line().filter(pk__in=self._told.near - frozenset(near)), far)
        untold = line.in_line().filter(wait_code="").exclude(pk__in=near)
        while self._write_far(untold, far):
            yield

    def _name_owners(self) -> None:
        """The same ones as long as all of them have jobs near the front: another name would be written to each job behind."""
        if not self._told.ahead or not all(self._owners[name] for name in self._told.ahead):
            self._told.ahead = tuple(sorted(name for name, _ in self._owners.most_common(MOST_OWNERS)))
            self._told.others = False
        self._told.others |= len(self._owners) > len(self._told.ahead)

    def _write_far(self, jobs: QuerySet[Job], far: Mapping[int, Reason]) -> bool:
        """Some of these; whether there were any. Not by number: SQLite would read the whole table in its order."""
        ids: dict[Reason, list[int]] = defaultdict(list)
        for pk, key in line.by_index(jobs.order_by().values_list("pk", "request_key")[:WRITTEN_AT_ONCE]):
            if key in far:  # else it has come since
                ids[far[key]].append(pk)
        self._write(ids)
        return bool(ids)

    def _why_far(self, job: Waiting) -> Reason:
        least = self._planner.comes_to(job.request.least)
        reason = self._without_room(least)
        if reason.code in _ALIKE:
            return reason
        return reasons.far_behind(least, TOLD_ONE_BY_ONE, self._told.ahead, others=self._told.others)

    # --- not in line ----------------------------------------------------------------------------------------------------

    def _explain_waiting(self) -> Iterator[None]:
        """What waits for a moment or for other jobs: the next ones afresh, the others once."""
        waiting = Job.objects.filter(state=JobState.QUEUED, line=Line.WAITING)
        nearest = list(waiting.order_by("ready_at", "pk")[:TOLD_ONE_BY_ONE])
        self._tell_waiting(nearest)
        yield
        while self._tell_waiting(line.by_index(waiting.filter(wait_code="").order_by()[:WRITTEN_AT_ONCE])):
            yield

    def _tell_waiting(self, jobs: list[Job]) -> bool:
        parents = line.unfinished_parents([job.pk for job in jobs])
        ends = _last_ends(jobs)
        changed: dict[Reason, list[int]] = defaultdict(list)
        for job in jobs:
            reason = self._why_not_in_line(job, parents.get(job.pk, []), ends.get(job.pk))
            if reason and (job.wait_code, job.wait_message) != (reason.code, reason.message):
                changed[reason].append(job.pk)
        self._write(changed)
        return bool(changed)

    def _why_not_in_line(self, job: Job, parents: list[reasons.Parent], last: LastEnd | None) -> Reason | None:
        now, zone = self._now, self._zone
        if parents:
            return reasons.dependency(parents)
        if job.begin_at and job.begin_at > now:
            return reasons.begin_time(job.begin_at, now=now, zone=zone)
        if job.not_before and job.not_before > now:
            if job.wait_code == WaitReason.FILE_IN_USE:
                return None  # The host has said it, and who has the file.
            retry = 0 if job.faults and not job.retries_spent else job.retries_spent
            return reasons.backoff(
                job.not_before, retry=retry, max_retries=job.max_retries, attempt=job.next_attempt, last=last, now=now, zone=zone
            )
        return None  # about to come into line

    # --- writing --------------------------------------------------------------------------------------------------------

    def _write(self, changed: dict[Reason, list[int]]) -> None:
        if not changed:
            return
        with self._writing():
            for reason, ids in changed.items():
                Job.objects.filter(pk__in=ids, state=JobState.QUEUED).update(wait_code=reason.code, wait_message=reason.message)

    def _write_all(self, jobs: QuerySet[Job], reason: Reason) -> Iterator[None]:
        while ids := list(jobs.order_by().values_list("pk", flat=True)[:WRITTEN_AT_ONCE]):
            with self._writing():
                Job.objects.filter(pk__in=ids, state=JobState.QUEUED).update(wait_code=reason.code, wait_message=reason.message)
            yield
            if len(ids) < WRITTEN_AT_ONCE:
                return


def _last_ends(jobs: Collection[Job]) -> dict[int, LastEnd]:
    """How the last attempt of those of these jobs that have some has ended."""
    begun = [job.pk for job in jobs if job.next_attempt > 1]
    rows = Attempt.objects.filter(job__in=begun).order_by("number").values_list("job_id", "exit_code", "signal", "oom_detected")
    return {job: LastEnd(code, signal, oom) for job, code, signal, oom in rows} if begun else {}
