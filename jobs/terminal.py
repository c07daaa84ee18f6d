"""What a terminal would show in the end: a small line emulator for logs with progress bars.

A log goes in as bytes, in chunks cut anywhere, and its text comes out. Applied: CR, LF, backspace, tabs, cursor up, down,
forward, back and to a column, erase in line and below. Dropped: colours and every other escape sequence.

Bounded on purpose: only the last LOOK_BACK rows can still change, everything above has left. A row that grows beyond
MAX_COLUMNS leaves in pieces; CR then returns to the beginning of its last piece, as where a real terminal wraps.

A log is no terminal stream: `\\n` alone also returns to column 0 (the terminal driver's `onlcr`).
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from typing import NamedTuple

LOOK_BACK = 50
MAX_COLUMNS = 1 << 16
_MAX_ESCAPE = 4096  # characters of an unfinished sequence that are kept for the next chunk

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_TOKEN = re.compile(
    r"(?P<text>[^\x00-\x1f\x7f-\x9f]+)"
    r"|(?:\x1b\[|\x9b)(?P<params>[0-?]*)(?P<middle>[ -/]*)(?P<final>[@-~])"
    r"|(?:\x1b[]P^_X]|[\x9d\x90\x9e\x9f\x98])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|(?=\x1b))"  # OSC, DCS and their kind
    r"|\x1b[ -/]*[0-OQ-WYZ`-~\\]"
    r"|(?P<control>.)",
    re.DOTALL,
)
_UNFINISHED = re.compile(
    r"(?:(?:\x1b\[|\x9b)[0-?]*[ -/]*|(?:\x1b[]P^_X]|[\x9d\x90\x9e\x9f\x98])[^\x07\x1b\x9c]*\x1b?|\x1b[ -/]*)\Z", re.DOTALL
)
_SECOND_HALF = "\0"
"""Stands for the second column of a wide character, so that an index into a row is a column."""


class _Move(NamedTuple):
    rows: int = 0
    columns: int = 0
    to_start: bool = False


_MOVES = {
    "A": _Move(rows=-1),
    "B": _Move(rows=1),
    "C": _Move(columns=1),
    "D": _Move(columns=-1),
    "E": _Move(rows=1, to_start=True),
    "F": _Move(rows=-1, to_start=True),
    "a": _Move(columns=1),
    "e": _Move(rows=1),
}


class Terminal:
    """Feed it a log; what comes out can no longer change."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rows = [""]
        self._row = 0
        self._column = 0
        self._held = ""

    def feed(self, data: bytes) -> str:
        """Take the next bytes; returns the text that they push out of reach."""
        return self._take(self._decoder.decode(data))

    def finish(self) -> str:
        """The rest of the text. An unfinished character shows as U+FFFD, an unfinished escape sequence not at all."""
        out = [self._take(self._decoder.decode(b"", final=True)), "\n".join(map(_shown, self._rows))]
        self._rows, self._row, self._column, self._held = [""], 0, 0, ""
        return "".join(out)

    def _take(self, text: str) -> str:
        out: list[str] = []
        first, *others = (self._held + text).split("\n")
        self._held = ""
        self._line(first, out)
        for line in others:
            self._held = ""  # no escape sequence goes on over the end of a line: a stray one must not swallow the rest
            self._down(out)
            self._line(line, out)
        return "".join(out)

    def _line(self, text: str, out: list[str]) -> None:
        if _CONTROL.search(text) is None:
            self._write(text, out)
            return
        if unfinished := _UNFINISHED.search(text):
            held = unfinished[0]
            self._held = held if len(held) <= _MAX_ESCAPE else held[:2]
            text = text[: unfinished.start()]
        for token in _TOKEN.finditer(text):
            self._token(token, out)

    def _token(self, token: re.Match[str], out: list[str]) -> None:
        kind = token.lastgroup
        if kind == "text":
            self._write(token["text"], out)
        elif kind == "final":
            if not token["middle"]:
                self._sequence(token["params"], token["final"])
        elif kind == "control":
            self._control(token["control"], out)

    def _control(self, char: str, out: list[str]) -> None:
        if char == "\r":
            self._column = 0
        elif char == "\b":
            self._column = max(0, self._column - 1)
        elif char == "\t":
            self._column = min(self._column // 8 * 8 + 8, MAX_COLUMNS - 1)
        elif char in "\v\f":
            self._down(out)

    def _sequence(self, params: str, final: str) -> None:
        first = params.split(";")[0]
        number = int(first[:9]) if first.isdecimal() and first.isascii() else 0
        if move := _MOVES.get(final):
            self._move(move, max(1, number))
        elif final in "G`":
            self._column = min(max(1, number), MAX_COLUMNS) - 1
        elif final == "K":
            self._erase(number)
        elif final == "J" and number == 0:
            self._erase(0)
            self._rows[self._row + 1 :] = [""] * (len(self._rows) - self._row - 1)

    def _move(self, move: _Move, times: int) -> None:
        row = min(max(0, self._row + move.rows * times), LOOK_BACK - 1)
        self._rows.extend([""] * (row + 1 - len(self._rows)))
        self._row = row
        self._column = 0 if move.to_start else min(max(0, self._column + move.columns * times), MAX_COLUMNS - 1)

    def _erase(self, which: int) -> None:
        row, at = self._rows[self._row], self._column
        if which == 0:
            self._rows[self._row] = _cut(row, 0, at)
        elif which == 1:
            self._rows[self._row] = " " * (at + 1) + _cut(row, at + 1, len(row))
        elif which == 2:
            self._rows[self._row] = ""

    def _down(self, out: list[str]) -> None:
        """LF: one row down, where the look-back is full the topmost row leaves."""
        self._row += 1
        self._column = 0
        if self._row == len(self._rows):
            self._rows.append("")
        if len(self._rows) > LOOK_BACK:
            out.append(_shown(self._rows.pop(0)))
            out.append("\n")
            self._row -= 1

    def _write(self, text: str, out: list[str]) -> None:
        cells = _cells(text)
        while self._column + len(cells) > MAX_COLUMNS:
            cells = self._overflow(cells, out)
        row, at = self._rows[self._row], self._column
        end = at + len(cells)
        if at == 0 and end >= len(row):
            self._rows[self._row] = cells
        elif cells:
            self._rows[self._row] = _cut(row, 0, at).ljust(at) + cells + _cut(row, end, len(row))
        self._column = end

    def _overflow(self, cells: str, out: list[str]) -> str:
        """Let a row leave that is too long to keep; returns what of `cells` is still to be written."""
        if self._row < len(self._rows) - 1:
            return ""  # the cursor is in the middle of older rows: a terminal, too, shows only what fits
        room = MAX_COLUMNS - self._column
        row, at = self._rows.pop(), self._column
        out.extend(_shown(above) + "\n" for above in self._rows)
        out.append((_cut(row, 0, at).ljust(at) + cells[:room]).replace(_SECOND_HALF, ""))
        self._rows, self._row, self._column = [""], 0, 0
        return cells[room:]


def _cells(text: str) -> str:
    """One character for a column. Combining marks count as a column too: it matters only where they are overwritten."""
    if text.isascii():
        return text
    return "".join(c + _SECOND_HALF if unicodedata.east_asian_width(c) in "WF" else c for c in text)


def _cut(row: str, start: int, end: int) -> str:
    """The columns from `start` to `end`; a wide character that is cut in half leaves a blank."""
    part = row[start:end]
    if part.startswith(_SECOND_HALF):
        part = " " + part[1:]
    if end < len(row) and part and row[end] == _SECOND_HALF:
        part = part[:-1] + " "
    return part


def _shown(row: str) -> str:
    return row.replace(_SECOND_HALF, "").rstrip(" ")
