"""Which line of a log is at which byte, as its terminal would number it: a page shows the end of a long log first.

A line is a row: `\\n` goes one down, cursor-up goes back, as jobs.terminal has it, so that numbers on the page and in the
text view agree. Logs are only appended to, so what was counted once stays right.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from jobs import logs
from jobs.terminal import LOOK_BACK

PIECE_BYTES = 1 << 20
MOST_LOGS = 64
_MOVE = re.compile(rb"\n|\x1b\[([0-9]{0,9})([ABEF])")
_ESCAPE = re.compile(rb"\x1b\[[0-9]{0,9}\Z|\x1b\Z")


@dataclass(frozen=True, slots=True)
class Mark:
    """Up to `offset`, the cursor is in row `row` (0 is the first), and the lowest row so far is `lowest`."""

    offset: int = 0
    row: int = 0
    lowest: int = 0


@dataclass(slots=True)
class _Marks:
    """One mark a piece of the log, in order."""

    known: list[Mark] = field(default_factory=lambda: [Mark()])
    lock: threading.Lock = field(default_factory=threading.Lock)


_cache: OrderedDict[tuple[int, int], _Marks] = OrderedDict()
_cache_lock = threading.Lock()


def line_at(job_id: int, attempt: int, offset: int) -> int:
    """The number (from 1) of the line that the byte at `offset` belongs to."""
    mark = Mark()
    for mark in _marks(job_id, attempt):
        if mark.offset + PIECE_BYTES > offset:
            break
    piece = logs.read(job_id, attempt, mark.offset, max(0, min(offset - mark.offset, 2 * PIECE_BYTES)))
    return _advance(mark, piece).row + 1


def offset_of(job_id: int, attempt: int, line: int) -> int:
    """The byte at which a line (from 1) begins; that of the last line where the log has fewer."""
    before = Mark()
    for mark in _marks(job_id, attempt):
        if mark.lowest >= line - 1:
            break
        before = mark
    if before.lowest >= line - 1:
        return 0
    piece = logs.read(job_id, attempt, before.offset, 2 * PIECE_BYTES)
    begin = _first_in_row(before, piece, line - 1)
    if not begin and before.offset:  # no line begins behind this mark: the last one begins before it
        return offset_of(job_id, attempt, before.lowest + 1)
    return before.offset + begin


def _marks(job_id: int, attempt: int) -> Iterator[Mark]:
    """Marks from the beginning to the end of the stored log, counted as far as they are asked for."""
    with _cache_lock:
        marks = _cache.setdefault((job_id, attempt), _Marks())
        _cache.move_to_end((job_id, attempt))
        while len(_cache) > MOST_LOGS:
            _cache.popitem(last=False)
    index = 0
    while True:
        with marks.lock:
            if index == len(marks.known):
                last = marks.known[-1]
                piece = logs.read(job_id, attempt, last.offset, PIECE_BYTES)
                if len(piece) < PIECE_BYTES:
                    return  # the rest is still growing
                marks.known.append(_advance(last, _whole(piece)))
            mark = marks.known[index]
        yield mark
        index += 1


def _whole(piece: bytes) -> bytes:
    """Without an escape sequence that goes on in the next piece."""
    unfinished = _ESCAPE.search(piece, max(0, len(piece) - 16))
    return piece[: unfinished.start()] if unfinished else piece


def _advance(mark: Mark, piece: bytes) -> Mark:
    end = mark.offset + len(piece)
    if b"\x1b[" not in piece:
        row = mark.row + piece.count(b"\n")
        return Mark(end, row, max(mark.lowest, row))
    row, lowest = mark.row, mark.lowest
    for move in _MOVE.finditer(piece):
        row = _moved(move, row, lowest)
        lowest = max(lowest, row)
    return Mark(end, row, lowest)


def _first_in_row(mark: Mark, piece: bytes, wanted: int) -> int:
    row, lowest, begin = mark.row, mark.lowest, 0
    for move in _MOVE.finditer(piece):
        row = _moved(move, row, lowest)
        if row > lowest:
            lowest, begin = row, move.end()
            if row >= wanted:
                return begin
    return begin


def _moved(move: re.Match[bytes], row: int, lowest: int) -> int:
    if move[2] is None:
        return row + 1
    times = max(1, int(move[1] or 1))
    if move[2] in b"AF":
        return max(row - times, lowest - LOOK_BACK + 1, 0)
    return min(row + times, max(0, lowest - LOOK_BACK + 1) + LOOK_BACK - 1)
