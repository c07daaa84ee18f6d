"""What is said of a command that was killed."""

from __future__ import annotations

from typing import Any

import pytest

from gpuworker.hostmemory import verdict

KILLED = {"reason": "exited", "signal": 9, "exit_code": None}
BY_SHELL = {"reason": "exited", "signal": None, "exit_code": 137}
FAILED = {"reason": "exited", "signal": None, "exit_code": 1}


@pytest.mark.parametrize(
    ("record", "own", "machine", "certain", "words"),
    [
        (KILLED, 1, 1, True, "The kernel ended one of its processes"),
        (FAILED, 3, 3, True, "The kernel ended 3 of its processes"),
        (KILLED | {"reason": "cancelled"}, 1, 1, True, "The kernel ended one"),
        (KILLED, 0, 5, False, "nor the kernel"),
        (KILLED, None, 0, False, "often that is the kernel"),
        (KILLED, None, 2, False, "very probably the kernel"),
        (BY_SHELL, None, 1, False, "very probably the kernel"),
        (BY_SHELL, None, 0, False, ""),
        (FAILED, None, 7, False, ""),
        (KILLED | {"reason": "cancelled"}, None, 0, False, ""),
        (KILLED | {"reason": "timed_out"}, 0, 0, False, ""),
    ],
)
def test_killed_command_is_told_by_what_the_kernel_counted(
    record: dict[str, Any], own: int | None, machine: int, certain: bool, words: str
) -> None:
    said = verdict(record | {"memory_kills": {"own": own, "machine": machine}})
    assert said[0] is certain
    assert words in said[1]
    assert bool(words) == bool(said[1])


def test_record_of_an_older_shim_says_no_more_than_it_knows() -> None:
    assert verdict(FAILED) == (False, "")
    assert "often" in verdict(KILLED)[1]
