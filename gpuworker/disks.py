"""What both halves know of files and disks: when a disk is low, and how a log loses its middle. Standard library only.

A log over its limit keeps its head (a quarter of the limit) and its tail. The tail may grow until the whole is as long as
the limit; then all but the last half limit is cut out, so that a cut is rare and the end is always there. What is cut out
keeps its place: offsets go on counting, the file has a hole there, and its length stays what it was.

Order, on both sides: the cut is on record, durably, before a byte is taken. Whoever reads looks at the record after it has
read, so that zeros of a hole are never taken for what a command wrote.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import NamedTuple

BLOCK_BYTES = 4096
SMALLEST_LIMIT_BYTES = 64 * 1024
LEAST_FREE_BYTES = 2**30
"""Below this nothing new starts on a host. A disk below ten times as much keeps a tenth of itself free instead."""

_KEEP_SIZE_PUNCH_HOLE = 0x01 | 0x02
_CANNOT = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)


class Room(NamedTuple):
    """What is free for this account on a disk, and below what it is low."""

    free_bytes: int
    least_bytes: int

    @property
    def low(self) -> bool:
        return self.free_bytes < self.least_bytes


def room(folder: str | os.PathLike[str]) -> Room | None:
    """None where the file system does not tell. Raises OSError."""
    found = os.statvfs(folder)
    total = found.f_blocks * found.f_frsize
    return Room(found.f_bavail * found.f_frsize, min(LEAST_FREE_BYTES, total // 10)) if total else None


class Cut(NamedTuple):
    """What is gone from a log: the bytes from `begin` on, up to and without `end`."""

    begin: int
    end: int


def due_cut(size: int, limit: int, cut: Cut | None) -> Cut | None:
    """What a log of this size (that has lost `cut`) must have lost to stay within its limit; None where it need not lose more."""
    kept = size - (cut.end - cut.begin if cut else 0)
    if kept <= limit:
        return None
    head = limit // 4 // BLOCK_BYTES * BLOCK_BYTES
    end = (size - limit // 2) // BLOCK_BYTES * BLOCK_BYTES
    return Cut(min(head, cut.begin), max(end, cut.end)) if cut else Cut(head, end)


def can_punch(fd: int) -> bool:
    """Whether this file's middle can be given back to the disk. Raises OSError."""
    return punch(fd, Cut((size := os.fstat(fd).st_size) + BLOCK_BYTES, size + 2 * BLOCK_BYTES))  # beyond its end: nothing happens


def cut_out(fd: int, cut: Cut, *, punching: bool) -> None:
    """Give the room of a recorded cut back; it reads as zeros. Without holes, `cut.end` is the file's present end. Raises OSError."""
    if punching:
        punch(fd, cut)
    else:
        os.ftruncate(fd, cut.begin)
        os.ftruncate(fd, cut.end)


def punch(fd: int, cut: Cut) -> bool:
    """Make a hole of these bytes; False where the file system cannot. Raises OSError."""
    begin, length = ctypes.c_longlong(cut.begin), ctypes.c_longlong(cut.end - cut.begin)
    if ctypes.CDLL(None, use_errno=True).fallocate(fd, _KEEP_SIZE_PUNCH_HOLE, begin, length) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code))
