"""Finds the words "out of memory" in a log that arrives in pieces."""

from __future__ import annotations

WORDS = b"out of memory"


class OomDetector:
    """Case-insensitive, and across the borders of what it is fed. Keeps no more than it needs for that."""

    __slots__ = ("_tail", "found")

    def __init__(self) -> None:
        self.found = False
        self._tail = b""

    def feed(self, data: bytes) -> None:
        if self.found:
            return
        text = self._tail + data.lower()
        self.found = WORDS in text
        self._tail = text[-(len(WORDS) - 1) :]

    def cut(self) -> None:
        """What comes next does not follow on what came before: the log was truncated."""
        self._tail = b""
