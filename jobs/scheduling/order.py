"""Who is next: priority, then the owner who has used least, then age. One order for the scheduler, the pages and positions.

Each owner stands at what the trainings used lately, in GPU-hours that halve every day (jobs/shares.py). Each job of the
owner that runs, and each that waits before, counts as one GPU-hour more: so that people take turns, and a hundred jobs of
one do not stand before the single job of another. What a job really used takes the place of its turn when it has ended.

When a job starts, its turn moves from those that wait to those that run, and the order of all others stays as it was
shown. It changes when jobs come and end, and as use is counted and forgotten; use is rounded to a tenth of an hour, so
that nothing moves from one second to the next.
"""

from __future__ import annotations

from dataclasses import dataclass

TURN = 10
"""One GPU-hour in tenths: what a job counts that has not ended."""
MOST_TURNS = 100
"""Further jobs before one's own count no more: so a place can be told without reading the whole queue."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One owner: tenths of GPU-hours used lately, running jobs, and the number of the oldest of those."""

    used: int = 0
    running: int = 0
    oldest: int | None = None

    @property
    def start(self) -> int:
        """Where the owner's first waiting job stands."""
        return self.used + TURN * self.running


NOBODY = Standing()


@dataclass(frozen=True, slots=True)
class Group:
    """The jobs of one owner that wait with one priority."""

    owner: int
    priority: int
    count: int
    first: int
    """The oldest of them."""


def turn(standing: Standing, before: int, first: int) -> tuple[int, int]:
    """Where the job stands that has `before` others of its owner and priority before it, of which `first` is the oldest.

    The second number decides between owners who stand alike: whose oldest job, running or waiting, is older.
    """
    since = first if standing.oldest is None else min(first, standing.oldest)
    return standing.start + TURN * min(before, MOST_TURNS), since


def ahead(group: Group, standing: Standing, *, of: tuple[int, int]) -> int:
    """How many jobs of another owner's group, of the same priority, stand before the turn `of`."""
    place, since = of
    at_tie = turn(standing, 0, group.first)[1] < since
    distance = place - standing.start
    if distance > TURN * MOST_TURNS or (distance == TURN * MOST_TURNS and at_tie):
        return group.count
    before = -(-distance // TURN) + (at_tie and distance % TURN == 0)
    return min(group.count, max(0, before))


def hours(tenths: int) -> str:
    """21 -> `2.1`, 400 -> `40`."""
    return f"{tenths / 10:g}"
