"""Lines of a log by their bytes, and bytes by their lines, as the terminal of the text view numbers them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs import logs
from jobs.terminal import Terminal
from jobs.web import loglines

CURSOR = "@here@"


@pytest.fixture(autouse=True)
def small_pieces(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Logs of this test only, counted in pieces so small that every test crosses their borders."""
    settings.LOGS_HOME = tmp_path
    monkeypatch.setattr(loglines, "PIECE_BYTES", 32)
    loglines._cache.clear()
    yield
    loglines._cache.clear()


def stored(data: bytes) -> bytes:
    loglines._cache.clear()
    logs.log_path(1, 1).unlink(missing_ok=True)
    logs.append(1, 1, 0, data)
    return data


def row_by_terminal(log: bytes) -> int:
    """The line (from 1) in which a terminal would write on after this log."""
    screen = Terminal()
    text = screen.feed(log + CURSOR.encode()) + screen.finish()
    return next(number for number, line in enumerate(text.split("\n"), 1) if CURSOR in line)


def test_line_of_a_byte_and_byte_of_a_line_agree_when_lines_only_go_down() -> None:
    lines = [f"line {n} ".encode() * (n % 5) + b"\n" for n in range(1, 90)]
    stored(b"".join(lines))
    offset = 0
    for number, line in enumerate(lines, 1):
        assert loglines.offset_of(1, 1, number) == offset
        assert loglines.line_at(1, 1, offset) == number
        assert loglines.line_at(1, 1, offset + len(line) - 1) == number
        offset += len(line)


def test_line_is_the_last_one_when_the_log_has_fewer() -> None:
    stored(b"one\ntwo\nthree")
    assert loglines.offset_of(1, 1, 999) == 8
    assert loglines.line_at(1, 1, 10**12) == 3


def test_last_line_is_found_when_it_is_longer_than_a_piece() -> None:
    stored(b"one\n" + b"x" * 200)
    assert loglines.offset_of(1, 1, 2) == loglines.offset_of(1, 1, 3) == 4


@pytest.mark.parametrize("line", [0, 1])
def test_first_line_begins_at_the_beginning(line: int) -> None:
    stored(b"one\ntwo\n")
    assert loglines.offset_of(1, 1, line) == 0


def test_log_that_is_not_there_has_one_line() -> None:
    assert (loglines.line_at(1, 1, 0), loglines.line_at(1, 1, 50), loglines.offset_of(1, 1, 7)) == (1, 1, 0)


def test_lines_go_on_when_the_log_grows() -> None:
    stored(b"0123456789\n" * 10)
    assert loglines.line_at(1, 1, 110) == 11
    logs.append(1, 1, 110, b"0123456789\n" * 10)
    assert loglines.line_at(1, 1, 220) == 21
    assert loglines.offset_of(1, 1, 16) == 165


def test_logs_of_other_jobs_do_not_count() -> None:
    stored(b"a\n" * 50)
    logs.append(2, 1, 0, b"b" * 100)
    assert (loglines.line_at(1, 1, 100), loglines.line_at(2, 1, 100)) == (51, 1)


def test_marks_are_kept_for_so_many_logs_only() -> None:
    for job in range(1, loglines.MOST_LOGS + 5):
        loglines.line_at(job, 1, 0)
    assert len(loglines._cache) == loglines.MOST_LOGS
    assert (1, 1) not in loglines._cache


tokens = st.lists(
    st.one_of(
        st.sampled_from(["\n", "\n\n", "\r", "text ", "é█ "]),
        st.builds(lambda n, final: f"\x1b[{n or ''}{final}", st.integers(0, 60), st.sampled_from("ABEF")),
        st.just("\n" * 30),
    ),
    max_size=30,
)


@given(tokens)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_line_of_a_byte_is_the_terminals_when_progress_bars_move_the_cursor(parts: list[str]) -> None:
    stored("".join(parts).encode())
    for end in range(len(parts) + 1):
        before = "".join(parts[:end]).encode()
        assert loglines.line_at(1, 1, len(before)) == row_by_terminal(before)


@given(tokens, st.integers(1, 100))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_byte_of_a_line_is_the_first_that_is_so_far_down(parts: list[str], line: int) -> None:
    stored("".join(parts).encode())
    begin, lowest = 0, 1
    for end in range(len(parts) + 1):
        at = len("".join(parts[:end]).encode())
        row = row_by_terminal("".join(parts[:end]).encode())
        if row > lowest:
            step = parts[end - 1]
            reached = min(line, row)
            if lowest < line:
                begin = at - (row - reached) if set(step) == {"\n"} else at
            lowest = row
    assert loglines.offset_of(1, 1, line) == begin
