"""A log that is kept within its limit: how much goes, what stays, and what the record says of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuworker import disks, logcap
from gpuworker.disks import Cut
from gpuworker.logcap import LOG_NAME, LogCap
from gpuworker.shim import records

LIMIT = 256 * 1024
HEAD = LIMIT // 4
NUMBERED = b"".join(b"%07d\n" % i for i in range(200_000))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def append(path: Path, data: bytes) -> None:
    with (path / LOG_NAME).open("ab") as file:
        file.write(data)


def disk_bytes(path: Path) -> int:
    return (path / LOG_NAME).stat().st_blocks * 512


@pytest.mark.parametrize(
    ("size", "cut", "due"),
    [
        (LIMIT, None, None),
        (LIMIT + 1, None, Cut(HEAD, LIMIT // 2)),
        (10 * LIMIT, None, Cut(HEAD, 10 * LIMIT - LIMIT // 2)),
        (10 * LIMIT, Cut(HEAD, 10 * LIMIT - LIMIT // 2), None),
        (10 * LIMIT + LIMIT // 4, Cut(HEAD, 10 * LIMIT - LIMIT // 2), None),
        (10 * LIMIT + LIMIT // 4 + 1, Cut(HEAD, 10 * LIMIT - LIMIT // 2), Cut(HEAD, 9 * LIMIT + 3 * LIMIT // 4)),
        (10 * LIMIT, Cut(2 * HEAD, 3 * HEAD), Cut(HEAD, 10 * LIMIT - LIMIT // 2)),
    ],
)
def test_cut_is_due_when_what_is_kept_is_over_the_limit(size: int, cut: Cut | None, due: Cut | None) -> None:
    assert disks.due_cut(size, LIMIT, cut) == due


def test_log_keeps_its_head_and_its_end_when_it_grows_for_long(folder: int, tmp_path: Path) -> None:
    cap, written = LogCap(folder, LIMIT), 0
    for end in range(60_000, len(NUMBERED), 60_000):
        append(tmp_path, NUMBERED[written:end])
        written = end
        cap.look()
        assert disk_bytes(tmp_path) <= LIMIT
    cut, data = logcap.recorded(folder), (tmp_path / LOG_NAME).read_bytes()
    assert cut
    assert len(data) == written
    assert cut.begin == HEAD
    assert written - cut.end >= LIMIT // 2 - 60_000
    assert data[: cut.begin] == NUMBERED[: cut.begin]
    assert data[cut.end :] == NUMBERED[cut.end : written]


def test_log_without_a_limit_is_left_alone(folder: int, tmp_path: Path) -> None:
    append(tmp_path, NUMBERED)
    cap = LogCap(folder, None)
    assert cap.advance() == float("inf")
    assert logcap.recorded(folder) is None


def test_log_that_its_command_truncates_begins_with_a_limit_of_its_own(folder: int, tmp_path: Path) -> None:
    cap = LogCap(folder, LIMIT)
    append(tmp_path, NUMBERED[: 2 * LIMIT])
    cap.look()
    assert logcap.recorded(folder)
    os.truncate(tmp_path / LOG_NAME, 0)
    append(tmp_path, b"anew\n")
    cap.look()
    assert logcap.recorded(folder) is None
    append(tmp_path, NUMBERED[:LIMIT])
    cap.look()
    assert logcap.recorded(folder) == disks.due_cut(LIMIT + 5, LIMIT, None)


def test_record_comes_before_the_hole(folder: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(tmp_path, NUMBERED[: 2 * LIMIT])
    seen: list[Cut | None] = []
    monkeypatch.setattr(disks, "cut_out", lambda fd, cut, punching: seen.append(logcap.recorded(folder)))
    LogCap(folder, LIMIT).look()
    assert seen == [disks.due_cut(2 * LIMIT, LIMIT, None)]


def test_log_loses_all_but_its_head_where_files_have_no_holes(folder: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "punch", lambda fd, cut: False)
    append(tmp_path, NUMBERED[: 2 * LIMIT])
    cap = LogCap(folder, LIMIT)
    cap.look()
    append(tmp_path, b"the end\n")
    assert logcap.recorded(folder) == Cut(HEAD, 2 * LIMIT)
    data = (tmp_path / LOG_NAME).read_bytes()
    assert (data[:HEAD], data[2 * LIMIT :]) == (NUMBERED[:HEAD], b"the end\n")
    assert disk_bytes(tmp_path) <= LIMIT


def test_cut_that_cannot_be_recorded_is_not_made(folder: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    append(tmp_path, NUMBERED[: 2 * LIMIT])
    monkeypatch.setattr(records, "write_record", full_disk)
    cap = LogCap(folder, LIMIT)
    cap.look()
    assert (tmp_path / LOG_NAME).read_bytes() == NUMBERED[: 2 * LIMIT]
    monkeypatch.undo()
    cap.look()
    assert logcap.recorded(folder)


@pytest.mark.parametrize("text", ["", "{}", '{"begin": 5, "end": 5}', '{"begin": -1, "end": 5}', '{"begin": "0", "end": 5}'])
def test_record_that_says_nothing_is_no_cut(folder: int, tmp_path: Path, text: str) -> None:
    (tmp_path / "cut.json").write_text(text)
    assert logcap.recorded(folder) is None


def test_room_of_a_disk_is_low_below_a_gib_or_a_tenth_of_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def disk(total: int, free: int) -> None:
        found = os.statvfs("/")
        values = dict(zip(range(10), found, strict=False)) | {0: 4096, 1: 4096, 2: total // 4096, 3: free // 4096, 4: free // 4096}
        monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result([*values.values(), 255]))

    for total, free, low in ((2**40, 2**30, False), (2**40, 2**30 - 4096, True), (2**30, 2**27, False), (2**30, 2**26, True)):
        disk(total, free)
        room = disks.room("/")
        assert room
        assert room.low is low
    disk(0, 0)
    assert disks.room("/") is None
