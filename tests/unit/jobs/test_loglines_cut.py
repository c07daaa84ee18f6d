"""Lines of a log whose middle was cut out, by their bytes, and the other way round: as the text view has them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from jobs import logs
from jobs.web import loglines

LIMIT = 256 * 1024
NUMBERED = b"".join(b"%07d\n" % i for i in range(60_000))


@pytest.fixture(autouse=True)
def home(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.LOGS_HOME = tmp_path
    monkeypatch.setattr(loglines, "PIECE_BYTES", 16 * 1024)
    loglines._cache.clear()


def text_lines() -> list[str]:
    return "".join(logs.as_text(1, 1)).split("\n")


def assert_numbered_like_the_text() -> None:
    """Each line of the text begins at the byte that its number leads to, and the other way round."""
    shown = text_lines()
    for number in [1, 2, *range(3, len(shown), 977), len(shown) - 1]:
        line = shown[number - 1]
        if line.startswith("[…"):
            continue
        at = loglines.offset_of(1, 1, number)
        assert logs.read(1, 1, at, len(line)).decode() == line, number
        assert loglines.line_at(1, 1, at) == number
        assert loglines.line_at(1, 1, at + len(line)) == number


def test_lines_are_numbered_like_the_text() -> None:
    logs.append(1, 1, 0, NUMBERED)
    assert_numbered_like_the_text()


@pytest.mark.parametrize("shift", [0, 3])
def test_cut_is_one_line_wherever_it_begins(settings: Any, shift: int) -> None:
    settings.AUTOTRAINER = dataclasses.replace(settings.AUTOTRAINER, log_limit_bytes=LIMIT)
    logs.append(1, 1, 0, b"x" * shift + NUMBERED)
    cut = logs.cut_of(1, 1)
    assert cut
    assert [line for line in text_lines() if line.startswith("[…")]
    assert_numbered_like_the_text()


def test_lines_are_counted_anew_when_more_was_cut_out(settings: Any) -> None:
    settings.AUTOTRAINER = dataclasses.replace(settings.AUTOTRAINER, log_limit_bytes=LIMIT)
    half = len(NUMBERED) // 2
    logs.append(1, 1, 0, NUMBERED[:half])
    assert_numbered_like_the_text()
    logs.append(1, 1, half, NUMBERED[half:])
    assert_numbered_like_the_text()


def test_no_cursor_goes_above_a_cut() -> None:
    logs.append(1, 1, 0, b"one\ntwo\n")
    logs.append(1, 1, 1000, b"three\nfour\x1b[9A\rTHREE\nx\n", cut_from=8)
    shown = text_lines()
    assert shown[:2] + shown[3:] == ["one", "two", "THREE", "xour", ""]
    assert loglines.line_at(1, 1, 1000 + 16) == 4


def test_line_behind_a_cut_begins_where_the_cut_ends() -> None:
    logs.append(1, 1, 0, b"one\ntwo\n")
    logs.append(1, 1, 1000, b"four\nfive\n", cut_from=8)
    assert [loglines.offset_of(1, 1, line) for line in (1, 2, 3, 4, 5)] == [0, 4, 8, 1000, 1005]  # 8: the cut itself
    assert loglines.line_at(1, 1, 500) == 3
