"""The transition table."""

from __future__ import annotations

from jobs.states import ACTIVE, TERMINAL, TRANSITIONS, WAITING, JobState, may_follow


def test_transition_table_has_a_row_for_each_state() -> None:
    assert set(TRANSITIONS) == set(JobState)
    assert set(JobState) == WAITING | ACTIVE | TERMINAL


def test_nothing_follows_an_end_and_every_other_state_can_end() -> None:
    for state in JobState:
        assert bool(TRANSITIONS[state]) == (state not in TERMINAL)
        assert state in TERMINAL or may_follow(state, JobState.CANCELLED)


def test_every_state_can_be_reached_from_queued() -> None:
    reached, new = set(), {JobState.QUEUED}
    while new:
        reached |= new
        new = {after for state in new for after in TRANSITIONS[state]} - reached
    assert reached == set(JobState)
