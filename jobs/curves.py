"""Curves of the numbers that a training prints, read from its stored log without any code in the training.

`loss: 0.31`, `val_loss=0.2`, `{'eval_loss': 0.1}`, `train/acc = 93.1%`: a name that speaks of something measured, and a number.
What was read is kept beside the log (`<attempt>.curves.json`) with how far it goes, so that a page reads only what is new.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs import logs, wholefile

MOST_CURVES = 12
MOST_POINTS = 1024
LONGEST_LINE = 64 * 1024
VERSION = 1

_MEASURED = (
    r"loss(?:es)?|acc(?:uracy)?|err(?:or)?|lr|learning[ _-]?rate|ppl|perplexity|f1|auc|auroc|m?ap(?:[ _@-]?\d+(?:[-:]\d+)?)?|m?iou|dice"
    r"|bleu|rouge[\w-]*|wer|cer|psnr|ssim|fid|rmse|mse|mae|nll|elbo|kl|r2|reward|return|score|precision|recall|grad[ _-]?norm|bpb"
    r"|bits[ _-]per[ _-]byte"
)
_PAIR = re.compile(
    rb"(?<![\w./%-])['\"]?((?:[A-Za-z][\w.-]{0,30}[/_. -]){0,3}(?:top[ _-]?\d[ _-])?(?:"
    + _MEASURED.encode()
    + rb")(?:[/_.-][\w.-]{1,20})?)"
    rb"['\"]?\s{0,3}(?:[:=]|\bis\b)\s{0,3}([-+]?(?:\d{1,15}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE][-+]?\d{1,3})?|[-+]?nan|[-+]?inf)(?![\w.])",
    re.IGNORECASE,
)
_STEMS = (
    *(
        b"loss",
        b"acc",
        b"err",
        b"lr",
        b"rate",
        b"ppl",
        b"perplex",
        b"f1",
        b"auc",
        b"ap",
        b"iou",
        b"dice",
        b"bleu",
        b"rouge",
        b"wer",
        b"cer",
    ),
    *(b"psnr", b"ssim", b"fid", b"mse", b"mae", b"nll", b"elbo", b"kl", b"r2", b"reward", b"return", b"score", b"precision", b"recall"),
    *(b"norm", b"bpb", b"per"),
)
_COLOURS = re.compile(rb"\x1b\[[0-9;:]*m")
_NOT_NAMES = frozenset({"epoch", "step", "iter", "the", "a", "best", "final", "current", "with", "info", "debug", "warning"})


@dataclass(slots=True)
class Curve:
    """Each point is the mean of `every` readings (the last one of those so far). A number that is none (nan) is None."""

    name: str
    every: int = 1
    points: list[float | None] = field(default_factory=list)
    waiting: list[float | None] = field(default_factory=list)
    last: float | None = None
    least: float | None = None
    most: float | None = None

    def add(self, value: float | None) -> None:
        self.last = value
        if value is not None:
            self.least = value if self.least is None else min(self.least, value)
            self.most = value if self.most is None else max(self.most, value)
        self.waiting.append(value)
        if len(self.waiting) >= self.every:
            self.points.append(_mean(self.waiting))
            self.waiting = []
            if len(self.points) >= 2 * MOST_POINTS:
                self.points = [_mean(self.points[i : i + 2]) for i in range(0, len(self.points), 2)]
                self.every *= 2


def worth_it(line: bytes) -> bool:
    """Whether a closer look at a line may find something: most have nothing, and this is ten times as fast."""
    if b"=" not in line and b":" not in line and b" is " not in line:
        return False
    lower = line.lower()
    return any(stem in lower for stem in _STEMS)


def found_in(line: bytes) -> list[tuple[str, float | None]]:
    """The names and numbers in a line, in its order; each name once. A number that is none is None."""
    found: dict[str, float | None] = {}
    for match in _PAIR.finditer(_COLOURS.sub(b"", line)):
        name = _name(match[1].decode(errors="replace"))
        value = float(match[2])
        found.setdefault(name, value if -1e300 < value < 1e300 else None)
    return list(found.items())


def _name(text: str) -> str:
    """Without words of the sentence that it stood in: `Epoch 3 - train loss` is `train loss`."""
    words = text.strip().lower().split()
    while len(words) > 1 and words[0].strip("-.,:") in _NOT_NAMES:
        words.pop(0)
    return " ".join(words)


# --- a stored log -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Reading:
    """What was read of a log up to `offset`."""

    offset: int = 0
    curves: list[Curve] = field(default_factory=list)
    whole: bool = False
    """All that is stored has been read."""

    def take(self, line: bytes) -> None:
        by_name = {curve.name: curve for curve in self.curves}
        for name, value in found_in(line[:LONGEST_LINE]):
            if name not in by_name:
                if len(self.curves) >= MOST_CURVES:
                    continue
                by_name[name] = Curve(name)
                self.curves.append(by_name[name])
            by_name[name].add(value)


def read(job_id: int, attempt: int, *, most_s: float = 0.4, clock: Callable[[], float] = time.monotonic) -> Reading:
    """Go on reading from where the last reader was, for at most about so many seconds."""
    path = logs.log_path(job_id, attempt).with_suffix(".curves.json")
    reading = _stored(path)
    if reading.offset > logs.size(job_id, attempt):
        reading = Reading()  # Another log than the one that was read: a restored backup.
    began, until = reading.offset, clock() + most_s
    at, rest, reading.whole = began, b"", True
    while (piece := logs.piece(job_id, attempt, at, logs.PIECE_BYTES)).data:
        lines = ((rest if piece.offset == at else b"") + piece.data).replace(b"\r", b"\n").split(b"\n")
        rest, at = lines.pop()[-LONGEST_LINE:], piece.end
        for line in lines:
            if worth_it(line):
                reading.take(line)
        reading.offset = at - len(rest)
        if clock() > until:
            reading.whole = False
            break
    if reading.offset != began:
        _keep(path, reading)
    return reading


def _stored(path: Path) -> Reading:
    try:
        kept: Any = json.loads(path.read_text())
        if kept["version"] != VERSION:
            return Reading()
        return Reading(int(kept["offset"]), [Curve(**curve) for curve in kept["curves"]])
    except (OSError, ValueError, TypeError, KeyError):
        return Reading()


def _keep(path: Path, reading: Reading) -> None:
    """Two readers at once write the same; the last one counts. A full disk costs the next reader time."""
    curves = [{name: getattr(curve, name) for name in Curve.__slots__} for curve in reading.curves]
    kept = {"version": VERSION, "offset": reading.offset, "curves": curves}
    wholefile.write(path, json.dumps(kept, separators=(",", ":")).encode())


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
