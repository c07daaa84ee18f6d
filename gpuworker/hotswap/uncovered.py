"""Overlays that somebody outside has ended: a rename over the target (an editor, git pull) takes the mount away with it.

The kernel does that in every namespace, and nobody can forbid it; the job sees the file itself from then on, which must not
happen in silence.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from gpuworker import identity
from gpuworker.shim.swaps import inuse

if TYPE_CHECKING:
    from gpuworker.attempts import AttemptDir

_ESCAPED = re.compile(r"\\([0-7]{3})")


def targets(attempt: AttemptDir) -> tuple[str, ...]:
    """Targets that are overlaid for this attempt and that its command does not see overlaid any more."""
    overlaid = [e for e in (attempt.record(inuse.RECORD) or {}).get("files", ()) if e["way"] == "mount"]
    mounts = _mounts(attempt.record("started.json")) if overlaid else None
    if mounts is None:
        return ()
    return tuple(entry["target"] for entry in overlaid if os.path.join(entry["root"], entry["target"]) not in mounts)


def _mounts(started: dict[str, Any] | None) -> set[str] | None:
    """Where something is mounted as the command sees it; None where it cannot be asked (any more)."""
    if started is None or not identity.alive(started["pid"], started["start_ticks"], started["boot_id"]):
        return None
    try:
        with open(f"/proc/{started['pid']}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    return {_plain(line.split(" ")[4]) for line in lines}


def _plain(text: str) -> str:
    """mountinfo writes spaces, tabs, line feeds and backslashes in octal."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)
