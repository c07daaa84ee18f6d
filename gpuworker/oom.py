"""Finds the words "out of memory" in a log that arrives in pieces, and how much the process says that it had then."""

from __future__ import annotations

import re

WORDS = b"out of memory"
_SENTENCE_BYTES = 1024
"""How far behind the words PyTorch's message may say what the process had."""
_IN_USE = re.compile(rb"this process has ([0-9]{1,7}(?:\.[0-9]{1,6})?) ([mg])ib memory in use")
_MIB = {b"m": 1.0, b"g": 1024.0}


class OomDetector:
    """Case-insensitive, and across the borders of what it is fed. Keeps no more than it needs for that."""

    __slots__ = ("_tail", "found", "in_use_mib")

    def __init__(self) -> None:
        self.found = False
        self.in_use_mib: int | None = None
        """What the process itself says it had on its device when it ran out: the looks at the device may all have missed it."""
        self._tail: bytes | None = b""

    def feed(self, data: bytes) -> None:
        if self._tail is None:
            return
        text = self._tail + data.lower()
        begin = 0 if self.found else text.find(WORDS)
        if begin < 0:
            self._tail = text[-(len(WORDS) - 1) :]
            return
        self.found = True
        self._read_in_use(text[begin : begin + _SENTENCE_BYTES])

    def _read_in_use(self, sentence: bytes) -> None:
        if said := _IN_USE.search(sentence):
            self.in_use_mib = round(float(said[1]) * _MIB[said[2]])
        self._tail = None if said or len(sentence) >= _SENTENCE_BYTES else sentence

    def cut(self) -> None:
        """What comes next does not follow on what came before: the log was truncated."""
        self._tail = None if self.found else b""
