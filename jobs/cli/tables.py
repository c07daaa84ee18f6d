"""Tables for people, tab-separated text for programs, JSON for both."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

from .safe import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    Row = Mapping[str, Any]

BOLD, DIM, RED, GREEN, YELLOW, BLUE = "1", "2", "31", "32", "33", "34"

STATE_COLOURS = {
    **dict.fromkeys(("starting", "running", "claimed"), BLUE),
    **dict.fromkeys(("completed", "free", "up"), GREEN),
    **dict.fromkeys(("stopping", "busy_external", "draining", "unreachable"), YELLOW),
    **dict.fromkeys(("failed", "timed_out", "host_lost", "exit_lost", "launch_failed", "lost"), RED),
    **dict.fromkeys(("cancelled", "drained", "unknown", "held"), DIM),
}


class Column:
    """`plain` is the value for programs; `shown`, where people read it otherwise. None and "" are written as `-`."""

    __slots__ = ("plain", "right", "shown", "title")

    def __init__(self, title: str, plain: Callable[[Row], Any], shown: Callable[[Row], Any] | None = None, *, right: bool = False) -> None:
        self.title, self.plain, self.shown, self.right = title, plain, shown or plain, right


def is_terminal(out: TextIO | None = None) -> bool:
    return (out or sys.stdout).isatty()


def coloured(out: TextIO | None = None) -> bool:
    return is_terminal(out) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, *, on: bool) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if on and colour and text else text


def print_json(found: Any) -> None:
    """The API's own objects, unaltered."""
    print(json.dumps(found, indent=2, ensure_ascii=not _prints_unicode()))


def _prints_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def print_rows(columns: Sequence[Column], rows: Iterable[Row]) -> None:
    if is_terminal():
        print("\n".join(table(columns, list(rows), width=size().columns, colours=coloured())))
    else:
        sys.stdout.write("".join(tab_separated(columns, row) for row in rows))


def tab_separated(columns: Sequence[Column], row: Row) -> str:
    """One line without a heading. An empty field is `-`: a shell's `read` would lose it."""
    return "\t".join(_cell(column.plain(row)) for column in columns) + "\n"


def table(columns: Sequence[Column], rows: Sequence[Row], *, width: int, colours: bool) -> list[str]:
    """Lines; the last column gets what is left of the width."""
    cells = [[_cell(column.shown(row)) for column in columns] for row in rows]
    widths = [max(measure(text) for text in (column.title, *(line[i] for line in cells))) for i, column in enumerate(columns)]
    widths[-1] = max(width - sum(widths[:-1]) - 2 * (len(columns) - 1), len(columns[-1].title), 8)
    heading = "  ".join(_fitted(c.title, w, right=c.right) for c, w in zip(columns, widths, strict=True))
    lines = [paint(heading.rstrip(), BOLD, on=colours)]
    for line in cells:
        fitted = [_fitted(text, w, right=c.right) for text, c, w in zip(line, columns, widths, strict=True)]
        painted = [paint(each, STATE_COLOURS.get(text, ""), on=colours) for each, text in zip(fitted, line, strict=True)]
        lines.append("  ".join(painted).rstrip())
    return lines


def _cell(value: Any) -> str:
    return "-" if value is None or value == "" else visible(value)


def _fitted(text: str, width: int, *, right: bool) -> str:
    if measure(text) > width:
        while text and measure(text) > width - 1:
            text = text[:-1]
        text += "…"
    space = " " * (width - measure(text))
    return space + text if right else text + space


def measure(text: str) -> int:
    """Columns on a terminal: Chinese characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def size() -> os.terminal_size:
    try:
        found = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        return os.terminal_size((80, 24))
    return found if found.columns else os.terminal_size((80, 24))
