"""The tables of states are whole, and people can read about every word in them."""

from __future__ import annotations

import enum

import pytest

from jobs.states import (
    ACTIVE,
    TERMINAL,
    TRANSITIONS,
    WAITING,
    DeviceState,
    HostState,
    JobState,
    Outcome,
    Role,
    WaitReason,
    may_follow,
)
from tests.house.sources import CHECKOUT


def test_transition_table_is_total() -> None:
    assert set(TRANSITIONS) == set(JobState)
    assert all(isinstance(new, JobState) for news in TRANSITIONS.values() for new in news)


def test_terminal_states_are_terminal() -> None:
    assert {state for state, news in TRANSITIONS.items() if not news} == TERMINAL


def test_job_states_are_waiting_active_or_terminal_and_only_one_of_them() -> None:
    assert sorted([*WAITING, *ACTIVE, *TERMINAL]) == sorted(JobState)


@pytest.mark.parametrize("state", sorted(set(JobState) - TERMINAL))
def test_job_reaches_an_end_from_every_state(state: JobState) -> None:
    reached, unseen = set[JobState](), {state}
    while unseen:
        old = unseen.pop()
        reached.add(old)
        unseen |= set(TRANSITIONS[old]) - reached
    assert reached & TERMINAL
    assert not any(may_follow(end, state) for end in TERMINAL)


@pytest.mark.parametrize("words", [JobState, WaitReason, Outcome, HostState, DeviceState, Role], ids=lambda words: words.__name__)
def test_how_it_works_explains_every_word(words: type[enum.StrEnum]) -> None:
    page = (CHECKOUT / "docs" / "how-it-works.md").read_text()
    assert [word.value for word in words if f"`{word.value}`" not in page] == []
