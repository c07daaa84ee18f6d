"""Text from elsewhere, made fit for a terminal: colours and progress bars stay, everything else that would steer it goes.

What a job prints is not ours to trust: a terminal obeys whoever writes to it (its title, its clipboard, lines that were
printed before). So only this passes: colours, "erase this line", moves within a line, and up and down within what we printed.
"""

from __future__ import annotations

import codecs
import re

LONGEST_SEQUENCE = 4096
MOST_LINES_UP = 200

_CONTROL = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
"""C0 and C1 but tab, line feed and return; and what turns the direction of text."""
_TOKEN = re.compile(
    r"\x1b\[(?P<arguments>[0-?]*)[ -/]*(?P<final>[@-~])"
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"
    r"|\x1b[ -/]*[0-OQ-WYZ`-~\\]"
    rf"|(?P<control>{_CONTROL})"
)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)\Z")
_WITHIN_LINE = "KCDGP@X"


def visible(text: object) -> str:
    """One line of text with nothing in it that a terminal would obey."""
    return re.sub(rf"{_CONTROL}|[\t\n\r]", _shown, str(text))


def _shown(found: re.Match[str]) -> str:
    """As `cat -v` writes it; a space for what only separates."""
    code = ord(found[0])
    if found[0] in "\t\n\r":
        return " "
    return f"^{chr(code ^ 64)}" if code < 32 or code == 127 else f"<{code:02X}>"


class Safe:
    """A running log, piece by piece: sequences and characters may be split between pieces."""

    def __init__(self, *, colours: bool = True) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._colours, self._coloured = colours, False
        self._rest = ""
        self._above = self._below = 0
        """Lines of ours above and below the cursor."""

    def feed(self, data: bytes, *, final: bool = False) -> str:
        text = self._rest + self._decoder.decode(data, final)
        self._rest = ""
        if not final and (found := _UNFINISHED.search(text)) and len(text) - found.start() < LONGEST_SEQUENCE:
            text, self._rest = text[: found.start()], text[found.start() :]
        return self._made_safe(text)

    def end(self) -> str:
        """What was held back, and the terminal's own colours again."""
        return self.feed(b"", final=True) + ("\x1b[0m" if self._coloured else "")

    def _made_safe(self, text: str) -> str:
        made, at = [], 0
        for found in _TOKEN.finditer(text):
            plain = text[at : found.start()]
            self._count(plain)
            made += [plain, self._passed(found)]
            at = found.end()
        self._count(text[at:])
        return "".join([*made, text[at:]])

    def _count(self, plain: str) -> None:
        lines = plain.count("\n")
        self._above = min(self._above + lines, MOST_LINES_UP)
        self._below = max(self._below - lines, 0)

    def _passed(self, found: re.Match[str]) -> str:
        if found["control"]:
            return _kept_control(found)
        arguments, final = found["arguments"] or "", found["final"] or ""
        if not re.fullmatch(r"[0-9;:]*", arguments):
            return ""
        if final == "m" and self._colours:
            self._coloured = True
            return found[0]
        if final in ("A", "B"):
            return self._moved(min(int(arguments or 1), MOST_LINES_UP) if arguments.isdecimal() or not arguments else 1, up=final == "A")
        return found[0] if final and final in _WITHIN_LINE else ""

    def _moved(self, lines: int, *, up: bool) -> str:
        lines = min(max(lines, 1), self._above if up else self._below)
        self._above += -lines if up else lines
        self._below += lines if up else -lines
        return f"\x1b[{lines}{'A' if up else 'B'}" if lines else ""


def _kept_control(found: re.Match[str]) -> str:
    if found[0] == "\b":
        return "\b"
    return "" if found[0] in "\x00\x07" else _shown(found)
