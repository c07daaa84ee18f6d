"""Searching a stored log: plain text, without regard to case, in bounded time and memory however long the log is."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from jobs import logs

PIECE_BYTES = 4 << 20
MOST_HITS = 100
LONGEST_TEXT = 200
AROUND_BYTES = 160
_ESCAPES = re.compile(rb"\x1b\[[0-9;:?]*[A-Za-z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f]")


@dataclass(frozen=True, slots=True)
class Hit:
    offset: int
    before: str
    match: str
    after: str


@dataclass(frozen=True, slots=True)
class Found:
    hits: tuple[Hit, ...]
    next_at: int | None
    """Where to go on; None: the log was searched to its end."""


def find(job_id: int, attempt: int, text: str, *, at: int = 0, most_s: float = 1.5, clock: Callable[[], float] = time.monotonic) -> Found:
    """The first hit of each line from the byte `at` on; stops at MOST_HITS or when the time is over."""
    needle, until = text.encode().lower(), clock() + most_s
    hits: list[Hit] = []
    rest, begin = b"", at
    while (piece := logs.piece(job_id, attempt, at, PIECE_BYTES)).data:
        if piece.offset > at:  # The middle was cut out: nothing goes on across it.
            rest, begin = b"", piece.offset
        data = rest + piece.data
        lower, place = data.lower(), 0
        while (place := lower.find(needle, place)) >= 0:
            hits.append(_hit(data, place, len(needle), begin))
            end = data.find(b"\n", place)
            if len(hits) >= MOST_HITS:
                return Found(tuple(hits), begin + (end + 1 if end >= 0 else place + len(needle)))
            if end < 0:
                break
            place = end + 1
        at = piece.end
        if clock() > until:
            return Found(tuple(hits), at)
        keep = data[-(len(needle) - 1) :] if len(needle) > 1 and place < 0 else b""
        rest, begin = keep, at - len(keep)
    return Found(tuple(hits), None)


def _hit(data: bytes, place: int, length: int, begin: int) -> Hit:
    first = max(data.rfind(b"\n", 0, place), data.rfind(b"\r", 0, place)) + 1
    ends = [end for end in (data.find(b"\n", place + length), data.find(b"\r", place + length)) if end >= 0]
    last = min(ends, default=len(data))
    before, after = data[max(first, place - AROUND_BYTES) : place], data[place + length : min(last, place + length + AROUND_BYTES)]
    return Hit(begin + place, _shown(before), _shown(data[place : place + length]), _shown(after))


def _shown(data: bytes) -> str:
    return _ESCAPES.sub(b"", data).decode(errors="replace")
