"""The letter that a training wrote about itself: a JSON file whose path it finds in AUTOTRAINER_MAIL.

    {"subject": "…", "text": "…", "attachments": ["plots/loss.png"], "skip": false}

It came with the report of the attempt's end and lies beside its log (`<attempt>.mail.json`), since the letter is made later. It
changes the letter about that end and no other. With anything wrong in it the ordinary letter goes out and says what was wrong.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from django.utils.translation import gettext as _

from gpuworker.ownmail import LARGEST_BYTES, MailFault
from gpuworker.protocol import Ended
from jobs import artifacts, logs, wholefile
from jobs.models import Attempt, Job
from jobs.notifications.occasions import Occasion

log = logging.getLogger(__name__)

OCCASIONS = frozenset({Occasion.COMPLETED, Occasion.FAILED, Occasion.OOM, Occasion.TIMED_OUT})
LONGEST_SUBJECT, LONGEST_TEXT, LONGEST_NAME = 200, 20_000, 512
MOST_ATTACHMENTS = 10
LARGEST_ATTACHED_BYTES = 8 * 2**20
"""Of all of them together: with the log, what most mail servers take."""
FETCH_FOR_S = 30.0
"""After this no further file is asked for: a host that hangs must not hold up other people's letters for long."""


@dataclass(frozen=True, slots=True)
class OwnMail:
    subject: str = ""
    text: str = ""
    attachments: tuple[str, ...] = ()
    """Relative to the working directory."""
    skip: bool = False
    fault: str = ""
    """What was wrong with it, as a sentence; then nothing else is set."""


@dataclass(frozen=True, slots=True)
class Attached:
    name: str
    data: bytes = b""
    error: str = ""


class _Wrong(Exception):
    """The text is a sentence."""


def keep(attempt: Attempt, report: Ended) -> None:
    """Put it beside the log. A disk that takes nothing costs the training its own letter, never its end."""
    if not (report.mail or report.mail_fault):
        return
    told = {"text": report.mail, "fault": report.mail_fault} if len(report.mail) <= LARGEST_BYTES else {"fault": MailFault.TOO_LARGE}
    wholefile.write(_path(attempt.job_id, attempt.number), json.dumps(told).encode())


def of(job: Job, number: int | None, occasion: Occasion) -> OwnMail:
    """What this letter is to be by its training's wish; in the language that is active."""
    if number is None or occasion not in OCCASIONS:
        return OwnMail()
    try:
        told: Any = json.loads(_path(job.pk, number).read_text())
        text, fault = str(told.get("text", "")), str(told.get("fault", ""))
    except (OSError, ValueError, AttributeError):
        return OwnMail()
    try:
        if fault:
            raise _Wrong(_unread(fault))
        return _read(text, job)
    except _Wrong as exc:
        return OwnMail(fault=str(exc))


def attached(job: Job, attempt: Attempt, names: tuple[str, ...]) -> Iterator[Attached]:
    """The files, fetched once and kept; for those that are not to be had, why."""
    room, until = LARGEST_ATTACHED_BYTES, time.monotonic() + FETCH_FOR_S
    for name in names:
        if time.monotonic() > until:
            yield Attached(name, error=_("the host takes too long"))
            continue
        try:
            data = artifacts.beside(job, attempt, name, most=room)
        except artifacts.NotToBeHad as exc:
            yield Attached(name, error=str(exc))
        else:
            room -= len(data)
            yield Attached(name, data)


def _path(job_id: int, number: int) -> Path:
    return logs.log_path(job_id, number).with_suffix(".mail.json")


# --- reading what a program wrote ---------------------------------------------------------------------------------------


def _unread(fault: str) -> str:
    said = {
        MailFault.NO_FILE: _("it is no regular file"),
        MailFault.TOO_LARGE: _("it is larger than %(most)d KiB") % {"most": LARGEST_BYTES // 1024},
        MailFault.NO_TEXT: _("it is not UTF-8"),
    }
    return said.get(fault, _("the host could not read it"))  # type: ignore[call-overload,no-any-return]


def _read(text: str, job: Job) -> OwnMail:
    """Raises _Wrong."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise _Wrong(_("it is not JSON")) from None
    if not isinstance(body, dict):
        raise _Wrong(_("it is not a JSON object"))
    if unknown := sorted(set(body) - {"subject", "text", "attachments", "skip"}):
        raise _Wrong(_("it has a field “%(field)s”, which means nothing here") % {"field": _short(unknown[0])})
    skip = body.get("skip", False)
    if not isinstance(skip, bool):
        raise _Wrong(_("“%(field)s” is not true or false") % {"field": "skip"})
    subject = _text(body, "subject", LONGEST_SUBJECT)
    if len(subject.splitlines()) > 1:
        raise _Wrong(_("“%(field)s” has more than one line") % {"field": "subject"})
    return OwnMail(subject.strip(), _text(body, "text", LONGEST_TEXT), _names(body.get("attachments", []), job), skip)


def _text(body: dict[str, Any], field: str, most: int) -> str:
    value = body.get(field, "")
    if not isinstance(value, str):
        raise _Wrong(_("“%(field)s” is not text") % {"field": field})
    if len(value) > most:
        raise _Wrong(_("“%(field)s” is longer than %(most)d characters") % {"field": field, "most": most})
    return value


def _names(value: Any, job: Job) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise _Wrong(_("“%(field)s” is not a list of paths") % {"field": "attachments"})
    if len(value) > MOST_ATTACHMENTS:
        raise _Wrong(_("“%(field)s” names more than %(most)d files") % {"field": "attachments", "most": MOST_ATTACHMENTS})
    return tuple(_beneath(name, job) for name in dict.fromkeys(value))


def _beneath(name: str, job: Job) -> str:
    """As the host takes it, which looks again at each part of it: what leads out by a link only the host can see."""
    path = PurePosixPath(name)
    if path.is_absolute() and path.is_relative_to(job.working_dir):
        path = path.relative_to(job.working_dir)
    if not path.parts or path.is_absolute() or ".." in path.parts or len(name) > LONGEST_NAME or not name.isprintable():
        raise _Wrong(_("the attachment “%(name)s” does not lie beneath the working directory") % {"name": _short(name)})
    return str(path)


def _short(text: str) -> str:
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:80])
