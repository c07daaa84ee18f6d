"""The last Python traceback in a piece of a log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_PREFIX = r"(?P<prefix>(?:\[[^\]]{1,40}\]:?\s?)?)"
"""Which rank said it, where a launcher says that before each line."""
_BEGIN = re.compile(rf"^(?:{_PREFIX}|.*\|[^|\[]*\[[^\]]*\])(?P<begin>Traceback \(most recent call last\):)\s*$")
"""Behind the bar too that was drawn when it happened: that line has not ended."""
_GROUP = re.compile(rf"^{_PREFIX}\s+\+ Exception Group Traceback \(most recent call last\):\s*$")
_WORDS = "Traceback (most recent call last):"
_IN_GROUP = re.compile(r"^\s*(?:\||\+[-+])")
_FILE = re.compile(r'^[\s|]*File "(?P<file>[^"]+)", line (?P<line>\d+)')
_RAISED = re.compile(r"^(?P<exception>[A-Za-z_][\w.<>]*)(?::\s?(?P<message>.*))?$")
_RAISED_GROUP = re.compile(r"^\s*\| (?P<exception>[A-Za-z_][\w.<>]*)(?::\s?(?P<message>.*))?$")
_CHAINED = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
_NOT_OURS = ("/site-packages/", "/dist-packages/", "/lib/python", "<frozen ")
LONGEST_LINES = 200
LONGEST_BEGIN = 1000
"""Characters of a line: hostile ones would keep the expressions busy."""


@dataclass(frozen=True, slots=True)
class Traceback:
    lines: tuple[str, ...]
    first_line: int
    """Its place in the text, from 0."""
    exception: str
    message: str
    where: str
    """`train.py:88`: the innermost frame in code that is not a library's; empty where there is none."""

    @property
    def headline(self) -> str:
        """`KeyError: 'lr' at train.py:88`."""
        said = f"{self.exception}: {self.message}" if self.message else self.exception
        return f"{said[:300].rstrip('.')} at {self.where}" if self.where else said[:300]


def last_traceback(text: str) -> Traceback | None:
    """The last one that is whole: the exception it ends with is the one that was not caught, causes before it among its lines."""
    lines = text.splitlines()
    for begin in range(len(lines) - 1, -1, -1):
        if match := _begins(lines[begin]):
            found = _read(lines, begin, match["prefix"] or "")
        elif _WORDS in lines[begin] and (match := _GROUP.match(lines[begin])):
            found = _read_group(lines, begin, match["prefix"])
        else:
            continue
        if found:
            return found
    return None


def _read(lines: list[str], begin: int, prefix: str) -> Traceback | None:
    where = ""
    for at, line in _said(lines, begin, prefix):
        if frame := _FILE.match(line):
            where = _where(frame) or where
        elif line[:1] not in (" ", "\t", ""):
            raised = _RAISED.match(line)
            if raised is None:
                return None
            return _found(lines, _with_causes(lines, begin, prefix), at, prefix, raised, where)
    return None


def _read_group(lines: list[str], begin: int, prefix: str) -> Traceback | None:
    """An exception group: what it is itself, and all that lies in it among its lines."""
    where, end, raised = "", begin, None
    for at, line in _said(lines, begin, prefix):
        if not _IN_GROUP.match(line):
            break
        end = at
        if raised is None and (frame := _FILE.match(line)):
            where = _where(frame) or where
        raised = raised or _RAISED_GROUP.match(line)
    return _found(lines, begin, end, prefix, raised, where) if raised else None


def _said(lines: list[str], begin: int, prefix: str) -> Iterator[tuple[int, str]]:
    """What follows, without the prefix; what other ranks say between is left out."""
    for at in range(begin + 1, min(len(lines), begin + LONGEST_LINES)):
        if lines[at].startswith(prefix):
            yield at, lines[at].removeprefix(prefix)


def _where(frame: re.Match[str]) -> str:
    return "" if any(part in frame["file"] for part in _NOT_OURS) else f"{frame['file'].rsplit('/', 1)[-1]}:{frame['line']}"


def _with_causes(lines: list[str], begin: int, prefix: str) -> int:
    """Where the first of the exceptions begins that led to this one."""
    least = max(0, begin - LONGEST_LINES)
    while _follows_another(lines, begin, least, prefix):
        earlier = (at for at in range(begin - 1, least - 1, -1) if (match := _begins(lines[at])) and (match["prefix"] or "") == prefix)
        if (found := next(earlier, None)) is None:
            break
        begin = found
    return begin


def _follows_another(lines: list[str], begin: int, least: int, prefix: str) -> bool:
    mine = (line.removeprefix(prefix.strip()).strip() for line in reversed(lines[least:begin]) if line.startswith(prefix.strip()))
    return next((line for line in mine if line), "") in _CHAINED


def _begins(line: str) -> re.Match[str] | None:
    return _BEGIN.match(line) if _WORDS in line and len(line) <= LONGEST_BEGIN else None


def _found(lines: list[str], begin: int, end: int, prefix: str, raised: re.Match[str], where: str) -> Traceback:
    shown = [line for line in lines[begin : end + 1] if line.startswith(prefix)]
    if match := _begins(shown[0]):
        shown[0] = (match["prefix"] or "") + match["begin"]
    return Traceback(tuple(shown), begin, raised["exception"].rsplit(".", 1)[-1], (raised["message"] or "").strip(), where)
