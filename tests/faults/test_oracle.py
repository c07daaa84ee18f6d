"""The judge is judged: good histories pass, and each kind of bad one is named. A checker that accepts all proves nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.oracle import Attempt, BadHistory, Job, Run, judge, read_history

RUN = Run(job=1, attempt=1, pid=100, devices=("A",), started=1.0, stopped=2.0, code=0)
DONE = Job(1, "completed", attempts=(Attempt(1, "completed", 0),))
RETRIED = Job(1, "completed", max_retries=1, attempts=(Attempt(1, "failed", 3), Attempt(2, "completed", 0)))
RETRIED_RUNS = [replace(RUN, code=3), replace(RUN, attempt=2, pid=101, started=3.0, stopped=4.0)]
OTHER_RUN = replace(RUN, job=2, pid=200, started=2.5, stopped=3.5)
OTHER = replace(DONE, id=2)


@pytest.mark.parametrize(
    ("runs", "jobs", "shims_killed"),
    [
        ([RUN], [DONE], 0),
        (RETRIED_RUNS, [RETRIED], 0),
        ([RUN, OTHER_RUN], [DONE, OTHER], 0),
        ([RUN, replace(OTHER_RUN, started=1.5, devices=("B",))], [DONE, OTHER], 0),
        ([], [Job(1, "queued", "Resources")], 0),
        ([replace(RUN, code=143)], [Job(1, "cancelled", attempts=(Attempt(1, "cancelled"),))], 0),
        ([], [Job(1, "cancelled", attempts=(Attempt(1, "cancelled"),))], 0),
        ([RUN], [Job(1, "cancelled", attempts=(Attempt(1, "cancelled", 0),))], 0),
        ([RETRIED_RUNS[1]], [replace(RETRIED, attempts=(Attempt(1, "exit_lost"), Attempt(2, "completed", 0)))], 1),
    ],
)
def test_good_history_passes(runs: list[Run], jobs: list[Job], shims_killed: int) -> None:
    assert judge(runs, jobs, accepted=[job.id for job in jobs], shims_killed=shims_killed) == []


@pytest.mark.parametrize(
    ("wrong", "runs", "jobs"),
    [
        ("device A was in use", [RUN, replace(OTHER_RUN, started=1.9)], [DONE, OTHER]),
        ("device A was in use", [replace(RUN, devices=("B", "A")), replace(OTHER_RUN, started=1.9)], [DONE, OTHER]),
        ("device A was in use", [replace(RUN, stopped=None, code=None), OTHER_RUN], [DONE, OTHER]),
        ("device A was in use", [replace(RUN, stopped=9.0), OTHER_RUN, replace(OTHER_RUN, job=3, started=4.0)], [DONE, OTHER]),
        ("job 1 was in use", [RUN, replace(RUN, attempt=2, pid=101, devices=("B",), started=1.5, stopped=1.6)], [DONE]),
        ("had been started before", [RUN, replace(RUN, pid=101, started=3.0, stopped=4.0)], [DONE]),
        ("was accepted and is gone", [], []),
        ("neither over nor waiting", [], [Job(1, "starting")]),
        ("neither over nor waiting", [], [Job(1, "queued")]),
        ("neither over nor waiting", [], [Job(1, "stopping")]),
        ("open attempts", [RUN], [replace(DONE, attempts=(*DONE.attempts, Attempt(2, "")))]),
        ("knows no such attempt", [RUN], [Job(1, "queued", "Resources")]),
        ("knows no such attempt", [RUN, OTHER_RUN], [DONE]),
        ("nothing ran to its end", [], [DONE]),
        ("nothing ran to its end", [replace(RUN, stopped=None, code=None)], [DONE]),
        ("ended with 3 and is told as 0", [replace(RUN, code=3)], [DONE]),
        ("ended with 0 and is told as None", [RUN], [replace(DONE, attempts=(Attempt(1, "completed"),))]),
        ("has not ended", [replace(RUN, stopped=None)], [Job(1, "cancelled", attempts=(Attempt(1, "cancelled"),))]),
        ("ended with 0 and is told as 143", [RUN], [Job(1, "cancelled", attempts=(Attempt(1, "cancelled", 143),))]),
        ("at its own cost", RETRIED_RUNS, [replace(RETRIED, max_retries=0, attempts=(Attempt(1, "failed", 3), Attempt(2, "failed", 0)))]),
        ("failed after 1 of 2", [replace(RUN, code=3)], [Job(1, "failed", max_retries=1, attempts=(Attempt(1, "failed", 3),))]),
        ("is completed with 0", [replace(RUN, code=3)], [Job(1, "completed", attempts=(Attempt(1, "failed", 3),))]),
        ("is failed with 1 completed", [RUN], [replace(DONE, state="failed")]),
        ("no cause", [RUN], [Job(1, "held", "Held", attempts=(Attempt(1, "launch_failed"),))]),
        ("no cause", [RUN], [Job(1, "held", "Held", attempts=(Attempt(1, "host_lost"),))]),
        ("exit codes were lost (1.1)", [RUN], [Job(1, "held", "Held", attempts=(Attempt(1, "exit_lost"),))]),
        ("given up while", [replace(RUN, stopped=None)], [Job(1, "held", "Held", attempts=(Attempt(1, "exit_lost"),))]),
    ],
)
def test_bad_history_is_named(wrong: str, runs: list[Run], jobs: list[Job]) -> None:
    found = judge(runs, jobs, accepted=[1])
    assert any(wrong in sentence for sentence in found), found


def test_history_is_read_as_the_trainings_write_it(tmp_path: Path) -> None:
    path = tmp_path / "history"
    assert read_history(path) == []
    path.write_text("start 1 1 100 1.0 0 A,B\nstart 2 1 200 1.5 0 -\nstop 1 1 100 2.0 7 A,B\n")
    assert read_history(path) == [Run(1, 1, 100, ("A", "B"), 1.0, 2.0, 7), Run(2, 1, 200, (), 1.5)]


@pytest.mark.parametrize(
    "text",
    [
        "start 1 1 100 1.0 0 A\nstart 1 1 100 1.1 0 A\n",
        "stop 1 1 100 1.0 0 A\n",
        "start 1 1 100 1.0 0 A\nstop 1 1 100 2.0 0 A\nstop 1 1 100 2.1 0 A\n",
        "start 1 1 100 1.0 0 A",
    ],
)
def test_history_that_does_not_follow_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "history"
    path.write_text(text)
    with pytest.raises(BadHistory):
        read_history(path)
