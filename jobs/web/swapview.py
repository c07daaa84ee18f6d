"""A job's swaps as its page shows them: what was wanted, which way the host went, the difference, how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.utils.translation import gettext as _

from jobs.models import Attempt, Job

_KINDS = {"+": "added", "-": "taken", "@": "where"}


@dataclass(frozen=True, slots=True)
class SwapShown:
    number: int
    target: str
    source: str
    """Path on the host; empty for a content that was handed in."""
    size: int
    way: str
    note: str
    ended: str
    bad: bool
    diff: list[tuple[str, str]] = field(default_factory=list)
    """(kind of line, line)."""


def swaps_of(job: Job, attempt: Attempt | None) -> list[SwapShown]:
    """All swaps of a job, with what was told about them in this attempt."""
    if not job.swaps:
        return []
    started, ended = _told(job, attempt, ["files_swapped"]), _told(job, attempt, ["files_restored", "restore_conflict"])
    return [_shown(number, row, started.get(row["target"], {}), ended.get(row["target"], {})) for number, row in enumerate(job.swaps, 1)]


def _told(job: Job, attempt: Attempt | None, types: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the events of these types say about each target."""
    if attempt is None:
        return {}
    found = job.events.filter(attempt=attempt.number, type__in=types).order_by("id").values_list("data", flat=True)
    return {file["target"]: file for data in found for file in data.get("files", ())}


def _shown(number: int, row: dict[str, Any], started: dict[str, Any], ended: dict[str, Any]) -> SwapShown:
    return SwapShown(
        number=number,
        target=row["target"],
        source=row.get("source", ""),
        size=row.get("size", 0),
        way=_way(started),
        note=started.get("note", ""),
        ended=_ended(ended),
        bad=ended.get("result", "") in ("conflict", "lost", "failed"),
        diff=_lines(started.get("diff", "")),
    )


def _way(started: dict[str, Any]) -> str:
    if not started:
        return ""
    if started["way"] == "mount":
        return _("Only this job sees it: it lies over the file in a mount namespace.")
    if started.get("absent"):
        return _("There was no such file: it is there while the job runs, for everybody, and goes with it.")
    return _("It stands in the place of the file while the job runs, for everybody; the original is put back afterwards.")


def _ended(result: dict[str, Any]) -> str:
    match result.get("result", ""):
        case "untouched":
            return _("The file was never touched.")
        case "restored":
            return _("The original is back.")
        case "removed":
            return _("It is gone again.")
        case "conflict" if result.get("kept"):
            return _("It was edited meanwhile. Both are kept: the edited file is %(path)s, the original %(kept)s.") % result
        case "conflict":
            return _("It was edited meanwhile and left where it is: %(path)s.") % result
        case "":
            return ""
    kept = _(" The original is %(kept)s.") % result if result.get("kept") else ""
    return _("It could not be put back at %(path)s: %(note)s.") % result + kept


def _lines(diff: str) -> list[tuple[str, str]]:
    return [(_KINDS.get(line[:1], "same") if line[:3] not in ("+++", "---") else "where", line) for line in diff.splitlines()]
