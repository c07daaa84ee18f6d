"""The file that a training may write in AUTOTRAINER_MAIL's place: read as it stands, or said to be none."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gpuworker.ownmail import LARGEST_BYTES, NAME, MailFault, read


@pytest.mark.parametrize(
    "data", [b'{"subject": "92 %"}', "训练".encode(), b"no json", b"x" * LARGEST_BYTES], ids=["json", "utf-8", "words", "largest"]
)
def test_text_is_read_as_it_stands(tmp_path: Path, data: bytes) -> None:
    (tmp_path / NAME).write_bytes(data)
    assert read(tmp_path) == (data.decode(), "")


def test_nothing_written_is_nothing(tmp_path: Path) -> None:
    assert read(tmp_path) == ("", "")


def test_mark_of_windows_is_left_out(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"\xef\xbb\xbf{}")
    assert read(tmp_path) == ("{}", "")


def link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def loop(path: Path) -> None:
    path.symlink_to(path)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 * 2**30)


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (link, MailFault.NO_FILE),
        (loop, MailFault.NO_FILE),
        (os.mkfifo, MailFault.NO_FILE),
        (Path.mkdir, MailFault.NO_FILE),
        (sparse, MailFault.TOO_LARGE),
        (lambda path: path.write_bytes(b"x" * (LARGEST_BYTES + 1)), MailFault.TOO_LARGE),
        (lambda path: path.write_bytes(b"\xff\xfe{"), MailFault.NO_TEXT),
        (lambda path: path.write_bytes(b'"\xed\xa0\x80"'), MailFault.NO_TEXT),
    ],
    ids=["link", "loop", "pipe", "folder", "sparse", "a byte too many", "utf-16", "surrogate"],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, make: Callable[[Path], object], fault: MailFault) -> None:
    make(tmp_path / NAME)
    assert read(tmp_path) == ("", fault)


def test_pipe_that_somebody_writes_into_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NAME)
    reader = os.open(tmp_path / NAME, os.O_RDWR)
    try:
        os.write(reader, b'{"skip": true}')
        assert read(tmp_path) == ("", MailFault.NO_FILE)
    finally:
        os.close(reader)


def test_file_that_grows_is_read_no_further_than_allowed(tmp_path: Path) -> None:
    path, stop = tmp_path / NAME, threading.Event()
    path.write_bytes(b"x" * LARGEST_BYTES)

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            for _ in range(2000):
                if stop.is_set():
                    return
                file.write(b"y" * 4096)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        found = [read(tmp_path) for _ in range(50)]
    finally:
        stop.set()
        writer.join()
    assert all(one in (("", MailFault.TOO_LARGE), ("x" * LARGEST_BYTES, "")) for one in found)
