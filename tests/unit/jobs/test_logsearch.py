"""Searching a stored log: every line once, wherever its pieces end, in bounded time."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest

from jobs import logs, logsearch
from jobs.logsearch import MOST_HITS, find


@pytest.fixture(autouse=True)
def home(settings: Any, tmp_path: Path) -> None:
    settings.LOGS_HOME = tmp_path


def printed(data: bytes) -> None:
    logs.append(1, 1, logs.size(1, 1), data)


def offsets(text: str, **how: Any) -> list[int]:
    return [hit.offset for hit in find(1, 1, text, **how).hits]


def test_each_line_is_found_once_without_regard_to_case_and_with_what_stands_around() -> None:
    printed(b"begin\nLoss: 1 loss: 2\n\x1b[31merror\x1b[0m: LOSS of \xe6\xa8\xa1\xe5\x9e\x8b\nbar 1%\rbar 2% loss\rbar 3%\n")
    found = find(1, 1, "loss")
    assert found.next_at is None
    assert [(hit.before, hit.match, hit.after) for hit in found.hits] == [
        ("", "Loss", ": 1 loss: 2"),
        ("error: ", "LOSS", " of 模型"),
        ("bar 2% ", "loss", ""),
    ]
    assert offsets("模型") == [logs.read(1, 1, 0, 1000).index("模型".encode())]
    assert find(1, 1, "nowhere").hits == ()
    assert find(1, 2, "loss").hits == ()


@pytest.mark.parametrize("size", [1, 3, 7, 11])
def test_hit_across_two_pieces_is_found(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    data = b"aaa needle\nneedle b\n c needle needle\nneedl\ne\n"
    printed(data)
    monkeypatch.setattr(logsearch, "PIECE_BYTES", size)
    assert sorted({data[:at].count(b"\n") for at in offsets("needle")}) == [0, 1, 2]


def test_many_hits_come_in_portions_and_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    printed(b"needle\n" * (2 * MOST_HITS + 5))
    at: int | None = 0
    seen: list[int] = []
    while at is not None:
        found = find(1, 1, "needle", at=at)
        seen += [hit.offset for hit in found.hits]
        at = found.next_at
    assert seen == [7 * number for number in range(2 * MOST_HITS + 5)]


def test_long_search_stops_and_says_where_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logsearch, "PIECE_BYTES", 100)
    printed(b"x" * 1000 + b"\nneedle\n")
    ticks = count()
    found = find(1, 1, "needle", most_s=2.5, clock=lambda: next(ticks))
    assert (found.hits, found.next_at) == ((), 300)
    assert offsets("needle", at=found.next_at) == [1001]
