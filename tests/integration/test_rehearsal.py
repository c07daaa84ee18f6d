"""What the zygote does before the first shim leaves nothing behind, and stops nothing where it cannot be done."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuworker.shim.rehearsal import rehearse


def test_rehearsal_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = set(Path("/proc/self/fd").iterdir())
    rehearse()
    assert list(tmp_path.iterdir()) == []
    assert len(set(Path("/proc/self/fd").iterdir())) == len(before)
    assert capsys.readouterr().err == ""


def test_rehearsal_is_left_out_where_there_is_no_place_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    rehearse()
    assert "nothing was rehearsed" in capsys.readouterr().err
