"""Says in the reader's language what was made and stored in English: the template is found again, and filled in anew."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache

from django.utils.translation import get_language, gettext

from jobs.scheduling.phrases import BETWEEN, PARTS, SENTENCES, SHAPES

_PLACE = re.compile(r"%\((\w+)\)s")


def said(sentence: str) -> str:
    """In English, or where no template fits, as it stands."""
    if not sentence or (get_language() or "en").startswith("en"):
        return sentence
    return say(sentence, gettext)


def say(sentence: str, translate: Callable[[str], str]) -> str:
    return _say(sentence, SENTENCES, translate)


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
    return "".join(piece if at % 2 else _say(piece, PARTS[name], translate) for at, piece in enumerate(pieces))


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """Any text may stand at a placeholder, none too: some parts are left out."""
    pieces = _PLACE.split(template)
    told = (f"(?P<{piece}>{SHAPES.get(piece, '.*?')})" if at % 2 else re.escape(piece) for at, piece in enumerate(pieces))
    return re.compile("".join(told), re.DOTALL)
