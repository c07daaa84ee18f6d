"""The stored logs at the control plane: one file for an attempt, raw bytes at their logical offsets.

Only appended to, and never synced chunk by chunk: the host keeps its own copy until the log has been handed over, so what
a power cut takes is sent again. Two writers of the same log write the same bytes to the same places.

A log has at most one cut: the middle that went because of AUTOTRAINER_LOG_LIMIT (gpuworker.disks says how much), here or
already on the host. It is a hole in the file and a record beside it, which is written first: whoever reads looks at the
record after reading. A second cut joins the first, with what lay between them.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from django.conf import settings

from gpuworker import disks
from gpuworker.disks import Cut
from jobs.terminal import Terminal

PIECE_BYTES = 256 * 1024
LONGEST_BYTES = 2**43
"""Any file system can hold a file of this size with a hole in it."""
DATABASE_SHARE = 4
"""Of what counts as a low disk, one part in so many is left to the database: it must take in how jobs end."""


class Piece(NamedTuple):
    """Bytes of a log that follow on each other, the first at `offset`."""

    offset: int
    data: bytes

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


def log_path(job_id: int, attempt: int) -> Path:
    return Path(settings.LOGS_HOME) / str(job_id) / f"{attempt}.log"


# --- storing ------------------------------------------------------------------------------------------------------------


def append(job_id: int, attempt: int, offset: int, data: bytes, *, cut_from: int | None = None) -> int:
    """Store what is new of `data`, which begins at a logical offset; returns the stored size.

    Beyond the end there is a gap: nothing is written, and the size says from where to send again. `cut_from`: what lies
    between there and `offset` will never come. Raises OSError, also while the disk is too full for logs, and ValueError.
    """
    if not 0 <= offset < LONGEST_BYTES:
        raise ValueError(f"no log has a byte {offset}")
    path = log_path(job_id, attempt)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _leave_room(path.parent)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        cut = cut_of(job_id, attempt)
        stored = _end(fd, cut)
        if cut_from is not None and cut_from <= stored < offset:
            cut, stored = _cut_out(path, fd, Cut(cut.begin if cut else stored, offset)), offset
        if offset <= stored < offset + len(data):
            stored = _write(fd, data[stored - offset :], stored)
        if due := disks.due_cut(stored, settings.AUTOTRAINER.log_limit_bytes, cut):
            _cut_out(path, fd, due if disks.can_punch(fd) else Cut(due.begin, stored))
        return stored
    finally:
        os.close(fd)


def _leave_room(folder: Path) -> None:
    room = disks.room(folder)
    if room and room.free_bytes < room.least_bytes // DATABASE_SHARE:
        raise OSError(errno.ENOSPC, "The disk is too full to store logs", str(folder))


def _write(fd: int, data: bytes, at: int) -> int:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, at)
        at, rest = at + written, rest[written:]
    return at


def _cut_out(path: Path, fd: int, cut: Cut) -> Cut:
    """On record first: a hole that nobody knows of would be read as what the command wrote."""
    fresh = path.with_suffix(f".cut.{os.getpid()}")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        json.dump(cut._asdict(), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, _cut_path(path))
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    disks.cut_out(fd, cut, punching=os.fstat(fd).st_size > cut.end)
    return cut


def _cut_path(path: Path) -> Path:
    return path.with_suffix(".cut.json")


def _end(fd: int, cut: Cut | None) -> int:
    """Where a cut was recorded and nothing behind it was written, the log ends with the cut."""
    size = os.fstat(fd).st_size
    return max(size, cut.end) if cut else size


# --- reading ------------------------------------------------------------------------------------------------------------


def size(job_id: int, attempt: int) -> int:
    """Stored bytes, those that were cut out among them; 0 where there is no log (yet, or any more)."""
    try:
        found = log_path(job_id, attempt).stat().st_size
    except FileNotFoundError:
        return 0
    cut = cut_of(job_id, attempt)
    return max(found, cut.end) if cut else found


def cut_of(job_id: int, attempt: int) -> Cut | None:
    """What was cut out of a stored log; None where nothing was."""
    try:
        found = json.loads(_cut_path(log_path(job_id, attempt)).read_bytes())
    except FileNotFoundError:
        return None
    return Cut(int(found["begin"]), int(found["end"]))


def piece(job_id: int, attempt: int, offset: int, limit: int) -> Piece:
    """At most `limit` bytes from `offset` on, or from the end of the cut where `offset` lies in it; stops before the cut.

    Empty at the end and where there is no log.
    """
    try:
        fd = os.open(log_path(job_id, attempt), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Piece(offset, b"")
    try:
        cut = cut_of(job_id, attempt)
        while True:
            found = _read(fd, offset, limit, cut)
            now = cut_of(job_id, attempt)
            if now == cut:
                return found
            cut = now  # Some of what was read may be zeros of a hole.
    finally:
        os.close(fd)


def _read(fd: int, offset: int, limit: int, cut: Cut | None) -> Piece:
    until = os.fstat(fd).st_size
    if cut and cut.begin <= offset < cut.end:
        offset = cut.end
    elif cut and offset < cut.begin:
        until = min(until, cut.begin)
    return Piece(offset, os.pread(fd, max(0, min(limit, until - offset)), offset))


def read(job_id: int, attempt: int, offset: int, limit: int) -> bytes:
    """The bytes of a `piece` alone."""
    return piece(job_id, attempt, offset, limit).data


def as_text(job_id: int, attempt: int) -> Iterator[str]:
    """The stored log as a terminal would show it in the end, in pieces."""
    screen, offset = Terminal(), 0
    while (found := piece(job_id, attempt, offset, PIECE_BYTES)).end > offset:
        if found.offset > offset:
            rest = screen.finish()
            yield f"{rest}{'' if rest[-1:] in ('', chr(10)) else chr(10)}{cut_line(found.offset - offset)}\n"
            screen = Terminal()
        offset = found.end
        if text := screen.feed(found.data):
            yield text
    if text := screen.finish():
        yield text


def cut_line(count: int) -> str:
    """What stands in the place of bytes that were cut out."""
    return f"[… {count:,} bytes of the log were cut out here: it is longer than AUTOTRAINER_LOG_LIMIT …]"
