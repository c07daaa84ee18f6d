"""Says in the reader's language what was made and stored in English: the template is found again, and filled in anew."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache

from django.utils.translation import get_language, gettext

from jobs import eventphrases
from jobs.scheduling import phrases

PARTS = phrases.PARTS | {name: phrases.PARTS.get(name, ()) + parts for name, parts in eventphrases.PARTS.items()}
BETWEEN = phrases.BETWEEN | eventphrases.BETWEEN
SHAPES = phrases.SHAPES | eventphrases.SHAPES
SENTENCES = (*phrases.SENTENCES, *eventphrases.SENTENCES)
JOINTS = frozenset({phrases.OR, eventphrases.TOGETHER})
"""What stands between parts and is a word."""
_PLACE = re.compile(r"%\((\w+)\)s")
_AFTER_WIDE = re.compile(r"(?<=[。？：]) ")
_ENDS = re.compile(r"(?<=[.?]) ")


def said(text: str) -> str:
    """A reason, an event. In English, or where no template fits, as it stands."""
    return text if _in_english() else say(text, gettext)


def said_of_attempt(message: str) -> str:
    """What is stored beside an attempt, without a full stop."""
    return message if _in_english() else _say(message.rstrip("."), eventphrases.WHYS, gettext)


def said_of_change(detail: str) -> str:
    """What the audit log says of it."""
    if not detail or _in_english():
        return detail
    found = _say(detail, eventphrases.AUDITED, gettext)
    return say(detail, gettext) if found == detail else found


def said_of_drain(reason: str) -> str:
    """Who has drained it, and why."""
    return reason if _in_english() else _say(reason, PARTS["reason"], gettext)


def said_of_process(process: str) -> str:
    return process if _in_english() else _say(process, (phrases.PROCESS,), gettext)


def said_of_span(span: str) -> str:
    """A duration, as jobs.scheduling.words.span tells it."""
    return span if _in_english() else _say(span, PARTS["span"], gettext)


def said_of_host(reason: str) -> str:
    """The rest of a sentence about a host."""
    return reason if not reason or _in_english() else _say(f" {reason}", PARTS["hosts"], gettext).strip()


def said_of_device(reason: str) -> str:
    """A sentence about a device."""
    if not reason or _in_english():
        return reason
    doing = reason[:1].lower() + reason[1:].rstrip(".")
    found = _say(doing, PARTS["doing"], gettext)
    return reason if found == doing else gettext("%(sentence)s.") % {"sentence": found}


def _in_english() -> bool:
    return (get_language() or "en").startswith("en")


def say(text: str, translate: Callable[[str], str]) -> str:
    """One sentence after another, the shortest that there are templates for."""
    pieces, told = _ENDS.split(text), []
    while pieces:
        ends = (end for end in range(1, len(pieces) + 1) if _fits(" ".join(pieces[:end])))
        end = next(ends, 1)
        told.append(_say(" ".join(pieces[:end]), SENTENCES, translate))
        pieces = pieces[end:]
    return _AFTER_WIDE.sub("", " ".join(told))


def _fits(text: str) -> bool:
    return any(_pattern(template).fullmatch(text) for template in SENTENCES)


def _say(text: str, templates: Iterable[str], translate: Callable[[str], str]) -> str:
    for template in templates:
        if found := _pattern(template).fullmatch(text):
            parts = {name: _say_part(name, part, translate) for name, part in found.groupdict().items()}
            return translate(template) % parts
    return text


def _say_part(name: str, text: str, translate: Callable[[str], str]) -> str:
    if name not in BETWEEN:
        return _say(text, PARTS.get(name, ()), translate)
    pieces = re.split(f"({BETWEEN[name]})", text)
    joints = [translate(piece) if piece in JOINTS else piece for piece in pieces[1::2]]
    told = [_say(piece, PARTS[name], translate) for piece in pieces[::2]]
    return "".join(word for pair in zip(told, [*joints, ""], strict=True) for word in pair)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """Any text may stand at a placeholder, none too: some parts are left out."""
    pieces = _PLACE.split(template)
    told = (
        f"(?P<{piece}>{SHAPES.get(piece, '.*?')})" if at % 2 else re.escape(piece.replace("%%", "%")) for at, piece in enumerate(pieces)
    )
    return re.compile("".join(told), re.DOTALL)
