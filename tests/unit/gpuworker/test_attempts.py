"""What the records of an attempt directory say once its shim is dead."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuworker.attempts import AttemptDir, AttemptState

DEAD = {"boot_id": "of yesterday", "pid": 1, "start_ticks": 1}


@pytest.mark.parametrize(
    ("there", "state"),
    [
        ([], AttemptState.PREPARED),
        (["refused"], AttemptState.REFUSED),
        (["shim"], AttemptState.ABANDONED),
        (["shim", "started"], AttemptState.ABANDONED),
        (["shim", "started", "exit"], AttemptState.ABANDONED),
        (["shim", "exit"], AttemptState.ABANDONED),
        (["shim", "started", "exit", "done"], AttemptState.DONE),
        (["shim", "refused"], AttemptState.REFUSED),
        (["shim", "refused", "done"], AttemptState.REFUSED),
        # The agent gave it up too late: the shim had let it go.
        (["shim", "refused", "started"], AttemptState.ABANDONED),
        (["shim", "refused", "exit"], AttemptState.ABANDONED),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_state_of_an_attempt_whose_shim_is_dead(tmp_path: Path, there: list[str], state: AttemptState) -> None:
    attempt = AttemptDir(tmp_path / "job.1.1")
    attempt.path.mkdir()
    for name in there:
        attempt.write(f"{name}.json", DEAD, durable=False)
    assert attempt.state() is state
