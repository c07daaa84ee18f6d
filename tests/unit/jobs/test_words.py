"""How durations, amounts and places are written on pages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuworker.protocol import ProcessReading
from jobs.states import DeviceState, HostState, JobState, Outcome
from jobs.web import words

NOW = datetime(2026, 3, 9, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (None, ""),
        (-5, "0 s"),
        (0.9, "0 s"),
        (59, "59 s"),
        (60, "1 m"),
        (200, "3 m 20 s"),
        (599, "9 m 59 s"),
        (600, "10 m"),
        (659, "10 m"),
        (3600, "1 h 0 m"),
        (timedelta(hours=4, minutes=12, seconds=59), "4 h 12 m"),
        (timedelta(days=2, hours=3, minutes=59), "2 d 3 h"),
    ],
)
def test_duration_has_two_units_at_most(span: Any, text: str) -> None:
    assert words.duration(span) == text


@given(st.floats(-1e6, 1e9))
@settings(deadline=None)
def test_duration_never_has_more_than_it_should_when_it_is_any_length(span: float) -> None:
    assert len(words.duration(span).split()) in (2, 4)


@pytest.mark.parametrize(
    ("mib", "text"), [(None, "–"), (0, "0"), (512, "0.5"), (1024, "1"), (1536, "1.5"), (81_559, "79.6"), (102_401, "100")]
)
def test_gib_has_one_decimal_where_it_says_something(mib: int | None, text: str) -> None:
    assert words.gib(mib) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (48_000, "48 kB"),
        (1_234_567, "1.2 MB"),
        (5 * 10**9, "5.0 GB"),
        (2 * 10**15, "2000.0 TB"),
    ],
)
def test_size_is_in_powers_of_a_thousand(count: int | None, text: str) -> None:
    assert words.size(count) == text


@pytest.mark.parametrize(
    ("low", "high", "text"), [(0, 0, "no GPU"), (1, 1, "1 GPU"), (2, 2, "2 GPUs"), (2, 4, "2 to 4 GPUs"), (0, 1, "0 to 1 GPUs")]
)
def test_gpus_says_what_a_job_asks_for(low: int, high: int, text: str) -> None:
    assert words.gpus(low, high) == text


def test_place_names_the_host_and_its_devices() -> None:
    assert words.place("gpu-a", []) == "gpu-a"
    assert words.place("gpu-a", [{"uuid": "x", "index": 0}, {"uuid": "y", "index": 3}]) == "gpu-a, GPU 0, 3"


def test_elapsed_goes_on_until_there_is_an_end() -> None:
    start = NOW - timedelta(minutes=20)
    assert words.elapsed(None, None, NOW) == ""
    assert words.elapsed(start, None, NOW) == "20 m"
    assert words.elapsed(start, start + timedelta(seconds=5), NOW) == "5 s"


def test_tones_are_five_and_a_word_that_is_none_is_off() -> None:
    every = [*JobState, *Outcome, *DeviceState, *HostState]
    assert {words.tone(word) for word in every} == {"ours", "free", "external", "failed", "off"}
    assert (words.tone("running"), words.tone("failed"), words.tone("unreachable"), words.tone("🦆")) == (
        "ours",
        "failed",
        "external",
        "off",
    )


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({}, "alice's python (pid 4711)"),
        ({"memory_mib": 23 * 1024, "utilization_pct": 97.4, "age_s": 10800.0}, "alice's python (pid 4711), 23 GiB, 97 %, for 3 h 0 m"),
        ({"memory_mib": 0, "utilization_pct": 0.0, "ignored": True}, "alice's python (pid 4711), 0 GiB, 0 %, ignored"),
    ],
)
def test_process_is_told_with_all_that_is_known_of_it(more: dict[str, Any], text: str) -> None:
    assert words.process(ProcessReading(pid=4711, user="alice", command="python", **more)) == text
