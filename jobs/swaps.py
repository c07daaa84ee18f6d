"""Files that a job wants swapped: how they are given, where their contents are kept, and the words for what became of them.

A row holds `{target, source}` or `{target, sha256, size}`; contents are stored by their hash, travel by it beside the spec,
and are checked against it by the host.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from django.utils.translation import gettext as _

from gpuworker import protocol
from gpuworker.protocol import PutBack, Swapped
from jobs import eventphrases, fields
from jobs.models import Content, User
from jobs.scheduling import phrases

MOST_FILES = 32
LARGEST_CONTENT = 2**20
_HASH_DIGITS = frozenset("0123456789abcdef")
_KINDS = ("source", "content", "sha256")

SCHEMA: dict[str, Any] = {
    "type": "array",
    "maxItems": MOST_FILES,
    "items": {
        "type": "object",
        "required": ["target"],
        "properties": {
            "target": {"type": "string", "description": "Relative to the working directory."},
            "source": {"type": "string", "description": "A path on the host."},
            "content": {"type": "string", "description": "The new file itself, at most 1 MiB."},
            "sha256": {"type": "string", "description": "Of a content that you have handed in before, as a job shows it."},
            "size": {"type": "integer", "description": "Shown beside sha256; not read."},
        },
        "additionalProperties": False,
    },
}

Row = dict[str, Any]


# --- reading ------------------------------------------------------------------------------------------------------------


def reader(base: Path) -> fields.Reader:
    """Reads `swaps`; relative sources are taken from `base`. A `content` is still one: `kept` stores it."""
    source = fields.directory(base)

    def read(value: Any) -> list[Row]:
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise ValueError(_('Write a list such as [{"target": "loss.py", "source": "/path/new_loss.py"}].'))
        if len(value) > MOST_FILES:
            raise ValueError(_("At most %(most)s files; these are %(count)s.") % {"most": MOST_FILES, "count": len(value)})
        rows = [_row(each, number, source) for number, each in enumerate(value, 1)]
        targets = [row["target"] for row in rows]
        if double := next((target for target in targets if targets.count(target) > 1), ""):
            raise ValueError(_("%(double)s is swapped twice: name each target once.") % {"double": double})
        if inside := next((t for t in targets for other in targets if t.startswith(f"{other}/")), ""):
            raise ValueError(_("%(inside)s lies below another target, which is a file.") % {"inside": inside})
        return rows

    return read


def _row(given: Mapping[str, Any], number: int, source: fields.Reader) -> Row:
    where = _("File %(number)s") % {"number": number}
    if unknown := sorted(given.keys() - {"target", "size", *_KINDS}):
        raise ValueError(
            _("%(where)s: there is no %(unknown)s: a swap has target, and source or content.")
            % {"where": where, "unknown": repr(unknown[0])}
        )
    kinds = [kind for kind in _KINDS if given.get(kind) is not None]
    if len(kinds) != 1:
        raise ValueError(_("%(where)s: give either source (a path on the host) or content.") % {"where": where})
    try:
        target = target_of(given.get("target"))
        where = target
        return {
            "target": target,
            kinds[0]: _VALUES[kinds[0]](given[kinds[0]]) if kinds[0] != "source" else _source(given["source"], source),
        }
    except ValueError as exc:
        raise ValueError(_("%(where)s: %(why)s") % {"where": where, "why": exc}) from None


def target_of(value: Any) -> str:
    """A target as it is stored: plain, relative, without `.` and doubled slashes."""
    text = fields.text(value)
    if not text.strip() or text.endswith("/"):
        raise ValueError(_("name the target as a file, relative to the working directory."))
    if text.startswith(("/", "~")):
        raise ValueError(_("the target must be relative to the working directory."))
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(_("the target must not lead out of the working directory: leave out “..”."))
    if not parts or any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise ValueError(_("line breaks and control characters are not possible in a path: leave them out."))
    plain = "/".join(parts)
    if len(plain.encode()) > fields.LONGEST_PATH or any(len(part.encode()) > 255 for part in parts):
        raise ValueError(_("the target is longer than a path can be."))
    return plain


def _source(value: Any, read: fields.Reader) -> str:
    if not fields.text(value).strip():
        raise ValueError(_("the source is empty: name a file on the host."))
    return str(read(value))


def _content(value: Any) -> str:
    text = fields.text(value)
    if (size := len(text.encode())) > LARGEST_CONTENT:
        raise ValueError(
            _("at most %(most)s bytes; these are %(size)s. Put it on the host and name it as source.")
            % {"most": LARGEST_CONTENT, "size": size}
        )
    return text


def _sha256(value: Any) -> str:
    text = fields.text(value)
    if len(text) != 64 or not _HASH_DIGITS.issuperset(text):
        raise ValueError(_("sha256 is 64 hexadecimal digits."))
    return text


_VALUES = {"content": _content, "sha256": _sha256}


def unknown_hash(rows: Iterable[Row], owner: User, known: Sequence[Row]) -> str:
    """What is wrong with a hash that this person has handed in no content for; empty where nothing is."""
    wanted = {row["sha256"]: row["target"] for row in rows if "sha256" in row}
    missing = wanted.keys() - {row.get("sha256") for row in known}
    if missing:
        missing -= set(Content.objects.filter(pk__in=missing, owners=owner).values_list("pk", flat=True))
    return (
        _("%(wanted)s: you have handed in no content with this hash: send the content itself.") % {"wanted": wanted[min(missing)]}
        if missing
        else ""
    )


# --- contents -----------------------------------------------------------------------------------------------------------


def kept(rows: Iterable[Row], owner: User) -> list[Row]:
    """The rows as a job keeps them, their contents stored. Belongs into the transaction that writes the job."""
    return [_kept(row, owner) for row in rows]


def _kept(row: Row, owner: User) -> Row:
    """The content's row is locked until the job is written: it is not thrown away meanwhile (jobs/retention.py)."""
    if "source" in row:
        return row
    locked = Content.objects.select_for_update()
    if "content" in row:
        data = row["content"].encode()
        sha256 = hashlib.sha256(data).hexdigest()
        content, _made = locked.get_or_create(sha256=sha256, defaults={"data": data})
        content.owners.add(owner)
        return {"target": row["target"], "sha256": sha256, "size": len(data)}
    content = locked.get(pk=row["sha256"])
    content.owners.add(owner)
    return {"target": row["target"], "sha256": content.sha256, "size": len(content.data)}


