"""Judges a history that the product never saw: what the trainings wrote down, against what the database says in the end.

`judge` is pure and knows nothing of how the history came about; tests/faults/test_oracle.py gives it bad ones to reject.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

TERMINAL = ("completed", "failed", "cancelled")
WAITING = ("queued", "held")
BLAMED = ("failed", "timed_out")


class BadHistory(Exception):
    """The oracle file itself cannot be read: nothing is proved by it."""


@dataclass(frozen=True, slots=True)
class Run:
    """One process of one attempt, by its own words. Seconds of one monotonic clock."""

    job: int
    attempt: int
    pid: int
    devices: tuple[str, ...]
    started: float
    stopped: float | None = None
    code: int | None = None

    def __str__(self) -> str:
        return f"job {self.job} attempt {self.attempt} (pid {self.pid})"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row of the database."""

    number: int
    outcome: str
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A row of the database."""

    id: int
    state: str
    wait_code: str = ""
    max_retries: int = 0
    attempts: tuple[Attempt, ...] = ()


def read_history(path: Path) -> list[Run]:
    runs: dict[tuple[int, int, int], Run] = {}
    text = path.read_text() if path.exists() else ""
    if text and not text.endswith("\n"):
        raise BadHistory("the last line is torn")
    for line in text.splitlines():
        what, job, attempt, pid, at, code, devices = line.split(" ")
        key = (int(job), int(attempt), int(pid))
        if what == "start" and key not in runs:
            runs[key] = Run(*key, tuple(devices.split(",")) if devices != "-" else (), float(at))
        elif what == "stop" and key in runs and runs[key].stopped is None:
            begun = runs[key]
            runs[key] = Run(*key, begun.devices, begun.started, float(at), int(code))
        else:
            raise BadHistory(f"this line does not follow: {line}")
    return list(runs.values())


def judge(
    runs: Sequence[Run], jobs: Collection[Job], *, accepted: Iterable[int], shims_killed: int = 0, hosts_lost: Collection[int] = ()
) -> list[str]:
    """Everything that is wrong, as sentences. `accepted`: the jobs that were promised to somebody; `hosts_lost`: those whose host was."""
    return [
        *_overlapping("device", {device: [run for run in runs if device in run.devices] for device in _devices(runs)}),
        *_overlapping("job", _grouped(runs)),
        *_started_twice(runs),
        *_lost(jobs, accepted),
        *_unknown(runs, jobs),
        *(wrong for job in jobs for wrong in _misjudged(job, [run for run in runs if run.job == job.id], lost=job.id in hosts_lost)),
        *_exits_lost(jobs, shims_killed),
    ]


def _devices(runs: Sequence[Run]) -> set[str]:
    return {device for run in runs for device in run.devices}


def _grouped(runs: Sequence[Run]) -> dict[int, list[Run]]:
    found: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        found[run.job].append(run)
    return found


def _overlapping(kind: str, groups: dict[int, list[Run]] | dict[str, list[Run]]) -> Iterator[str]:
    """A run that never said that it stopped may have held what it had until the end of time."""
    for name, group in groups.items():
        last = float("-inf")
        for run in sorted(group, key=lambda run: run.started):
            if run.started < last:
                yield f"{kind} {name} was in use when {run} began"
            last = max(last, float("inf") if run.stopped is None else run.stopped)


def _started_twice(runs: Sequence[Run]) -> Iterator[str]:
    ordered = sorted(runs, key=lambda run: (run.job, run.attempt, run.started))
    for first, second in pairwise(ordered):
        if (first.job, first.attempt) == (second.job, second.attempt):
            yield f"{second} had been started before, as pid {first.pid}"


def _lost(jobs: Collection[Job], accepted: Iterable[int]) -> Iterator[str]:
    known = {job.id for job in jobs}
    for number in accepted:
        if number not in known:
            yield f"job {number} was accepted and is gone"
    for job in jobs:
        if job.state not in TERMINAL and not (job.state in WAITING and job.wait_code):
            yield f"job {job.id} is neither over nor waiting with a reason: {job.state}"
        if open_ones := [attempt.number for attempt in job.attempts if not attempt.outcome]:
            yield f"job {job.id} has open attempts in the end: {open_ones}"


def _unknown(runs: Sequence[Run], jobs: Collection[Job]) -> Iterator[str]:
    known = {(job.id, attempt.number) for job in jobs for attempt in job.attempts}
    for run in runs:
        if (run.job, run.attempt) not in known:
            yield f"{run} ran, and the database knows no such attempt"


def _misjudged(job: Job, runs: Sequence[Run], *, lost: bool) -> Iterator[str]:
    by_number = {run.attempt: run for run in runs}
    for attempt in job.attempts:
        if attempt.outcome == "host_lost" and lost:
            continue  # That nothing of it was left when the next one began, is looked at for every job.
        yield from _misjudged_attempt(f"job {job.id} attempt {attempt.number}", attempt, by_number.get(attempt.number))
    blamed = [attempt for attempt in job.attempts if attempt.outcome in BLAMED]
    good = [attempt for attempt in job.attempts if attempt.outcome == "completed"]
    if len(blamed) > job.max_retries + 1:
        yield f"job {job.id} was started {len(blamed)} times at its own cost, and may be {job.max_retries + 1} times"
    if job.state == "failed" and len(blamed) != job.max_retries + 1:
        yield f"job {job.id} failed after {len(blamed)} of {job.max_retries + 1} starts"
    if (job.state == "completed") != bool(good) or len(good) > 1:
        yield f"job {job.id} is {job.state} with {len(good)} completed attempts"


def _misjudged_attempt(name: str, attempt: Attempt, run: Run | None) -> Iterator[str]:
    if attempt.outcome in ("completed", "failed"):
        if run is None or run.stopped is None:
            yield f"{name} is {attempt.outcome}, but nothing ran to its end"
        elif attempt.exit_code != run.code:
            yield f"{name} ended with {run.code} and is told as {attempt.exit_code}"
    elif attempt.outcome == "cancelled":
        if run is not None and run.stopped is None:
            yield f"{name} is cancelled, but its training has not ended"
        elif run is not None and attempt.exit_code not in (None, run.code):  # 0 too: it may have been at its end when the stop came.
            yield f"{name} ended with {run.code} and is told as {attempt.exit_code}"
    elif attempt.outcome == "exit_lost":
        if run is not None and run.stopped is None:
            yield f"{name} was given up while its training had not ended"
    elif attempt.outcome:
        yield f"{name} ended as {attempt.outcome}, for which there was no cause"


def _exits_lost(jobs: Collection[Job], shims_killed: int) -> Iterator[str]:
    lost = [f"{job.id}.{attempt.number}" for job in jobs for attempt in job.attempts if attempt.outcome == "exit_lost"]
    if len(lost) > shims_killed:
        yield f"exit codes were lost ({', '.join(lost)}), but only {shims_killed} shims were killed"
