from __future__ import annotations

from pathlib import Path

import pytest

from gpuworker import disks, shortcomings


def found(monkeypatch: pytest.MonkeyPatch, *, free_gib: float = 100, devices: int = 2, error: str = "", parent: str = "/g") -> list[str]:
    monkeypatch.setattr(disks, "room", lambda _: disks.Room(int(free_gib * 2**30), 2**30))
    return list(shortcomings.found(Path("/home"), devices=devices, error=error, group_parent=parent))


def test_machine_that_has_everything_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch) == []


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"devices": 0}, "AUTOTRAINER_DEVICES=sim:4x24GiB"),
        ({"devices": 0, "error": "libnvidia-ml.so.1: not found"}, "libnvidia-ml.so.1: not found (`nvidia-smi` should work"),
        ({"parent": ""}, "`Delegate=yes`"),
        ({"free_gib": 0.5}, "0.5 GiB free for /home: with less than 1.0 GiB nothing new starts"),
    ],
)
def test_each_shortcoming_is_told_with_its_mend(monkeypatch: pytest.MonkeyPatch, what: dict[str, object], words: str) -> None:
    (told,) = found(monkeypatch, **what)  # type: ignore[arg-type]
    assert words in told
