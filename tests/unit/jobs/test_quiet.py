"""When a training counts as quiet: by what its GPUs showed for an hour, and by how it printed before."""

from __future__ import annotations

from typing import Any

import pytest

from gpuworker.measured import DeviceSeries
from jobs.quiet import LEAST_PRINTED, LONGEST_STACK, Rhythm, _long, _read_stacks, idle

NOW = 1_000_000.0
HOUR = 3600.0


def series(*percent: float | None, step_s: float = 60.0, ends_s_ago: float = 0.0) -> DeviceSeries:
    began = NOW - ends_s_ago - len(percent) * step_s
    return DeviceSeries(
        uuid="u", index=0, began_at=began, step_s=step_s, memory_mib=tuple(None for _ in percent), utilization_pct=tuple(percent)
    )


def is_idle(*all_series: DeviceSeries, devices: int = 1) -> bool:
    return idle(all_series, devices, idle_s=HOUR, now_s=NOW)


@pytest.mark.parametrize(
    ("found", "quiet"),
    [
        (series(*[0.0] * 61), True),
        (series(*[50.0] * 100, *[0.0] * 61), True),
        (series(*[0.0] * 59), False),  # it has not run for an hour
        (series(*[0.0] * 61, 1.0), False),
        (series(*[0.0] * 30, 100.0, *[0.0] * 31), False),
        (series(*[None] * 61), False),  # nobody knows
        (series(*[0.0] * 50, *[None] * 11), False),
        (series(*[0.0] * 57, *[None] * 4), True),
        (series(*[0.0] * 90, ends_s_ago=600), False),  # old news
        (series(*[9.0] * 5, *[0.0] * 3, step_s=1800.0), True),
        (series(*[9.0] * 5, 0.0, step_s=1800.0), False),
        (series(), False),
    ],
    ids=range(12),
)
def test_gpus_are_idle_when_all_readings_of_an_hour_are_zero(found: DeviceSeries, quiet: bool) -> None:
    assert is_idle(found) is quiet


def test_one_busy_gpu_of_several_is_enough() -> None:
    zero, busy = series(*[0.0] * 70), series(*[0.0] * 69, 3.0)
    assert is_idle(zero, zero, devices=2)
    assert not is_idle(zero, busy, devices=2)
    assert not is_idle(zero, devices=2)  # the other was never read
    assert not is_idle(devices=0)  # a job without GPUs holds none up


def printing(*gaps_s: float) -> Rhythm:
    rhythm = Rhythm()
    for number, gap in enumerate(gaps_s, 1):
        rhythm.note(number, gap)
    return rhythm


def test_silence_three_times_as_long_as_ever_is_told() -> None:
    rhythm = printing(30, 30, 1200, 30, 30, 30)
    rhythm.note(6, 3599)
    assert not rhythm.fell_silent
    rhythm.note(6, 1)
    assert rhythm.fell_silent
    rhythm.note(7, 30)
    assert (rhythm.fell_silent, rhythm.longest_s) == (False, 3630)


def test_short_silence_is_told_of_nobody_however_chatty_it_was() -> None:
    rhythm = printing(*[1] * 100)
    rhythm.note(100, 1799)
    assert not rhythm.fell_silent
    rhythm.note(100, 1)
    assert rhythm.fell_silent


def test_who_hardly_ever_printed_has_no_rhythm() -> None:
    rhythm = printing(*[1] * (LEAST_PRINTED - 1))
    rhythm.note(LEAST_PRINTED - 1, 10**6)
    assert not rhythm.fell_silent


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (40, "40 seconds"),
        (60, "1 minute"),
        (600, "10 minutes"),
        (3600, "1 hour"),
        (5400, "1 hour and 30 minutes"),
        (7260, "2 hours and 1 minute"),
    ],
)
def test_durations_are_said_in_words(seconds: float, said: str) -> None:
    assert _long(seconds) == said


@pytest.mark.parametrize("told", [None, {}, "x", [1], [{"stack": None}], [{"pid": 3}], [{"stack": ""}]], ids=range(7))
def test_stacks_that_are_none_are_nothing(told: Any) -> None:
    assert _read_stacks(told) == ""


def test_stacks_are_kept_within_bounds_and_without_control_characters() -> None:
    assert _read_stacks([{"stack": "a\x1b[31m\nb\t"}, {"stack": "c"}]) == "a\ufffd[31m\nb\t\n\nc"
    assert len(_read_stacks([{"stack": "x" * 10**6}])) == LONGEST_STACK
