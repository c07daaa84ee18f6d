"""The line of jobs that wait for devices, as it is read from the database: in pieces, since it may be very long.

Who stands before whom is jobs.scheduling.order's to say, here as for the pages and positions. A queued job is in line once
its time has come and the jobs before it have completed; `admit` lets it in. Jobs that ask for the same are one question to
a pass, so it reads the line by requests: the first job of each owner for each of them, and more only of what was placed.
"""

from __future__ import annotations

import heapq
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from django.db import connection, transaction
from django.db.models import Count, Exists, Min, OuterRef, Q, QuerySet
from django.db.models.expressions import RawSQL

from jobs import shares
from jobs.models import Job
from jobs.scheduling import order
from jobs.scheduling.order import NOBODY, Group, Standing
from jobs.scheduling.reasons import Parent
from jobs.scheduling.request import Request, Waiting, request_of
from jobs.states import JobState, Line

ADMITTED_AT_ONCE = 500
CHUNK = 64
ASKED_FOR = ("min_gpus", "max_gpus", "gpu_memory_mib", "hosts", "shared", "time_limit_s", "oom_floor_mib")

Answer = TypeVar("Answer")
Writing = Callable[[], AbstractContextManager[None]]
Standings = Mapping[int, Standing]


def in_line() -> QuerySet[Job]:
    return Job.objects.filter(state=JobState.QUEUED, line=Line.IN)


def request_of_job(job: Job) -> Request:
    return request_of(**{name: getattr(job, name) for name in ASKED_FOR})


# --- letting jobs in ----------------------------------------------------------------------------------------------------


def admit(now: datetime, *, writing: Writing = transaction.atomic) -> None:
    """Look at what has come or changed, and at what waited for a moment that is over."""
    queued = Job.objects.filter(state=JobState.QUEUED).order_by()  # by number, SQLite would read the whole table in its order
    for to_look_at in (queued.filter(line=Line.NEW), queued.filter(line=Line.WAITING, ready_at__lte=now)):
        while ids := by_index(to_look_at.values_list("pk", flat=True)[:ADMITTED_AT_ONCE]):
            with writing():
                _admit(list(to_look_at.filter(pk__in=ids).select_for_update(of=("self",))), now)


def _admit(found: Sequence[Job], now: datetime) -> None:
    blocked = set(unfinished_parents([job.pk for job in found]))
    alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for job in found:
        moment = max((at for at in (job.begin_at, job.not_before) if at and at > now), default=None)
        place = Line.WAITING if moment or job.pk in blocked else Line.IN
        alike[place, None if job.pk in blocked else moment, request_of_job(job).key].append(job.pk)
    for (place, moment, key), ids in alike.items():
        # Why it waited is no longer so; why it waits now is told next.
        untold = {} if place is Line.WAITING else {"wait_code": "", "wait_message": ""}
        Job.objects.filter(pk__in=ids).update(line=place, ready_at=moment, request_key=key, **untold)


def first_place(job_fields: Mapping[str, Any], *, free: bool) -> dict[str, Any]:
    """The columns of a job that is being submitted; `free`: it waits for no moment, no job and no person."""
    if not free:
        return {"line": Line.NEW}
    asked = Job(**{name: job_fields[name] for name in ASKED_FOR if name in job_fields})
    return {"line": Line.IN, "request_key": request_of_job(asked).key}


def look_again_at_children(parent: int) -> None:
    """A job has completed: those that waited for it may come into line."""
    Job.objects.filter(after=parent, state=JobState.QUEUED, line=Line.WAITING).update(line=Line.NEW)


def look_again() -> None:
    """At all that wait for other jobs and need not any more, whatever message of theirs was lost."""
    waiting = Job.objects.filter(state=JobState.QUEUED, line=Line.WAITING, ready_at=None)
    waiting.filter(~Exists(_unfinished(from_job_id=OuterRef("pk")))).update(line=Line.NEW)


def unfinished_parents(ids: Collection[int]) -> dict[int, list[Parent]]:
    """Of those of these jobs that have some: the parents that have not completed."""
    found: dict[int, list[Parent]] = defaultdict(list)
    links = _unfinished(from_job_id__in=ids).order_by("to_job_id")
    for child, parent, name, state in links.values_list("from_job_id", "to_job_id", "to_job__name", "to_job__state"):
        found[child].append(Parent(parent, name, state))
    return dict(found)


