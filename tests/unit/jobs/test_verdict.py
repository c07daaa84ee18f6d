"""The sentence on top of a job's page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobs.models import Attempt, Job
from jobs.states import JobState, Outcome
from jobs.web.verdict import Verdict, verdict

NOW = datetime(2026, 3, 9, 12, 0, tzinfo=UTC)
SECRET = "/a/secret"


def attempt(outcome: str = "", **more: Any) -> Attempt:
    given = {"host": "gpu-a", "devices": [{"uuid": "x", "index": 2}], "started_at": NOW - timedelta(minutes=20), "number": 1} | more
    if outcome:
        given.setdefault("ended_at", NOW - timedelta(minutes=5))
    return Attempt(outcome=outcome, **given)


def of(state: JobState, *attempts: Attempt, position: int | None = None, silent: str = "", private: bool = False, **fields: Any) -> Verdict:
    return verdict(Job(state=state, **fields), attempts, position=position, silent=silent, private=private, now=NOW)


def sentence(*args: Any, **more: Any) -> str:
    found = of(*args, **more)
    return f"{found.word}{found.goes_on}"


FAILED = (JobState.FAILED, Outcome.FAILED)
TABLE: list[tuple[str, Verdict]] = [
    ("Queued.", of(JobState.QUEUED)),
    ("Queued, next in line. Needs 4 GPUs.", of(JobState.QUEUED, position=1, wait_message="Needs 4 GPUs.")),
    ("Queued, number 3 in line.", of(JobState.QUEUED, position=3)),
    ("Held.", of(JobState.HELD)),
    ("Held. Held by ada.", of(JobState.HELD, wait_message="Held by ada.")),
    ("Starting on gpu-a, GPU 2.", of(JobState.STARTING, attempt(started_at=None))),
    ("Running on gpu-a, GPU 2 for 20 m.", of(JobState.RUNNING, attempt())),
    ("Running on gpu-a, GPU 2.", of(JobState.RUNNING, attempt(started_at=None))),
    ("Running on gpu-a, GPU 2 for 20 m. Its time limit ends it in 10 m.", of(JobState.RUNNING, attempt(), time_limit_s=1800)),
    ("Stopping: its processes are being ended, the GPUs are free when the last one is gone.", of(JobState.STOPPING, attempt())),
    ("Completed after 15 m on gpu-a, GPU 2.", of(JobState.COMPLETED, attempt("completed"))),
    ("Completed after 15 m on gpu-a, GPU 2, in attempt 2.", of(JobState.COMPLETED, attempt("failed"), attempt("completed", number=2))),
    ("Cancelled before it started.", of(JobState.CANCELLED)),
    ("Cancelled before it started.", of(JobState.CANCELLED, attempt("cancelled", started_at=None))),
    ("Cancelled after it had run for 15 m.", of(JobState.CANCELLED, attempt("cancelled"))),
    ("Failed.", of(JobState.FAILED)),
    ("Failed with exit code 3.", of(JobState.FAILED, attempt("failed", exit_code=3))),
    ("Failed with exit code 3 after 2 attempts.", of(JobState.FAILED, attempt("failed"), attempt("failed", exit_code=3))),
    ("Failed with exit code 137 (probably signal 9).", of(JobState.FAILED, attempt("failed", exit_code=137))),
    ("Failed with exit code 200.", of(JobState.FAILED, attempt("failed", exit_code=200))),
    ("Failed by signal 11.", of(JobState.FAILED, attempt("failed", signal=11))),
    ("Failed at its time limit.", of(JobState.FAILED, attempt("timed_out"))),
    ("Failed before it could start: /data is missing.", of(JobState.FAILED, attempt("launch_failed", message="/data is missing."))),
    ("Failed with its exit code lost.", of(JobState.FAILED, attempt("exit_lost"))),
    ("Failed with its host.", of(JobState.FAILED, attempt("host_lost"))),
    (
        "Failed with exit code 1 after 2 attempts: the log says that the GPU ran out of memory.",
        of(JobState.FAILED, attempt("failed"), attempt("failed", exit_code=1, oom_detected=True)),
    ),
    (
        "Failed with exit code 1: the log says that the GPU ran out of memory. It held 23.1 GiB at its peak.",
        of(JobState.FAILED, attempt("failed", exit_code=1, oom_detected=True, peak_memory_mib=23_654)),
    ),
]


@pytest.mark.parametrize(("text", "found"), TABLE, ids=[text for text, _ in TABLE])
def test_verdict_is_a_sentence(text: str, found: Verdict) -> None:
    assert f"{found.word}{found.goes_on}" == text


@pytest.mark.parametrize("state", list(JobState))
def test_verdict_has_a_word_and_a_colour_in_every_state(state: JobState) -> None:
    for attempts in ((), (attempt(),), (attempt("failed"), attempt("failed"))):
        found = of(state, *attempts)
        assert found.word
        assert found.tone in {"ours", "free", "external", "failed", "off"}


@pytest.mark.parametrize(
    ("state", "last", "text"),
    [
        (JobState.HELD, None, "Release it"),
        (JobState.FAILED, attempt("failed", exit_code=127), "did not find a program"),
        (JobState.FAILED, attempt("failed", exit_code=126), "is it executable"),
        (JobState.FAILED, attempt("timed_out"), "longer one"),
        (JobState.FAILED, attempt("launch_failed"), "Mend what is named"),
        (JobState.FAILED, attempt("failed", exit_code=1, oom_detected=True), "batch size"),
        (JobState.FAILED, attempt("failed", exit_code=1), ""),
        (JobState.COMPLETED, attempt("completed"), ""),
    ],
)
def test_verdict_says_what_to_do_next(state: JobState, last: Attempt | None, text: str) -> None:
    advice = of(state, *([last] if last else [])).next
    assert (text in advice) if text else (advice == "")


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.STOPPING])
def test_verdict_tells_of_a_silent_host_while_it_matters(state: JobState) -> None:
    assert of(state, attempt(), silent="gpu-a is silent.").next == "gpu-a is silent."
    assert of(JobState.COMPLETED, attempt("completed"), silent="gpu-a is silent.").next == ""


@pytest.mark.parametrize("state", [JobState.HELD, JobState.FAILED])
def test_verdict_leaves_out_the_hosts_words_when_it_is_for_others(state: JobState) -> None:
    for attempts in ((), (attempt("launch_failed", message=SECRET),)):
        public = of(state, *attempts, private=True, wait_message=SECRET)
        assert SECRET not in f"{public.said} {public.next}"
        assert SECRET in of(state, *attempts, wait_message=SECRET).said
