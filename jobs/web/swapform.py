"""Swaps on the submit form: a few rows of target, a source on the host, or the new file itself, pasted or uploaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from jobs import swaps
from jobs.models import Job
from jobs.web.forms import lines

MORE = "more_swaps"
"""The button that only asks for one row more."""
Files = Mapping[str, Any]
"""Uploaded ones, as Django gives them."""


@dataclass(frozen=True, slots=True)
class Row:
    """One swap as it was typed."""

    number: int
    target: str = ""
    source: str = ""
    content: str = ""

    @property
    def blank(self) -> bool:
        return not (self.target.strip() or self.source.strip() or self.content)


def typed(post: Mapping[str, str], files: Files) -> tuple[list[Row], list[str]]:
    """The rows that were sent, an uploaded file in the place of a pasted one, and what could not be read."""
    rows, errors = [], []
    for number in range(1, swaps.MOST_FILES + 1):
        if f"swap_target_{number}" not in post:
            break
        content = lines(post.get(f"swap_content_{number}", ""))
        try:
            content = _uploaded(files.get(f"swap_file_{number}")) or content
        except ValueError as exc:
            errors.append(str(exc))
        rows.append(Row(number, post[f"swap_target_{number}"], post.get(f"swap_source_{number}", ""), content))
    return rows, errors


def _uploaded(file: Any) -> str:
    if not file:
        return ""
    if (file.size or 0) > swaps.LARGEST_CONTENT:
        raise ValueError(_("%(name)s is larger than 1 MiB: put it on the host and name its path.") % {"name": file.name})
    try:
        return str(file.read(), "utf-8")
    except UnicodeDecodeError:
        raise ValueError(_("%(name)s is not text: put it on the host and name its path.") % {"name": file.name}) from None


def data(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What jobs.submission reads. A row with a target and nothing else swaps in an empty file."""
    given = []
    for row in rows:
        if row.blank:
            continue
        swap = {"target": row.target.strip()}
        if row.source.strip():
            swap["source"] = row.source.strip()
        if row.content or "source" not in swap:
            swap["content"] = row.content
        given.append(swap)
    return given


def of_job(job: Job) -> list[Row]:
    """An old job's swaps, as they would have been typed."""
    found = []
    for number, row in enumerate(job.swaps, 1):
        content = swaps.content_of(row)
        found.append(Row(number, row["target"], row.get("source", ""), (content or b"").decode(errors="replace")))
    return found


def of_fields(swaps: object) -> list[Row]:
    """Swaps of a template, which have no contents."""
    rows = [row for row in swaps if isinstance(row, dict)] if isinstance(swaps, list) else []
    return [Row(number, str(row.get("target", "")), str(row.get("source", ""))) for number, row in enumerate(rows, 1)]


def without_contents(rows: Sequence[Row]) -> list[Row]:
    """What a template keeps."""
    return [row for row in rows if row.source.strip() and not row.content]


def shown(rows: Sequence[Row], *, more: bool = False) -> list[Row]:
    """At least one row to write into, and a further one where somebody asked for it or all are full."""
    kept = [row for row in rows if not row.blank]
    wanted = len(kept) + (1 if more or not kept else 0)
    kept += [Row(0)] * (min(wanted, swaps.MOST_FILES) - len(kept))
    return [Row(number, row.target, row.source, row.content) for number, row in enumerate(kept, 1)]
