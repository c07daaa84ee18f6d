"""The difference that a swap makes, for people: unified, and bounded in time and size whatever the files are."""

from __future__ import annotations

import difflib
import io
from pathlib import Path

LARGEST_FILE = 256 * 1024
LARGEST_DIFF = 16 * 1024
MOST_COMPARED = 250_000
"""Lines of one side times lines of the other, without what they have in common at both ends."""
_Change = tuple[str, int, int, int, int]
CONTEXT = 3
CUT = "… the rest is not shown\n"


def between(old: Path, new: Path, name: str, *, most: int = LARGEST_DIFF) -> tuple[str, str]:
    """The difference, and a word where there is none to show. `old` may be absent: then everything is new."""
    sides: list[list[str]] = []
    for path in (old, new):
        text = _text(path)
        if text is None:
            return "", "It is not text, or too large to show a difference."
        sides.append(list(io.StringIO(text, newline="\n")))
    lines = unified(sides[0], sides[1], name)
    if not lines:
        return "", "Its content is the same as before."
    shown: list[str] = []
    size = 0
    for line in lines:
        size += len(line.encode())
        if size > most:
            return "".join([*shown, CUT]), ""
        shown.append(line)
    return "".join(shown), ""


def unified(old: list[str], new: list[str], name: str) -> list[str]:
    """Lines of a unified diff. Parts that are too long to be compared are shown one after the other."""
    start = _common(old, new)
    end = _common(old[start:][::-1], new[start:][::-1])
    lead, tail = max(0, start - CONTEXT), max(0, end - CONTEXT)
    mine, theirs = old[lead : len(old) - tail], new[lead : len(new) - tail]
    if mine == theirs:
        return []
    lines = [f"--- {name} (original)\n", f"+++ {name}\n"]
    for group in _groups(mine, theirs):
        lines.append(f"@@ -{_range(group[0][1], group[-1][2], lead)} +{_range(group[0][3], group[-1][4], lead)} @@\n")
        for tag, i, j, k, m in group:
            if tag == "equal":
                lines += (f" {line}" for line in mine[i:j])
            else:
                lines += (f"-{line}" for line in mine[i:j])
                lines += (f"+{line}" for line in theirs[k:m])
    return [line if line.endswith("\n") else f"{line}\n" for line in lines]


def _groups(mine: list[str], theirs: list[str]) -> list[list[_Change]]:
    if len(mine) * len(theirs) > MOST_COMPARED:
        return [[("replace", 0, len(mine), 0, len(theirs))]]
    return [list(group) for group in difflib.SequenceMatcher(None, mine, theirs).get_grouped_opcodes(CONTEXT)]


def _range(first: int, end: int, lead: int) -> str:
    """Where a group lies on one side, as a diff says it: the first line and how many."""
    return f"{lead + first + (1 if end > first else 0)},{end - first}"


def _text(path: Path) -> str | None:
    try:
        if path.stat().st_size > LARGEST_FILE:
            return None
        text = path.read_bytes().decode()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError):
        return None
    return None if "\0" in text else text


def _common(one: list[str], other: list[str]) -> int:
    """How many lines two lists have in common at their beginning."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _ended(line: str) -> str:
    return line if line.endswith("\n") else line + "\n"
