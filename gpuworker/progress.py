"""How far a training is, read from what it prints anyway: `Epoch 3/10`, `step 50/200`, bars as tqdm and Keras draw them.

No code in the training, and honest: None where the log does not tell, such as a bar for one epoch of an unknown number.
A log that floods costs little: of each piece only the last line with an epoch and the last few lines are looked at.
"""

from __future__ import annotations

import re

_LOOKED_AT_BYTES = 2048
"""Of the end of each piece; a line that is longer is no progress line."""

_COUNT = rb"(\d{1,9})\s*(?:/|of)\s*(\d{1,9})"
_EPOCH = re.compile(rb"\bepochs?\W{0,4}" + _COUNT, re.IGNORECASE)
_STEP = re.compile(rb"\b(?:global[ _])?(?:step|iter|iteration|batch)s?\W{0,4}" + _COUNT, re.IGNORECASE)
_ROW = re.compile(rb"^\s*" + _COUNT + rb"\s")  # Ultralytics: the epoch stands alone at the beginning of its bar
_BAR = re.compile(rb"(\d{1,3})(?:\.\d+)?\s?%\s?\|")
_ELAPSED = re.compile(rb"\[(?:(\d+):)?(\d{1,2}):(\d{2})<")
_INSIDE = re.compile(rb"(?<![\d/.:-])" + _COUNT + rb"(?![\d/.:-])")
_METRIC = re.compile(rb"[A-Za-z_]\w*\s*[:=]\s*[-+]?\d")
_COLOUR = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")


class ProgressReader:
    """Fed with a log in pieces; `fraction` is 0…1, or None where nothing has told it."""

    __slots__ = ("_bar", "_bar_elapsed_s", "_epoch", "_inner", "_rest", "_zero_based", "fraction")

    def __init__(self) -> None:
        self.fraction: float | None = None
        self._epoch: tuple[int, int] | None = None
        self._zero_based = False
        self._inner = 0.0
        self._bar: float | None = None
        self._bar_elapsed_s = -1
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """What was written next. Lines may be cut anywhere."""
        text = self._rest + data
        tail = text[-_LOOKED_AT_BYTES:]
        if len(text) > len(tail):
            self._read_last_epoch(text[: len(text) - len(tail)])
        *lines, self._rest = re.split(rb"[\r\n]+", tail)
        for line in lines:
            self._read(line)
        self._read(self._rest, whole=False)

    def cut(self) -> None:
        """What comes next does not follow on what came before."""
        self._rest = b""

    def _read_last_epoch(self, text: bytes) -> None:
        at = max(text.rfind(b"poch"), text.rfind(b"POCH"))
        if at >= 0:
            begin = max(text.rfind(b"\n", 0, at), text.rfind(b"\r", 0, at)) + 1
            self._read(re.split(rb"[\r\n]", text[begin : begin + _LOOKED_AT_BYTES], maxsplit=1)[0])

    def _read(self, line: bytes, *, whole: bool = True) -> None:
        if b"\x1b" in line:
            line = _COLOUR.sub(b"", line)
        bar = _last(_BAR, line)
        if bar is None and not whole:
            return  # `Epoch 1` of `Epoch 10/10` would be read wrong; a bar moves in place and may never end its line
        epoch = _EPOCH.search(line) or (_ROW.match(line) if bar else None)
        if epoch and (counted := _counted(epoch)):
            self._at_epoch(counted, line[epoch.end() :], bar)
        elif bar:
            self._at_bar(min(1.0, int(bar[1]) / 100), line)
        elif (step := _STEP.search(line)) and (counted := _counted(step)):
            self._at_step(counted[0] / counted[1])

    def _at_epoch(self, epoch: tuple[int, int], rest: bytes, bar: re.Match[bytes] | None) -> None:
        if epoch != self._epoch:
            self._epoch, self._inner = epoch, 0.0
        self._zero_based = epoch[0] == 0 or (self._zero_based and epoch[0] < epoch[1])
        if bar:
            inner = min(1.0, int(bar[1]) / 100)
        elif (inside := _INSIDE.search(rest)) and (counted := _counted(inside)):
            inner = counted[0] / counted[1]
        else:
            inner = 1.0 if _METRIC.search(rest) else 0.0  # results are printed when it is over
        self._within_epoch(inner)

    def _within_epoch(self, inner: float) -> None:
        """A second bar in the same epoch (validation) takes nothing back."""
        number, total = self._epoch or (0, 1)
        self._inner = max(self._inner, inner)
        before = number if self._zero_based else number - 1
        self.fraction = min(1.0, max(0.0, (before + self._inner) / total))

    def _at_bar(self, share: float, line: bytes) -> None:
        """Of nested bars the one that has run longest tells how far the whole is."""
        if self._epoch:
            self._within_epoch(share)
            return
        if re.search(rb"\bepoch\b", line, re.IGNORECASE):
            return  # one epoch of nobody knows how many
        found = _ELAPSED.search(line)
        elapsed_s = int(found[1] or 0) * 3600 + int(found[2]) * 60 + int(found[3]) if found else 0
        if self._bar is None or self._bar >= 1.0 or elapsed_s >= self._bar_elapsed_s:
            self._bar, self._bar_elapsed_s = share, elapsed_s
            self.fraction = share

    def _at_step(self, share: float) -> None:
        if self._epoch:
            self._within_epoch(share)
        else:
            self.fraction = share


def _counted(match: re.Match[bytes]) -> tuple[int, int] | None:
    number, total = int(match[1]), int(match[2])
    return (number, total) if total > 0 and number <= total else None


def _last(pattern: re.Pattern[bytes], line: bytes) -> re.Match[bytes] | None:
    """tqdm in a shared line may have drawn more than once."""
    return next(reversed(list(pattern.finditer(line))), None)
