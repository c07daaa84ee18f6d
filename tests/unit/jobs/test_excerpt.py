"""What a letter takes of a log, however long it is."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from jobs import logs
from jobs.models import Attempt
from jobs.notifications import excerpt as module
from jobs.notifications.excerpt import excerpt, packed

ATTEMPT = Attempt(job_id=7, number=1)
TWO_GB = 2 * 2**30


@pytest.fixture(autouse=True)
def logs_home(settings: Any, tmp_path: Path) -> None:
    settings.LOGS_HOME = tmp_path


def written(*parts: tuple[int, bytes], size: int = 0) -> None:
    """A log with these bytes at these places, and a hole between them."""
    path = logs.log_path(7, 1)
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(size)
        for at, data in parts:
            file.seek(at)
            file.write(data)


def unpacked(data: bytes) -> str:
    return gzip.decompress(data).decode()


def test_two_gigabytes_come_as_a_beginning_and_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEAD_BYTES", 2**18)
    monkeypatch.setattr(module, "TAIL_BYTES", 2**18)
    end = b"\nEpoch 9\nKeyError: 'lr'\n"
    written((0, b"Task Name: long\n"), (TWO_GB - len(end), end))
    data, cut = packed(ATTEMPT)
    text = unpacked(data)
    assert text.startswith("Task Name: long\n")
    assert text.endswith("Epoch 9\nKeyError: 'lr'\n")
    assert cut == f"Only its beginning and its end are attached: it has {TWO_GB:,} bytes."
    assert f"[… {cut} …]" in text
    assert len(data) < 2**18
    assert excerpt(ATTEMPT).lines[-2:] == ("Epoch 9", "KeyError: 'lr'")


@pytest.mark.parametrize("noise", [150_000, 600_000])
def test_attachment_is_never_larger_than_it_may_be(monkeypatch: pytest.MonkeyPatch, noise: int) -> None:
    monkeypatch.setattr(module, "LARGEST_PACKED", 64 * 1024)
    lines = b"".join(b"%s\n" % os.urandom(40).hex().encode() for _ in range(noise // 81))
    written((0, b"first\n" + lines + b"last\n"))
    data, cut = packed(ATTEMPT)
    assert len(data) <= 64 * 1024
    assert cut
    text = unpacked(data)
    assert text.startswith("first\n")
    assert text.endswith("last\n")


def test_log_that_grows_meanwhile_is_taken_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    written((0, b"first\n"))
    piece = logs.piece

    def grows(job: int, attempt: int, at: int, most: int) -> logs.Piece:
        logs.append(job, attempt, logs.size(job, attempt), b"more\n" * 100)
        return piece(job, attempt, at, most)

    monkeypatch.setattr(logs, "piece", grows)
    assert unpacked(packed(ATTEMPT)[0]) == "first\n"


def test_bars_that_follow_on_each_other_are_one_line() -> None:
    written((0, b"".join(b"train: %3d%%|####      | %d/100 [00:01<00:01, 9.0it/s]\n" % (n, n) for n in range(100)) + b"done\n"))
    assert excerpt(ATTEMPT).lines == ("train:  99%|####      | 99/100 [00:01<00:01, 9.0it/s]", "done")
