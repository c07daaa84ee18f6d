"""What a mail shows of a log: its last lines, the traceback or the words that matter, and all of it but progress bars, packed."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass

from jobs import logs
from jobs.models import Attempt
from jobs.progressfilter import news_of, without_progress
from jobs.terminal import Terminal
from jobs.tracebacks import Traceback, last_traceback

LAST_LINES = 40
LONGEST_SHOWN = 400
"""Characters of a line in the mail's own text; the attachment has all of it."""
END_BYTES = 256 * 1024
LARGEST_PACKED = 10 * 2**20
HEAD_BYTES, TAIL_BYTES = 24 * 2**20, 40 * 2**20
"""What is read of a log that is longer than both together: filtering a gigabyte would take minutes."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    lines: tuple[str, ...]
    traceback: Traceback | None
    oom: str
    """The line that says that memory ran out; empty where none does."""


def excerpt(attempt: Attempt) -> Excerpt:
    size = logs.size(attempt.job_id, attempt.number)
    begin = max(0, size - END_BYTES)
    screen = Terminal()
    text = "".join(screen.feed(data) for data in _pieces(attempt, begin, size)) + screen.finish()
    lines = text.splitlines()[1 if begin else 0 :]
    traceback = last_traceback("\n".join(lines))
    oom = next((line.strip() for line in reversed(lines) if "out of memory" in line.lower()), "")
    said = [line.rstrip()[:LONGEST_SHOWN] for line in _collapsed(lines)]
    return Excerpt(tuple(said[-LAST_LINES:]), traceback, oom[:LONGEST_SHOWN])


def _collapsed(lines: list[str]) -> Iterator[str]:
    """Of bars that follow on each other the last one alone."""
    for line, following in zip(lines, [*lines[1:], ""], strict=False):  # No lines: nothing follows on nothing.
        if news_of(line) is not None or news_of(following) is not None:
            yield line


def packed(attempt: Attempt) -> tuple[bytes, str]:
    """The log without its progress bars, gzipped, at most LARGEST_PACKED; and what was left out, as a sentence."""
    size = logs.size(attempt.job_id, attempt.number)
    if size <= HEAD_BYTES + TAIL_BYTES:
        whole = gzip.compress("".join(without_progress(_pieces(attempt, 0, size))).encode(), 6)
        if len(whole) <= LARGEST_PACKED:
            return whole, ""
    half = LARGEST_PACKED // 2 - 4096
    head = _first(_pieces(attempt, 0, min(size, HEAD_BYTES)), half)
    tail = _last(_pieces(attempt, max(0, size - TAIL_BYTES), size), half)
    cut = f"Only its beginning and its end are attached: it has {size:,} bytes."
    return head + gzip.compress(f"\n[… {cut} …]\n\n".encode()) + tail, cut


def _first(pieces: Iterator[bytes], most: int) -> bytes:
    """As many lines from the beginning as fit, packed: gzip members may follow on each other."""
    text = "".join(without_progress(pieces))
    data = gzip.compress(text.encode(), 6)
    while len(data) > most:
        text = text[: int(len(text) * most / len(data) * 0.95)]
        data = gzip.compress(text[: text.rfind("\n") + 1].encode(), 6)
    return data


def _last(pieces: Iterator[bytes], most: int) -> bytes:
    text = "".join(without_progress(pieces))
    data = gzip.compress(text.encode(), 6)
    while len(data) > most:
        text = text[-int(len(text) * most / len(data) * 0.95) :]
        data = gzip.compress(text[text.find("\n") + 1 :].encode(), 6)
    return data


def _pieces(attempt: Attempt, begin: int, end: int) -> Iterator[bytes]:
    at = begin
    while at < end and (piece := logs.piece(attempt.job_id, attempt.number, at, min(logs.PIECE_BYTES, end - at))).data:
        if piece.offset > at:
            yield f"\n{logs.cut_line(piece.offset - at)}\n".encode()
        yield piece.data
        at = piece.end
