"""The last Python traceback in a piece of a log."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BEGIN = re.compile(r"^(?P<prefix>(?:\[[^\]]{1,40}\]:?\s?)?)Traceback \(most recent call last\):\s*$")
_FILE = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)')
_RAISED = re.compile(r"^(?P<exception>[A-Za-z_][\w.]*)(?::\s?(?P<message>.*))?$")
_NOT_OURS = ("/site-packages/", "/dist-packages/", "/lib/python", "<frozen ")
LONGEST_LINES = 200


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
        return f"{said[:300]} at {self.where}" if self.where else said[:300]


def last_traceback(text: str) -> Traceback | None:
    """The last one that is whole: the exception it ends with is the one that was not caught, causes before it among its lines."""
    lines = text.splitlines()
    for begin in range(len(lines) - 1, -1, -1):
        if (match := _BEGIN.match(lines[begin])) and (found := _read(lines, begin, match["prefix"])):
            return found
    return None


def _read(lines: list[str], begin: int, prefix: str) -> Traceback | None:
    where = ""
    for at in range(begin + 1, min(len(lines), begin + LONGEST_LINES)):
        line = lines[at].removeprefix(prefix) if prefix else lines[at]
        if frame := _FILE.match(line):
            if not any(part in frame["file"] for part in _NOT_OURS):
                where = f"{frame['file'].rsplit('/', 1)[-1]}:{frame['line']}"
        elif line[:1] not in (" ", "\t", ""):
            raised = _RAISED.match(line)
            if raised is None:
                return None
            exception = raised["exception"].rsplit(".", 1)[-1]
            return Traceback(tuple(lines[begin : at + 1]), begin, exception, (raised["message"] or "").strip(), where)
    return None