def _unfinished(**which: Any) -> QuerySet[Any]:
    return Job.after.through._default_manager.filter(**which).exclude(to_job__state=JobState.COMPLETED)


# --- reading by an index ------------------------------------------------------------------------------------------------


def by_index(asked: QuerySet[Job, Answer]) -> list[Answer]:
    """What a question has for answer that an index of Job gives at once."""
    with _index_steps():
        return list(asked)


@contextmanager
def _index_steps() -> Iterator[None]:
    """PostgreSQL, whose statistics may not know yet of a queue that has grown in a minute, else sorts and scans all of it."""
    if connection.vendor != "postgresql":
        yield
        return
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_sort = off; SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off")
        yield


# --- reading by requests ------------------------------------------------------------------------------------------------

_QUEUED_IN_LINE = f"state = '{JobState.QUEUED}' AND line = {int(Line.IN)}"


def _of(table: str, columns: str) -> str:
    return f"{table}." + columns.replace("AND ", f"AND {table}.")


_COLUMNS = ("id", "priority", "owner_id", "request_key", *ASKED_FOR)
_BEFORE = f"""(SELECT COUNT(*) FROM (SELECT 1 FROM jobs_job b WHERE {_of("b", _QUEUED_IN_LINE)}
    AND b.owner_id = h.owner_id AND b.priority = h.priority AND b.id < h.id ORDER BY b.id LIMIT {order.MOST_TURNS}) s)"""  # noqa: S608 - our own words and numbers only
_OLDEST = f"""(SELECT b.id FROM jobs_job b WHERE {_of("b", _QUEUED_IN_LINE)}
    AND b.owner_id = h.owner_id AND b.priority = h.priority ORDER BY b.id LIMIT 1)"""  # noqa: S608
