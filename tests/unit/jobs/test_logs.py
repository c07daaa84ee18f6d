"""Stored logs: appended at logical offsets, whatever comes twice, late or torn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import logs


@pytest.fixture(autouse=True)
def home(settings: Any, tmp_path: Path) -> Path:
    settings.LOGS_HOME = tmp_path
    return tmp_path


def test_append_stores_what_is_new_when_chunks_overlap() -> None:
    assert logs.append(1, 1, 0, b"abc") == 3
    assert logs.append(1, 1, 1, b"bcde") == 5
    assert logs.append(1, 1, 0, b"ab") == 5
    assert logs.read(1, 1, 0, 100) == b"abcde"


def test_append_stores_nothing_when_there_is_a_gap() -> None:
    logs.append(1, 1, 0, b"abc")
    assert logs.append(1, 1, 4, b"e") == 3
    assert logs.read(1, 1, 0, 100) == b"abc"


def test_append_says_what_is_stored_when_nothing_is_given() -> None:
    assert logs.append(1, 1, 5, b"") == 0


def test_logs_of_attempts_are_files_of_their_own_that_only_we_read(home: Path) -> None:
    logs.append(7, 1, 0, b"one")
    logs.append(7, 2, 0, b"two!")
    assert (home / "7" / "2.log").read_bytes() == b"two!"
    assert (logs.size(7, 1), logs.size(7, 2), logs.size(7, 3), logs.size(8, 1)) == (3, 4, 0, 0)
    assert (home / "7" / "2.log").stat().st_mode & 0o077 == 0


def test_read_is_empty_where_there_is_nothing() -> None:
    logs.append(1, 1, 0, b"abc")
    assert logs.read(1, 1, 3, 10) == b""
    assert logs.read(1, 1, 99, 10) == b""
    assert logs.read(2, 1, 0, 10) == b""


chunks = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 25)), max_size=60)


@given(chunks)
def test_append_never_stores_a_wrong_byte_in_whatever_order_chunks_come(order: list[tuple[int, int]]) -> None:
    logs.log_path(5, 1).unlink(missing_ok=True)
    whole, stored = bytes(range(80)), 0
    for offset, length in order:
        said = logs.append(5, 1, offset, whole[offset : offset + length])
        assert said >= stored
        stored = said
    assert logs.read(5, 1, 0, 1000) == whole[:stored]
