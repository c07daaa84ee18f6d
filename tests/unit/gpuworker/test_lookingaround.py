"""Python environments of a host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpuworker import lookingaround


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where conda notes environments, in the home of this test; one of them is there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    python = tmp_path / "science" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    (tmp_path / ".conda").mkdir()
    return tmp_path / ".conda" / "environments.txt"


def test_environments_that_conda_noted_are_named_where_they_are_still_there(noted: Path, tmp_path: Path) -> None:
    noted.write_text(f"{tmp_path}/science\n\n{tmp_path}/gone\n")
    assert lookingaround.environments({}) == [f"{tmp_path}/science"]


def test_note_of_conda_that_is_a_pipe_or_endless_keeps_nobody(noted: Path, tmp_path: Path) -> None:
    os.mkfifo(noted)
    assert lookingaround.environments({}) == []
    noted.unlink()
    noted.write_bytes(f"{tmp_path}/science\n".encode() + bytes(1 << 20))
    assert lookingaround.environments({}) == [f"{tmp_path}/science"]