_READ = ", ".join(f"h.{name}" for name in _COLUMNS) + f", {_BEFORE}, {_OLDEST}, u.username"
# Each pair is found by one step in the index from the last one (a loose index scan): nothing is counted or sorted.
_HEADS = f"""
WITH RECURSIVE pair(request_key, owner_id) AS (
  SELECT * FROM (SELECT request_key, owner_id FROM jobs_job WHERE {_QUEUED_IN_LINE} ORDER BY request_key, owner_id LIMIT 1) f
  UNION ALL
  SELECT n.request_key, n.owner_id FROM pair p JOIN jobs_job n ON n.id = COALESCE(
    (SELECT j.id FROM jobs_job j WHERE {_of("j", _QUEUED_IN_LINE)}
      AND j.request_key = p.request_key AND j.owner_id > p.owner_id ORDER BY j.owner_id LIMIT 1),
    (SELECT j.id FROM jobs_job j WHERE {_of("j", _QUEUED_IN_LINE)}
      AND j.request_key > p.request_key ORDER BY j.request_key, j.owner_id LIMIT 1))
)
SELECT {_READ} FROM pair p JOIN jobs_job h ON h.id = (
    SELECT j.id FROM jobs_job j WHERE {_of("j", _QUEUED_IN_LINE)}
      AND j.request_key = p.request_key AND j.owner_id = p.owner_id
    ORDER BY j.priority DESC, j.id LIMIT 1)
  JOIN jobs_user u ON u.id = h.owner_id
"""  # noqa: S608
_NEXT = f"""
SELECT {_READ} FROM jobs_job h JOIN jobs_user u ON u.id = h.owner_id
WHERE {_of("h", _QUEUED_IN_LINE)} AND h.request_key = %s AND h.owner_id = %s
  AND (h.priority < %s OR (h.priority = %s AND h.id > %s))
ORDER BY h.priority DESC, h.id LIMIT {CHUNK}
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Head:
    """The first of the jobs of one owner that ask for the same, or the next one."""

    waiting: Waiting
    owner_id: int
    request_key: int


def heads(standings: Standings) -> list[Head]:
    """The first job of each owner for each different request."""
    return _heads(_HEADS, (), standings)


def after(head: Head, standings: Standings) -> list[Head]:
    """The next ones of the same owner with the same request."""
    last = head.waiting
    return _heads(_NEXT, (head.request_key, head.owner_id, last.priority, last.priority, last.id), standings)


def _heads(sql: str, values: Sequence[Any], standings: Standings) -> list[Head]:
    read_hosts: Any = Job._meta.get_field("hosts")
    found = []
    with _index_steps(), connection.cursor() as cursor:
        cursor.execute(sql, values)
        rows = cursor.fetchall()
    for pk, priority, owner, key, least, most, memory, hosts, shared, limit_s, floor, before, oldest, name in rows:
        standing = standings.get(owner, NOBODY)
        request = request_of(
            min_gpus=least,
            max_gpus=most,
            gpu_memory_mib=memory,
            hosts=read_hosts.from_db_value(hosts, None, connection),
            shared=bool(shared),
            time_limit_s=limit_s,
            oom_floor_mib=floor,
        )
        turn = order.turn(standing, before, oldest)
        found.append(Head(Waiting(pk, priority, request, name, standing.used, turn), owner, key))
    return found


class Walk:
    """The line in its order, for a pass that skips what it need not ask."""

    def __init__(self, heads: Iterable[Head], standings: Standings) -> None:
        self._standings = standings
        self._read: dict[tuple[int, int], list[Head]] = {}
        self._heap = [(head.waiting.order, head) for head in heads]
        heapq.heapify(self._heap)

    def next(self) -> Head | None:
        return heapq.heappop(self._heap)[1] if self._heap else None

    def go_on(self, head: Head) -> None:
        """This one was placed: the next one that asks for the same has its turn too."""
        pair = (head.request_key, head.owner_id)
        if not self._read.get(pair):
            self._read[pair] = after(head, self._standings)[::-1]
        if self._read[pair]:
            following = self._read[pair].pop()
            heapq.heappush(self._heap, (following.waiting.order, following))


# --- reading in order ---------------------------------------------------------------------------------------------------

TOLD_COLUMNS = ("pk", "priority", *ASKED_FOR, "owner__username", "wait_code", "wait_message")


@dataclass(frozen=True, slots=True)
class Row:
    """A job in line, and why it was told to wait."""

    waiting: Waiting
    told: tuple[str, str]


def first(count: int, standings: Standings | None = None) -> list[Row]:
    """The first jobs of the whole line, in order."""
    standings = shares.standings() if standings is None else standings
    chunk = min(count, CHUNK)
    firsts = _by_owner(Job.objects.filter(pk__in=RawSQL(_firsts_of_each(chunk), ())))  # noqa: S611 - our own words and numbers only
    queues = [_owners_queue(owner, rows, standings.get(owner, NOBODY), chunk) for owner, rows in firsts.items()]
    merged = heapq.merge(*queues, key=lambda row: row.waiting.order)
    return [row for row, _ in zip(merged, range(count), strict=False)]


def _firsts_of_each(chunk: int) -> str:
    """Numbers of so many jobs of each owner who has some in line: one question, however many owners there are."""
    firsts = f"""SELECT b.id FROM jobs_job b WHERE {_of("b", _QUEUED_IN_LINE)} AND b.owner_id = o.id
      ORDER BY b.priority DESC, b.id LIMIT {chunk}"""  # noqa: S608
    joined = f"CROSS JOIN LATERAL ({firsts}) j" if connection.vendor == "postgresql" else f"JOIN jobs_job j ON j.id IN ({firsts})"
    return f"""
    WITH RECURSIVE owner(id) AS (
      SELECT MIN(owner_id) FROM jobs_job WHERE {_QUEUED_IN_LINE}
      UNION ALL
      SELECT (SELECT MIN(j.owner_id) FROM jobs_job j WHERE {_of("j", _QUEUED_IN_LINE)} AND j.owner_id > o.id)
      FROM owner o WHERE o.id IS NOT NULL
    ) SELECT j.id FROM owner o {joined} WHERE o.id IS NOT NULL"""  # noqa: S608


def _by_owner(jobs: QuerySet[Job]) -> dict[int, list[tuple[Any, ...]]]:
    """Owner -> TOLD_COLUMNS of these jobs of theirs: higher priority first, then older ones."""
    found: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for owner, *columns in jobs.order_by("owner_id", "-priority", "pk").values_list("owner_id", *TOLD_COLUMNS):
        found[owner].append(tuple(columns))
    return found


def _owners_queue(owner: int, rows: Sequence[tuple[Any, ...]], standing: Standing, chunk: int) -> Iterator[Row]:
    """One owner's jobs in line, each with its turn: the first ones, and more in chunks as they are asked for."""
    priority, oldest, before, last = 0, 0, 0, None
    while True:
        for pk, mine, *asked, name, code, message in rows:
            if last is None or mine != priority:
                priority, oldest, before = mine, pk, 0
            request = request_of(**dict(zip(ASKED_FOR, asked, strict=True)))
            yield Row(Waiting(pk, mine, request, name, standing.used, order.turn(standing, before, oldest)), (code, message))
            before, last = before + 1, pk
        if len(rows) < chunk:
            return
        rest = in_line().filter(Q(priority__lt=priority) | Q(priority=priority, pk__gt=last), owner=owner)
        rows = list(rest.order_by("-priority", "pk").values_list(*TOLD_COLUMNS)[:chunk])


