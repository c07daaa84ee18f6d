"""Says that a message was dropped, and does not let whoever sends thousands of them fill the disk with log lines.

Of each kind so many are told in a minute; of the rest their number, with the next one that is told. And all of them are counted,
for /metrics: a host's counts go with its heartbeats, those of the control plane into the database (jobs/drops.py). Standard library
only.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass


class Drop(enum.StrEnum):
    """What kind of message it was; also the `action` of the log lines."""

    ACK = "ack_dropped"
    ANSWER = "answer_dropped"
    BEAT = "beat_dropped"
    CANARY = "canary_dropped"
    CHUNK = "chunk_dropped"
    MESSAGE = "message_dropped"
    """What Celery would have taken for one of its own."""
    QUESTION = "question_dropped"
    REPORT = "report_dropped"
    RULES = "rules_dropped"
    STOP = "stop_dropped"
    TASK = "task_dropped"


TOLD_PER_MINUTE = 20
MINUTE_S = 60.0


@dataclass(slots=True)
class _Kind:
    since: float
    told: int = 0
    untold: int = 0


_kinds: dict[str, _Kind] = {}
_counts: Counter[Drop] = Counter()
_lock = threading.Lock()


def warn(log: logging.Logger, text: str, *args: object, action: Drop, **extra: object) -> None:
    """As `log.warning`. Of a kind are those of the same text, whatever stands at its places."""
    with _lock:
        _counts[action] += 1
        kind = _kinds.setdefault(text, _Kind(time.monotonic()))
        if time.monotonic() - kind.since >= MINUTE_S:
            kind.since, kind.told = time.monotonic(), 0
        kind.told += 1
        if kind.told > TOLD_PER_MINUTE:
            kind.untold += 1
            return
        untold, kind.untold = kind.untold, 0
        last = kind.told == TOLD_PER_MINUTE
    if untold:
        text, args = f"{text} (%d more like this were not told)", (*args, untold)
    if last:
        text += " (more like this are counted and not told, for a minute)"
    log.warning(text, *args, extra={"action": action, **extra})


def counts() -> dict[str, int]:
    """How many this process has dropped since it began, of the kinds of which there were any."""
    with _lock:
        return {str(kind): count for kind, count in _counts.items()}
