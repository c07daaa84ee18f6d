"""Whether it is the device or the host that fails, and not the jobs. Pure.

Three different programs in a row that fail within seconds at one place, while nothing worked there in between: then the place
is sick and eats the queue. A sweep over one broken script is one program; what fails elsewhere too is its own fault, and so
are a command that is not found and a training that runs out of memory. Where there is nowhere else to go, the jobs are the
likelier culprit, and twice as many must fail.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from jobs.scheduling import phrases

WITHIN_S = 15.0
PROGRAMS, PROGRAMS_ALONE = 3, 6
_NOT_FOUND = (126, 127)


class Result(enum.Enum):
    WORKED = enum.auto()
    """It completed, or ran for longer than what fails at once."""
    FAILED_AT_ONCE = enum.auto()
    SAYS_NOTHING = enum.auto()
    """About the place: cancelled, the job's own fault, too early to tell."""


@dataclass(frozen=True, slots=True)
class Run:
    """An attempt, as far as it tells about where it was."""

    job: int
    program: str
    """Like ones have the same fault (`program_of`)."""
    host: str
    devices: frozenset[str]
    result: Result
    at: datetime
    """When that was known."""
    told: str = ""
    """Such as `exit code 1 after 3 s`."""


def program_of(command: str, working_dir: str) -> str:
    """What jobs have in common that differ in their options and numbers only."""
    words = [word for word in command.split() if not (word.startswith("-") or "=" in word or word.strip(".").isdigit())]
    return "\0".join([working_dir, *words[:2]])


def result_of(outcome: str, *, own_fault: bool, exit_code: int | None, oom: bool, ran_s: float | None) -> Result:
    """`outcome` empty: it still runs. `ran_s` None: nothing ran."""
    if ran_s is not None and ran_s >= WITHIN_S:
        return Result.WORKED
    match outcome:
        case "completed":
            return Result.WORKED
        case "failed" if exit_code not in _NOT_FOUND and not oom:
            return Result.FAILED_AT_ONCE
        case "launch_failed" if not own_fault:
            return Result.FAILED_AT_ONCE
    return Result.SAYS_NOTHING


def of_device(uuid: str, runs: Collection[Run], *, since: datetime | None, alone: bool) -> list[Run]:
    """The evidence that this device is sick, oldest first; empty where it is not. `since`: when it was resumed last."""
    here = [run for run in runs if uuid in run.devices and (since is None or run.at > since)]
    return _evidence(here, [run for run in runs if uuid not in run.devices], alone=alone)


def of_host(name: str, runs: Collection[Run], *, since: datetime | None, alone: bool) -> list[Run]:
    """The same of a whole host. What fails on one of its devices only is that device's."""
    here = [run for run in runs if run.host == name and (since is None or run.at > since)]
    found = _evidence(here, [run for run in runs if run.host != name], alone=alone)
    return [] if found and frozenset.intersection(*(run.devices for run in found)) else found


def _evidence(here: Collection[Run], elsewhere: Collection[Run], *, alone: bool) -> list[Run]:
    failed_elsewhere = {run.program for run in elsewhere if run.result is Result.FAILED_AT_ONCE}
    found: dict[str, Run] = {}
    jobs: set[int] = set()
    for run in _since_last_success(here):
        if run.program not in failed_elsewhere and run.program not in found and run.job not in jobs:
            found[run.program] = run
            jobs.add(run.job)
    return list(found.values())[::-1] if len(found) >= (PROGRAMS_ALONE if alone else PROGRAMS) else []


def _since_last_success(here: Collection[Run]) -> Sequence[Run]:
    """What failed at once, newest first."""
    newest_first = sorted(here, key=lambda run: run.at, reverse=True)
    last = next((i for i, run in enumerate(newest_first) if run.result is Result.WORKED), len(newest_first))
    return [run for run in newest_first[:last] if run.result is Result.FAILED_AT_ONCE]


def reason(evidence: Sequence[Run]) -> str:
    told = ", ".join(phrases.FAILURE % {"job": run.job, "how": run.told} for run in evidence[-PROGRAMS_ALONE:])
    return phrases.SICK % {"n": len(evidence), "failures": told}