# --- positions ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Places:
    """What a position depends on, read once."""

    standings: Standings
    groups: list[Group]
    higher: dict[int, int] = field(default_factory=dict)

    def position(self, job: Group, before: int) -> int:
        """Of the job of this group that has `before` others of it before it."""
        mine = order.turn(self.standings.get(job.owner, NOBODY), before, job.first)
        if job.priority not in self.higher:
            self.higher[job.priority] = sum(g.count for g in self.groups if g.priority > job.priority)
        beside = (g for g in self.groups if g.priority == job.priority and g.owner != job.owner)
        others = sum(order.ahead(g, self.standings.get(g.owner, NOBODY), of=mine) for g in beside)
        return self.higher[job.priority] + others + before + 1


def positions(job_ids: Iterable[int]) -> dict[int, int]:
    """Places in line, 1-based, in the order in which jobs start; jobs that are not in line have none."""
    wanted = list(in_line().filter(pk__in=list(job_ids)).order_by("owner_id", "priority", "pk").values_list("pk", "owner_id", "priority"))
    if not wanted:
        return {}
    groups = _counted.groups({(owner, priority) for _, owner, priority in wanted})
    places = _Places(shares.standings(), list(groups.values()))
    befores = _befores(wanted)
    alike = ((pk, groups.get((owner, priority))) for pk, owner, priority in wanted)
    return {pk: places.position(group, befores[pk]) for pk, group in alike if group}  # without one it has started just now


class _Counted:
    """How many wait of each owner with each priority. Of a long line a count a moment old will do: counting takes a while."""

    LONG, FRESH_S, LONGEST_S = 5000, 2.0, 30.0
    SHARE = 0.02
    """Of the time, that may go into counting: PostgreSQL takes long where a queue has grown faster than it was vacuumed."""

    def __init__(self) -> None:
        self._groups: dict[tuple[int, int], Group] = {}
        self._good_until = 0.0

    def groups(self, needed: set[tuple[int, int]]) -> dict[tuple[int, int], Group]:
        began = time.monotonic()
        if began < self._good_until:
            for owner, priority in needed - self._groups.keys():  # a group that is new, and so a short one
                self._groups.update(_count(in_line().filter(owner=owner, priority=priority)))
            return self._groups
        self._groups = _count(in_line())
        took_s = time.monotonic() - began
        long = sum(group.count for group in self._groups.values()) > self.LONG
        kept_s = min(self.LONGEST_S, max(self.FRESH_S, took_s / self.SHARE)) if long else 0.0
        self._good_until = time.monotonic() + kept_s
        return self._groups


def _count(jobs: QuerySet[Job]) -> dict[tuple[int, int], Group]:
    counted = jobs.order_by().values_list("owner_id", "priority").annotate(n=Count("pk"), first=Min("pk"))
    return {(owner, priority): Group(owner, priority, n, oldest) for owner, priority, n, oldest in counted}


_counted = _Counted()


def _befores(wanted: Sequence[tuple[int, int, int]]) -> dict[int, int]:
    """How many jobs of its owner and priority each has before it: counted from one to the next, so that all is read once."""
    ranges, last = [], (0, 0, 0)
    for pk, owner, priority in wanted:
        ranges.append((pk, owner, priority, last[0] if last[1:] == (owner, priority) else 0))
        last = (pk, owner, priority)
    values = ", ".join(["(%s, %s, %s, %s)"] * len(ranges))
    sql = f"""
    WITH w(id, owner_id, priority, since) AS (VALUES {values})
    SELECT w.id, (SELECT COUNT(*) FROM jobs_job b WHERE {_of("b", _QUEUED_IN_LINE)}
      AND b.owner_id = w.owner_id AND b.priority = w.priority AND b.id >= w.since AND b.id < w.id) FROM w"""  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(sql, [number for each in ranges for number in each])
        counted = dict(cursor.fetchall())
    befores: dict[int, int] = {}
    for pk, _, _, since in ranges:
        befores[pk] = counted[pk] + befores.get(since, 0)
    return befores
