"""The stored logs at the control plane: one file for an attempt, raw bytes at their logical offsets.

Only appended to, and never synced chunk by chunk: the host keeps its own copy until the log has been handed over, so what
a power cut takes is sent again. Two writers of the same log write the same bytes to the same places.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings

from jobs.terminal import Terminal

PIECE_BYTES = 256 * 1024


def log_path(job_id: int, attempt: int) -> Path:
    return Path(settings.LOGS_HOME) / str(job_id) / f"{attempt}.log"


def append(job_id: int, attempt: int, offset: int, data: bytes) -> int:
    """Store what is new of `data`, which begins at a logical offset; returns the stored size.

    Beyond the end there is a gap: nothing is written, and the size says from where to send again. Raises OSError.
    """
    path = log_path(job_id, attempt)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        stored = os.fstat(fd).st_size
        if not offset <= stored < offset + len(data):
            return stored
        rest = memoryview(data)[stored - offset :]
        while rest:
            written = os.pwrite(fd, rest, stored)
            stored, rest = stored + written, rest[written:]
        return stored
    finally:
        os.close(fd)


def size(job_id: int, attempt: int) -> int:
    """Stored bytes; 0 where there is no log (yet, or any more)."""
    try:
        return log_path(job_id, attempt).stat().st_size
    except FileNotFoundError:
        return 0


def read(job_id: int, attempt: int, offset: int, limit: int) -> bytes:
    """At most `limit` bytes from `offset` on; empty at the end and where there is no log."""
    try:
        fd = os.open(log_path(job_id, attempt), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(fd, max(0, min(limit, os.fstat(fd).st_size - offset)), offset)
    finally:
        os.close(fd)


def as_text(job_id: int, attempt: int) -> Iterator[str]:
    """The stored log as a terminal would show it in the end, in pieces."""
    screen, offset = Terminal(), 0
    while data := read(job_id, attempt, offset, PIECE_BYTES):
        offset += len(data)
        if text := screen.feed(data):
            yield text
    if text := screen.finish():
        yield text
