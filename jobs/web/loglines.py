"""Which line of a log is at which byte, as its terminal would number it: a page shows the end of a long log first.

A line is a row: `\\n` goes one down, cursor-up goes back, as jobs.terminal has it, so that numbers on the page and in the
text view agree. What was cut out of a log is one line, which nothing can be written over. Logs are only appended to, so
what was counted once stays right until a (larger) cut is made.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from gpuworker.disks import Cut
from jobs import logs
from jobs.terminal import LOOK_BACK

PIECE_BYTES = 1 << 20
MOST_LOGS = 64
_JUMP = re.compile(rb"\x1b\[([0-9]{0,9})([ABEF])")
_MOVE = re.compile(rb"\n|" + _JUMP.pattern)
_ESCAPE = re.compile(rb"\x1b\[[0-9]{0,9}\Z|\x1b\Z")


@dataclass(frozen=True, slots=True)
class Mark:
    """Up to `offset`, the cursor is in row `row` (0 is the first), and the lowest row so far is `lowest`."""

    offset: int = 0
    row: int = 0
    lowest: int = 0
    top: int = 0
    """No cursor goes above this row: what is there was cut out."""
    fresh: bool = True
    """The lowest row is empty: its line has just begun."""


@dataclass(slots=True)
class _Marks:
    """One mark a piece of the log, in order, and one on each side of its cut."""

    cut: Cut | None = None
    known: list[Mark] = field(default_factory=lambda: [Mark()])
    lock: threading.Lock = field(default_factory=threading.Lock)


_cache: OrderedDict[tuple[int, int], _Marks] = OrderedDict()
_cache_lock = threading.Lock()


def line_at(job_id: int, attempt: int, offset: int) -> int:
    """The number (from 1) of the line that the byte at `offset` belongs to."""
    mark = Mark()
    for each in _marks(job_id, attempt):
        if each.offset > offset:
            break
        mark = each
    return _advance(mark, _bytes(job_id, attempt, mark, offset - mark.offset) or b"").row + 1


def offset_of(job_id: int, attempt: int, line: int) -> int:
    """The byte at which a line (from 1) begins; that of the last line where the log has fewer."""
    before = Mark()
    for mark in _marks(job_id, attempt):
        if mark.top and mark.top == line - 1:
            return mark.offset
        if mark.lowest >= line - 1:
            break
        before = mark
    if before.lowest >= line - 1:
        return 0
    piece = _bytes(job_id, attempt, before, 2 * PIECE_BYTES)
    if piece is None:
        return before.offset  # What was cut out is a line of its own.
    begin = _first_in_row(before, piece, line - 1)
    if not begin and before.offset:  # no line begins behind this mark: the last one begins before it
        return offset_of(job_id, attempt, before.lowest + 1)
    return before.offset + begin


def _bytes(job_id: int, attempt: int, mark: Mark, count: int) -> bytes | None:
    """What follows on a mark, up to the cut; None where the cut follows."""
    found = logs.piece(job_id, attempt, mark.offset, max(0, min(count, 2 * PIECE_BYTES)))
    return found.data if found.offset == mark.offset else None


def _marks(job_id: int, attempt: int) -> Iterator[Mark]:
    """Marks from the beginning to the end of the stored log, counted as far as they are asked for."""
    marks = _remembered(job_id, attempt)
    index = 0
    while True:
        with marks.lock:
            if index == len(marks.known) and not _count_on(marks, job_id, attempt):
                return
            mark = marks.known[index]
        yield mark
        index += 1


def _remembered(job_id: int, attempt: int) -> _Marks:
    cut = logs.cut_of(job_id, attempt)
    with _cache_lock:
        marks = _cache.setdefault((job_id, attempt), _Marks(cut))
        if marks.cut != cut:
            marks = _cache[job_id, attempt] = _Marks(cut)
        _cache.move_to_end((job_id, attempt))
        while len(_cache) > MOST_LOGS:
            _cache.popitem(last=False)
    return marks


def _count_on(marks: _Marks, job_id: int, attempt: int) -> bool:
    """Add the next mark; False where the rest is still growing."""
    last = marks.known[-1]
    found = logs.piece(job_id, attempt, last.offset, PIECE_BYTES)
    if found.offset > last.offset:
        marks.known.append(_behind_cut(last, found.offset))
    elif marks.cut and found.end == marks.cut.begin and found.data:
        marks.known.append(_advance(last, found.data))
    elif len(found.data) == PIECE_BYTES:
        marks.known.append(_advance(last, _whole(found.data)))
    else:
        return False
    return True


def _behind_cut(mark: Mark, offset: int) -> Mark:
    """Below the line that stands for what was cut out."""
    row = mark.lowest + (1 if mark.fresh else 2)
    return Mark(offset, row, row, top=row)


def _whole(piece: bytes) -> bytes:
    """Without an escape sequence that goes on in the next piece."""
    unfinished = _ESCAPE.search(piece, max(0, len(piece) - 16))
    return piece[: unfinished.start()] if unfinished else piece


def _advance(mark: Mark, piece: bytes) -> Mark:
    if not piece:
        return mark
    end, row, lowest = mark.offset + len(piece), mark.row, mark.lowest
    counted = 0
    for move in _JUMP.finditer(piece):
        row += piece.count(b"\n", counted, move.start())
        lowest, counted = max(lowest, row), move.end()
        row = _jumped(move, row, mark.top, lowest)
        lowest = max(lowest, row)
    row += piece.count(b"\n", counted)
    lowest = max(lowest, row)
    return Mark(end, row, lowest, mark.top, fresh=row == lowest and piece.endswith(b"\n"))


def _first_in_row(mark: Mark, piece: bytes, wanted: int) -> int:
    row, lowest, begin = mark.row, mark.lowest, 0
    for move in _MOVE.finditer(piece):
        row = row + 1 if move[2] is None else _jumped(move, row, mark.top, lowest)
        if row > lowest:
            lowest, begin = row, move.end()
            if row >= wanted:
                return begin
    return begin


def _jumped(move: re.Match[bytes], row: int, top: int, lowest: int) -> int:
    times = max(1, int(move[1] or 1))
    if move[2] in b"AF":
        return max(row - times, lowest - LOOK_BACK + 1, top)
    return min(row + times, max(top, lowest - LOOK_BACK + 1) + LOOK_BACK - 1)
