"""Keeps the log of an attempt within its limit: gpuworker.disks says what has to go, this takes it out of output.log.

The command writes to that file itself and goes on writing at its end; nobody asks it. cut.json says what is gone, in
positions of the file, before it goes. A command that truncates its own log begins a new one, with a limit of its own.
"""

from __future__ import annotations

import math
import os
import sys
import time

from gpuworker import disks
from gpuworker.disks import Cut
from gpuworker.shim import records

LOG_NAME = "output.log"
CUT_NAME = "cut.json"
SHORTEST_S, LONGEST_S = 0.2, 5.0
FASTEST_BYTES_S = 1e9
"""A log is looked at again before this speed could have brought it over its limit; an idle one now and then."""


class LogCap:
    """Asked for its next look by a loop; `math.inf` where there is no limit."""

    def __init__(self, folder: int, limit_bytes: int | None) -> None:
        self._folder, self._limit = folder, limit_bytes
        self._cut = recorded(folder) if limit_bytes else None
        self._size = 0
        self._pause_s = SHORTEST_S
        self._next_at = 0.0

    def advance(self) -> float:
        """Look, if it is time; seconds until the next time."""
        if self._limit is None:
            return math.inf
        if (now := time.monotonic()) >= self._next_at:
            self.look()
            self._next_at = now + self._pause_s
        return self._next_at - now

    def look(self) -> None:
        """Cut out what is over the limit. What cannot be done now is tried again: the log is longer, nothing else."""
        if self._limit is None:
            return
        try:
            size = os.stat(LOG_NAME, dir_fd=self._folder).st_size
            self._forget_truncated(size)
            if due := disks.due_cut(size, self._limit, self._cut):
                size = self._cut_out(due)
        except FileNotFoundError:
            return  # The command has not been let go yet.
        except OSError as exc:
            print(f"the log's middle could not be cut out: {exc}", file=sys.stderr, flush=True)
            self._pause_s = LONGEST_S
            return
        room = self._limit - size + (self._cut.end - self._cut.begin if self._cut else 0)
        soon = min(LONGEST_S, max(SHORTEST_S, room / FASTEST_BYTES_S))
        self._pause_s = soon if size != self._size else min(LONGEST_S, 2 * self._pause_s)
        self._size = size

    def _forget_truncated(self, size: int) -> None:
        if self._cut and size < self._cut.end:
            os.unlink(CUT_NAME, dir_fd=self._folder)
            self._cut = None

    def _cut_out(self, due: Cut) -> int:
        """The size afterwards."""
        fd = os.open(LOG_NAME, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._folder)
        try:
            punching = disks.can_punch(fd)
            cut = due if punching else Cut(due.begin, os.fstat(fd).st_size)
            records.write_record(self._folder, CUT_NAME, cut._asdict())
            self._cut = cut
            disks.cut_out(fd, cut, punching=punching)
            records.keep_room(self._folder, CUT_NAME)  # The one of before may have been written into.
            return os.fstat(fd).st_size
        finally:
            os.close(fd)


def look_once(path: str | os.PathLike[str], limit_bytes: int | None) -> None:
    """For a log whose shim is dead. Raises OSError where its directory has gone."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        LogCap(folder, limit_bytes).look()
    finally:
        os.close(folder)


def recorded(folder: records.Folder) -> Cut | None:
    """What cut.json says, in positions of the file."""
    found = records.read_record(folder, CUT_NAME) or {}
    begin, end = found.get("begin"), found.get("end")
    return Cut(begin, end) if isinstance(begin, int) and isinstance(end, int) and 0 <= begin < end else None
