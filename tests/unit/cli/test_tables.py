"""How tables, jobs and durations look, for people and for programs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from jobs.cli import devices, looking, tables, words
from jobs.cli.tables import Column

COLUMNS = (
    Column("ID", lambda row: row["id"], right=True),
    Column("STATE", lambda row: row["state"]),
    Column("NAME", lambda row: row["name"]),
    Column("WHY", lambda row: row["why"]),
)


def row(number: int, state: str = "running", name: str = "x", why: str | None = None) -> dict[str, Any]:
    return {"id": number, "state": state, "name": name, "why": why}


def job(**fields: Any) -> dict[str, Any]:
    """A queued one, as the API shows it."""
    return {
        "id": 42,
        "name": "train",
        "owner": "ada",
        "state": "queued",
        "wait_reason": {"code": "Resources", "message": "needs 2 GPUs"},
        "queue_position": 1,
        "host": None,
        "devices": [],
        "min_gpus": 1,
        "max_gpus": 2,
        "progress": None,
        "started_at": None,
        "ended_at": None,
        "attempts": [],
        **fields,
    }


def attempt(**fields: Any) -> dict[str, Any]:
    return {"number": 1, "outcome": "failed", "exit_code": 1, "signal": None, "oom_detected": False, "message": "", **fields}


def test_table_is_aligned_and_fits_the_terminal() -> None:
    lines = tables.table(COLUMNS, [row(1), row(1234, "queued", "漢字", "needs a GPU, and a great deal more")], width=40, colours=False)
    assert lines == [
        "  ID  STATE    NAME  WHY",
        "   1  running  x     -",
        "1234  queued   漢字  needs a GPU, and a…",
    ]


def test_table_paints_states_only_where_there_are_colours() -> None:
    assert "\x1b[31mfailed\x1b[0m" in tables.table(COLUMNS, [row(1, "failed")], width=80, colours=True)[1]
    assert "\x1b" not in "".join(tables.table(COLUMNS, [row(1, "failed")], width=80, colours=False))


def test_tab_separated_text_has_one_field_for_each_column_whatever_is_in_them() -> None:
    assert tables.tab_separated(COLUMNS, row(7, "held", "a\tb\nc\x1b[2J", "")) == "7\theld\ta b c^[[2J\t-\n"


def test_tab_separated_list_has_its_columns_in_this_order() -> None:
    running = job(
        state="running",
        host="gpu-a",
        devices=[{"uuid": "u", "index": 3}],
        started_at="2027-01-31T10:00:00Z",
        ended_at="2027-01-31T11:00:00Z",
        progress=0.5,
    )
    assert tables.tab_separated(looking.COLUMNS, running) == "42\trunning\ttrain\tada\t1\tgpu-a\t3\t3600\t50%\n"
    again = {"host": "gpu-a", "devices": [{"uuid": "u", "index": 3}], "started_at": "2027-01-31T10:00:00Z"}
    assert tables.tab_separated(looking.COLUMNS, job(**again)).split("\t")[5:8] == ["-", "-", "-"]
    assert tables.tab_separated(looking.COLUMNS, job()) == "42\tqueued\ttrain\tada\t1-2\t-\t-\t-\tneeds 2 GPUs\n"


def test_running_jobs_come_first_then_the_queue_in_its_order() -> None:
    jobs = [job(id=1, state="completed"), job(id=2, state="held"), job(id=3, queue_position=2), job(id=4), job(id=5, state="running")]
    assert [each["id"] for each in sorted([*jobs, job(id=6, state="failed")], key=looking._rank)] == [5, 4, 3, 2, 6, 1]


@pytest.mark.parametrize(("seconds", "text"), [(None, ""), (0, "0s"), (59.9, "59s"), (60, "1m 00s"), (3725, "1h 02m"), (90000, "1d 01h")])
def test_durations_are_short(seconds: float | None, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "exit code 1"),
        ({"exit_code": None, "signal": 9}, "signal 9"),
        ({"oom_detected": True}, "exit code 1, out of GPU memory"),
        ({"outcome": "timed_out"}, "time limit reached"),
        ({"outcome": "launch_failed", "message": "/x is missing"}, "could not be launched, /x is missing"),
        ({"outcome": "completed"}, "completed"),
        ({"outcome": None}, ""),
    ],
)
def test_ending_of_an_attempt_is_told_in_a_few_words(fields: dict[str, Any], text: str) -> None:
    assert words.ending(attempt(**fields)) == text


@pytest.mark.parametrize(
    ("state", "attempts", "code"),
    [
        ("completed", [attempt(outcome="completed", exit_code=0)], 0),
        ("failed", [attempt(exit_code=7)], 7),
        ("failed", [attempt(exit_code=7), attempt(exit_code=3)], 3),
        ("failed", [attempt(exit_code=None, signal=9)], 137),
        ("failed", [attempt(outcome="timed_out", exit_code=0)], 1),
        ("failed", [attempt(outcome="exit_lost", exit_code=None)], 1),
        ("cancelled", [], 1),
        ("cancelled", [attempt(outcome="cancelled", exit_code=None, signal=15)], 143),
    ],
)
def test_run_exits_as_the_job_did_and_with_0_only_if_it_completed(state: str, attempts: list[dict[str, Any]], code: int) -> None:
    assert words.exit_code(job(state=state, attempts=attempts)) == code


def test_elapsed_time_is_never_negative_where_clocks_differ() -> None:
    started = job(started_at="2027-01-31T10:00:00.5Z")
    assert words.elapsed_s(started, datetime(2027, 1, 31, 9, 59, tzinfo=UTC)) == 0
    assert words.elapsed_s(job()) is None


def test_sentence_says_where_it_runs_or_why_it_waits() -> None:
    assert words.sentence(job()) == "Job 42 is queued: needs 2 GPUs"
    running = job(state="running", host="gpu-a", devices=[{"uuid": "u", "index": 0}, {"uuid": "v", "index": 3}])
    assert words.sentence(running) == "Job 42 is running on gpu-a, GPU 0,3."


def test_gpus_names_all_who_share_a_device() -> None:

    class Told:
        def pages(self, path: str, **_: object) -> tuple[list[dict[str, object]], int]:
            return [{"id": 4, "owner": "ada", "name": "a"}, {"id": 7, "owner": "lin", "name": "b"}], 2

    (told,) = devices._with_owners(Told(), [{"job": 4, "jobs": [4, 7], "reason": "", "simulated": False}])  # type: ignore[arg-type]
    columns = {column.title: column for column in devices.GPU_COLUMNS}
    assert (columns["JOB"].plain(told), columns["WHO"].plain(told), devices._user(told)) == ("4,7", "ada,lin", "ada: a, lin: b")
    assert devices._jobs({"job": 4}) == [4]
    assert devices._jobs({"job": None, "jobs": []}) == []