def gone(rows: Iterable[Row]) -> list[str]:
    """The targets whose contents have been thrown away since."""
    wanted = {row["sha256"]: row["target"] for row in rows if "sha256" in row}
    return [wanted[sha256] for sha256 in wanted.keys() - set(Content.objects.filter(pk__in=wanted).values_list("pk", flat=True))]


def content_of(row: Mapping[str, Any]) -> bytes | None:
    """What a row's file will hold; None for a source, which is on the host."""
    content = Content.objects.filter(pk=row["sha256"]).first() if "sha256" in row else None
    return None if content is None else bytes(content.data)


def contents(spec: protocol.Spec) -> dict[str, bytes]:
    """All contents that a spec names."""
    wanted = {swap.sha256 for swap in spec.swaps if swap.sha256}
    return {c.sha256: bytes(c.data) for c in Content.objects.filter(pk__in=wanted)} if wanted else {}


# --- words --------------------------------------------------------------------------------------------------------------


def told_swapped(number: int, swapped: Sequence[Swapped]) -> tuple[str, dict[str, Any]]:
    """The event of a start with swaps: a sentence, and what the page shows."""
    alone = [s.target for s in swapped if s.way == "mount"]
    placed = [s.target for s in swapped if s.way != "mount"]
    parts = []
    if alone:
        parts.append(eventphrases.BY_MOUNT % {"targets": _listed(alone)})
    if placed:
        parts.append(eventphrases.BY_JOURNAL % {"targets": _listed(placed)})
    files = [{k: _clean(v) if isinstance(v, str) else v for k, v in s.body().items()} for s in swapped]
    absent = [s.target for s in swapped if s.absent]
    told = [eventphrases.SWAPPED % {"attempt": number, "swapped": eventphrases.TOGETHER.join(parts)}]
    if absent:
        told.append((eventphrases.WAS_ABSENT if len(absent) == 1 else eventphrases.WERE_ABSENT) % {"targets": _listed(absent)})
    return " ".join(told), {"files": files}


def told_put_back(number: int, results: Sequence[PutBack]) -> list[tuple[str, str, dict[str, Any]]]:
    """The events of an end with swaps: (type, sentence, data)."""
    good = [r for r in results if r.result in ("restored", "removed", "untouched")]
    bad = [r for r in results if r not in good]
    events = []
    if good:
        told = eventphrases.PUT_BACK % {"attempt": number, "results": _all_good(good)}
        events.append(("files_restored", told, {"files": [_bodied(r) for r in good]}))
    events += [("restore_conflict", _bad(number, r), {"files": [_bodied(r)]}) for r in bad]
    return events


_GOOD = {
    "untouched": (eventphrases.UNTOUCHED, eventphrases.UNTOUCHED_ALL),
    "restored": (eventphrases.AS_BEFORE, eventphrases.AS_BEFORE_ALL),
    "removed": (eventphrases.GONE, eventphrases.GONE_ALL),
}


def _all_good(results: Sequence[PutBack]) -> str:
    told = []
    for result, (one, several) in _GOOD.items():
        targets = [r.target for r in results if r.result == result]
        if targets:
            told.append((one if len(targets) == 1 else several) % {"targets": _listed(targets)})
    return "; ".join(told)


def _bad(number: int, result: PutBack) -> str:
    names = ("target", "path", "kept", "note")
    told = dict(zip(("targets", "path", "kept", "why"), (_clean(getattr(result, name)) for name in names), strict=True))
    if result.result == "conflict" and told["kept"]:
        what, rest = eventphrases.BOTH_KEPT, eventphrases.BOTH_ARE
    elif result.result == "conflict":
        what, rest = eventphrases.NEW_KEPT, eventphrases.LEFT_THERE
    else:
        what = eventphrases.NOT_PUT_BACK_BECAUSE if told["why"] else eventphrases.NOT_PUT_BACK
        rest = eventphrases.ORIGINAL if told["kept"] else ""
    return f"{eventphrases.PUT_BACK % {'attempt': number, 'results': what % told}} {rest % told}".rstrip()


def _bodied(result: PutBack) -> dict[str, Any]:
    return {name: _clean(value) for name, value in result.body().items()}


def _listed(targets: Sequence[str]) -> str:
    shown = ", ".join(map(_clean, targets[:5]))
    return shown if len(targets) <= 5 else f"{shown} {phrases.MORE % {'count': len(targets) - 5}}"


def _clean(text: str) -> str:
    """What every database takes."""
    return text.replace("\0", "\ufffd")[: 64 * 1024]
