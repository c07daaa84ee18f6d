"""Stored logs: appended at logical offsets, whatever comes twice, late or torn."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuworker import disks
from gpuworker.disks import Cut
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


# --- over the limit -------------------------------------------------------------------------------------------------------

LIMIT = 256 * 1024
NUMBERED = b"".join(b"%07d\n" % i for i in range(150_000))
STEP = 64 * 1024


@pytest.fixture
def limited(settings: Any) -> None:
    settings.AUTOTRAINER = dataclasses.replace(settings.AUTOTRAINER, log_limit_bytes=LIMIT)


def store(data: bytes = NUMBERED) -> Path:
    for offset in range(0, len(data), STEP):
        logs.append(1, 1, offset, data[offset : offset + STEP])
    return logs.log_path(1, 1)


def pieces(at: int = 0) -> list[logs.Piece]:
    """The whole log from an offset on, as a reader gets it; neighbours together."""
    found: list[logs.Piece] = []
    while (piece := logs.piece(1, 1, at, 100_000)).end > at:
        if found and piece.offset == found[-1].end:
            found[-1] = logs.Piece(found[-1].offset, found[-1].data + piece.data)
        else:
            found.append(piece)
        at = piece.end
    return found


@pytest.mark.usefixtures("limited")
def test_log_over_its_limit_keeps_head_and_end_and_stays_small_on_disk() -> None:
    path, cut = store(), logs.cut_of(1, 1)
    assert cut
    assert path.stat().st_blocks * 512 <= LIMIT
    assert logs.size(1, 1) == len(NUMBERED)
    assert (cut.begin, len(NUMBERED) - cut.end >= LIMIT // 2 - STEP) == (LIMIT // 4, True)
    assert pieces() == [logs.Piece(0, NUMBERED[: cut.begin]), logs.Piece(cut.end, NUMBERED[cut.end :])]


@pytest.mark.usefixtures("limited")
def test_read_stops_before_the_cut_and_goes_on_behind_it() -> None:
    store()
    cut = logs.cut_of(1, 1)
    assert cut
    assert logs.piece(1, 1, cut.begin - 10, 1000) == logs.Piece(cut.begin - 10, NUMBERED[cut.begin - 10 : cut.begin])
    for inside in (cut.begin, cut.begin + 1, cut.end - 1, cut.end):
        assert logs.piece(1, 1, inside, 8) == logs.Piece(cut.end, NUMBERED[cut.end : cut.end + 8])


@pytest.mark.usefixtures("limited")
def test_log_within_its_limit_has_no_cut(home: Path) -> None:
    store(NUMBERED[:LIMIT])
    assert logs.cut_of(1, 1) is None
    assert [path.name for path in (home / "1").iterdir()] == ["1.log"]


def test_append_goes_on_behind_what_the_host_has_cut_out() -> None:
    logs.append(1, 1, 0, b"abc")
    assert logs.append(1, 1, 100, b"xyz", cut_from=3) == 103
    assert (logs.cut_of(1, 1), logs.size(1, 1)) == (Cut(3, 100), 103)
    assert pieces() == [logs.Piece(0, b"abc"), logs.Piece(100, b"xyz")]
    assert logs.append(1, 1, 100, b"xyz", cut_from=3) == 103  # comes twice
    assert logs.append(1, 1, 103, b"!") == 104
    assert pieces()[1] == logs.Piece(100, b"xyz!")


def test_append_believes_no_cut_that_begins_behind_what_is_stored() -> None:
    logs.append(1, 1, 0, b"abc")
    assert logs.append(1, 1, 100, b"xyz", cut_from=4) == 3
    assert logs.cut_of(1, 1) is None


def test_append_keeps_what_is_stored_when_the_host_has_cut_out_less() -> None:
    logs.append(1, 1, 0, b"abcdef")
    assert logs.append(1, 1, 5, b"fgh", cut_from=2) == 8
    assert logs.cut_of(1, 1) is None
    assert pieces() == [logs.Piece(0, b"abcdefgh")]


def test_second_cut_joins_the_first() -> None:
    logs.append(1, 1, 0, b"abc")
    logs.append(1, 1, 100, b"xyz", cut_from=3)
    logs.append(1, 1, 200, b"end", cut_from=103)
    assert pieces() == [logs.Piece(0, b"abc"), logs.Piece(200, b"end")]
    assert logs.cut_of(1, 1) == Cut(3, 200)


def test_log_that_ends_with_its_cut_is_as_long_as_it_was() -> None:
    logs.append(1, 1, 0, b"abc")
    assert logs.append(1, 1, 100, b"", cut_from=3) == 100
    logs.log_path(1, 1).write_bytes(b"abc")  # a crash between the record and the file
    assert (logs.size(1, 1), pieces()) == (100, [logs.Piece(0, b"abc"), logs.Piece(100, b"")])
    assert logs.append(1, 1, 100, b"end") == 103
    assert pieces()[1] == logs.Piece(100, b"end")


def test_reader_never_takes_a_hole_for_bytes_when_it_is_punched_meanwhile(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store()
    settings.AUTOTRAINER = dataclasses.replace(settings.AUTOTRAINER, log_limit_bytes=LIMIT)
    pread, calls = os.pread, [0]

    def slow(fd: int, size: int, offset: int) -> bytes:
        calls[0] += 1
        if calls[0] == 1:
            logs.append(1, 1, len(NUMBERED), b"more\n")
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", slow)
    found = logs.piece(1, 1, LIMIT, 1000)
    assert found.data == NUMBERED[found.offset : found.end]
    assert found.offset > LIMIT


@pytest.mark.usefixtures("limited")
def test_log_keeps_its_head_and_what_comes_after_where_files_have_no_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "punch", lambda fd, cut: False)
    path, cut = store(), logs.cut_of(1, 1)
    assert cut
    assert path.stat().st_blocks * 512 <= LIMIT
    assert pieces() == [logs.Piece(0, NUMBERED[: cut.begin]), logs.Piece(cut.end, NUMBERED[cut.end :])]


def test_log_is_not_stored_while_the_disk_is_too_full_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    logs.append(1, 1, 0, b"abc")
    monkeypatch.setattr(disks, "room", lambda folder: disks.Room(2**28 - 1, 2**30))
    with pytest.raises(OSError, match="too full"):
        logs.append(1, 1, 3, b"def")
    monkeypatch.setattr(disks, "room", lambda folder: disks.Room(2**28, 2**30))
    assert logs.append(1, 1, 3, b"def") == 6


@pytest.mark.parametrize("offset", [-1, 2**43, 2**70])
def test_offset_that_no_log_has_is_refused_as_nonsense(offset: int) -> None:
    with pytest.raises(ValueError, match="no log has"):
        logs.append(1, 1, offset, b"x", cut_from=0)


@pytest.mark.parametrize(("head", "shown"), [(b"one\ntwo\n", "one\ntwo\n"), (b"one\ntw", "one\ntw\n"), (b"", "")])
def test_text_says_in_one_line_how_much_was_cut_out(head: bytes, shown: str) -> None:
    logs.append(1, 1, 0, head)
    logs.append(1, 1, 5000, b"\r10%\r20%\n", cut_from=len(head))
    said = f"[… {5000 - len(head):,} bytes of the log were cut out here: it is longer than AUTOTRAINER_LOG_LIMIT …]\n"
    assert "".join(logs.as_text(1, 1)) == f"{shown}{said}20%\n"


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
