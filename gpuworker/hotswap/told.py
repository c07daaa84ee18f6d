"""What the records of an attempt say about its swaps: for reports, and for putting back what a dead shim left."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from gpuworker.hotswap import diff
from gpuworker.protocol import PutBack, Swapped
from gpuworker.shim.swaps import swapping
from gpuworker.shim.swaps.inuse import RECORD, UNFINISHED

if TYPE_CHECKING:
    from gpuworker.attempts import AttemptDir

log = logging.getLogger(__name__)

LARGEST_DIFFS = 64 * 1024
"""Of all files of an attempt together: it travels in one message and is kept with the job's history."""


def swapped(attempt: AttemptDir) -> tuple[Swapped, ...]:
    """What was done for each swap; empty for an attempt that has none."""
    record = attempt.record(RECORD) or {}
    told, left = [], LARGEST_DIFFS
    for index, entry in enumerate(record.get("files", ())):
        old, new = (attempt.path / f"swap-{index}.{kind}" for kind in ("old", "new"))
        absent = bool(entry.get("absent"))
        if not absent and not old.exists():
            text, note = "", "The original is too large to show a difference."
        else:
            text, note = diff.between(old, new, entry["target"], most=min(diff.LARGEST_DIFF, left))
        left -= len(text.encode())
        why = record.get("why", "")
        told.append(Swapped(target=entry["target"], way=entry["way"], absent=absent, diff=text, note=_joined(why, note)))
    return tuple(told)


def put_back(attempt: AttemptDir) -> tuple[PutBack, ...]:
    """How its swaps ended. What its shim, which is dead or done, did not put back is put back now."""
    record = attempt.record(RECORD)
    if record is None:
        return ()
    failure = ""
    try:
        swapping.put_back(attempt.path, record)
    except OSError as exc:
        failure = str(exc)
        log.error("A swapped file could not be put back: %s", exc, extra={"action": "put_back", "attempt_key": attempt.key})
    after = attempt.record(RECORD) or {}
    if not failure and after.get("state") == "restored":
        return tuple(PutBack.read(result) for result in after.get("results", ()))
    return tuple(_failed(entry, failure) for entry in record.get("files", ()))


def owes(attempt: AttemptDir) -> bool:
    """Whether files of it still have to be put back."""
    return (attempt.record(RECORD) or {}).get("state", "") in UNFINISHED


def _failed(entry: dict[str, Any], why: str) -> PutBack:
    place = os.path.join(entry["root"], entry["target"])
    kept = os.path.join(os.path.dirname(place), entry["original"]) if entry.get("original") and not entry.get("absent") else ""
    return PutBack(target=entry["target"], way=entry["way"], result="failed", path=place, kept=kept, note=why)


def _joined(why: str, note: str) -> str:
    return f"No mount namespace ({why}). {note}".strip() if why else note
