"""Tables of what failed where, and who is to blame."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from jobs import sickness
from jobs.sickness import Result, Run

NOON = datetime(2026, 3, 9, 12, 0, tzinfo=UTC)
BAD, GOOD, NOTHING = Result.FAILED_AT_ONCE, Result.WORKED, Result.SAYS_NOTHING
Told = tuple[int, str, str, Result]
"""Job, program, where ("a0 a1": devices 0 and 1 of host a; "a": no device), and how it went; oldest first."""


def runs(*told: Told) -> list[Run]:
    def run(number: int, one: Told) -> Run:
        job, program, where, result = one
        places = where.split()
        devices = frozenset(place for place in places if len(place) > 1)
        return Run(job, program, places[0][0], devices, result, NOON + timedelta(minutes=number), "exit code 1 after 3 s")

    return [run(number, one) for number, one in enumerate(told)]


THREE: list[Told] = [(1, "x", "a0", BAD), (2, "y", "a0", BAD), (3, "z", "a0", BAD)]


@pytest.mark.parametrize(
    ("told", "blamed"),
    [
        (THREE, [1, 2, 3]),
        (THREE[:2], []),
        ([*THREE[:2], (2, "z", "a0", BAD)], []),  # two jobs
        ([*THREE[:2], (3, "y", "a0", BAD)], []),  # two programs: a sweep over a broken script
        ([(1, "x", "a0", BAD)] * 9, []),
        ([*THREE[:2], (9, "ok", "a0", GOOD), THREE[2]], []),
        ([*THREE[:2], (9, "ok", "a1", GOOD), THREE[2]], [1, 2, 3]),  # another device says nothing about this one
        ([(9, "ok", "a0", GOOD), *THREE], [1, 2, 3]),
        ([*THREE, (9, "ok", "a0", GOOD)], []),
        ([*THREE[:2], (9, "c", "a0", NOTHING), THREE[2]], [1, 2, 3]),  # cancelled, for instance
        ([*THREE, (3, "z", "a1", BAD)], []),  # it fails elsewhere too
        ([*THREE, (3, "z", "b0", BAD)], []),
        ([*THREE, (8, "z", "b0", BAD)], []),  # the same program of another job
        ([*THREE, (3, "z", "b0", BAD), (4, "w", "a0", BAD)], [1, 2, 4]),
        ([*THREE, (3, "z", "b0", GOOD)], [1, 2, 3]),
        ([(1, "x", "a0 a1", BAD), (2, "y", "a0 a1", BAD), (3, "z", "a0", BAD)], [1, 2, 3]),
    ],
)
def test_device_is_sick_when_three_programs_fail_there_at_once_in_a_row(told: Sequence[Told], blamed: list[int]) -> None:
    found = sickness.of_device("a0", runs(*told), since=None, alone=False)
    assert [run.job for run in found] == blamed


@pytest.mark.parametrize(
    ("told", "blamed"),
    [
        ([(1, "x", "a0", BAD), (2, "y", "a1", BAD), (3, "z", "a", BAD)], [1, 2, 3]),
        ([(1, "x", "a", BAD), (2, "y", "a", BAD), (3, "z", "a", BAD)], [1, 2, 3]),
        (THREE, []),  # that is the device's
        ([(1, "x", "a0", BAD), (9, "ok", "a2", GOOD), (2, "y", "a1", BAD), (3, "z", "a", BAD)], []),
        ([(1, "x", "a0", BAD), (9, "ok", "b0", GOOD), (2, "y", "a1", BAD), (3, "z", "a", BAD)], [1, 2, 3]),
        ([(1, "x", "a0", BAD), (2, "y", "a1", BAD), (2, "y", "b0", BAD), (3, "z", "a", BAD)], []),
    ],
)
def test_host_is_sick_when_three_programs_fail_there_on_different_devices(told: Sequence[Told], blamed: list[int]) -> None:
    assert [run.job for run in sickness.of_host("a", runs(*told), since=None, alone=False)] == blamed


def test_where_there_is_nowhere_else_to_go_twice_as_many_must_fail() -> None:
    many: list[Told] = [(n, f"p{n}", "a0", BAD) for n in range(6)]
    assert sickness.of_device("a0", runs(*many[:5]), since=None, alone=True) == []
    assert len(sickness.of_device("a0", runs(*many), since=None, alone=True)) == 6


def test_what_failed_before_a_resume_is_no_evidence() -> None:
    assert sickness.of_device("a0", runs(*THREE), since=NOON, alone=False) == []
    assert sickness.of_host("a", runs((1, "x", "a", BAD), (2, "y", "a", BAD), (3, "z", "a", BAD)), since=NOON, alone=False) == []


@pytest.mark.parametrize(
    ("outcome", "own_fault", "exit_code", "oom", "ran_s", "result"),
    [
        ("completed", True, 0, False, 0.1, GOOD),
        ("failed", True, 1, False, 14.9, BAD),
        ("failed", True, None, False, 0.1, BAD),  # by a signal
        ("failed", True, 1, False, 15.0, GOOD),
        ("failed", True, 127, False, 0.1, NOTHING),
        ("failed", True, 126, False, 0.1, NOTHING),
        ("failed", True, 1, True, 5.0, NOTHING),
        ("launch_failed", True, None, False, None, NOTHING),
        ("launch_failed", False, None, False, None, BAD),
        ("cancelled", True, None, False, 3.0, NOTHING),
        ("host_lost", False, None, False, None, NOTHING),
        ("", True, None, False, 3.0, NOTHING),
        ("", True, None, False, 16.0, GOOD),
    ],
)
def test_end_says_something_about_the_place_or_nothing(
    outcome: str, own_fault: bool, exit_code: int | None, oom: bool, ran_s: float | None, result: Result
) -> None:
    assert sickness.result_of(outcome, own_fault=own_fault, exit_code=exit_code, oom=oom, ran_s=ran_s) is result


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("python train.py --lr 1", "python train.py --lr 0.5", True),
        ("python train.py", "python eval.py", False),
        ("LR=1 python train.py", "LR=2 python train.py 7", True),
        ("exit 3", "exit 4", True),
        ("true", "false", False),
    ],
)
def test_jobs_that_differ_in_options_and_numbers_are_one_program(one: str, other: str, alike: bool) -> None:
    assert (sickness.program_of(one, "/data") == sickness.program_of(other, "/data")) is alike
    assert sickness.program_of(one, "/data") != sickness.program_of(one, "/elsewhere")


def test_reason_names_the_jobs_and_how_they_ended() -> None:
    assert sickness.reason(runs(*THREE)) == (
        "3 different jobs in a row failed here within seconds (#1 (exit code 1 after 3 s), #2 (exit code 1 after 3 s), "
        "#3 (exit code 1 after 3 s)): resume it when it is well"
    )
