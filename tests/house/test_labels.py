"""Each word that a page may have to show has a label there."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import pytest

from jobs.models import User
from jobs.states import DeviceState, HostState, JobState, Outcome, Role
from jobs.web import words


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        (JobState, words.JOB_LABELS),
        (Outcome, words.OUTCOME_LABELS),
        (DeviceState, words.DEVICE_LABELS),
        (HostState, words.HOST_LABELS),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_labels_cover_every_word(kind: type[enum.StrEnum], labels: Mapping[str, words.Label]) -> None:
    assert [word for word in kind if not str(labels.get(word, ""))] == []
    assert [word for word in labels if word and word not in set(kind)] == []


def test_roles_can_all_be_chosen_in_the_admin() -> None:
    assert [role for role, _ in User._meta.get_field("role").flatchoices] == list(Role)
