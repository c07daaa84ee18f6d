"""Messages to chat services, through apprise, which knows their interfaces. Where they may go: addresses.py, and connecting.py."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Iterator
from typing import Any

from django.utils.translation import gettext as _

from jobs.notifications import connecting
from jobs.notifications.chat import addresses
from jobs.notifications.deadline import within
from jobs.notifications.letter import Letter, NotSent

NAME = "chat"
LONGEST_S = 60.0
FOR_GOOD = frozenset({400, 401, 403, 404, 405, 410, 422})
"""What a service answers to an address that it does not know, or no longer lets write."""
_STATUS = re.compile(r"error=(\d{3})\b")


def configured() -> bool:
    return True


@within(LONGEST_S)
def send(letter: Letter, recipient: str, *, message_id: str, thread_id: str) -> None:
    """Raises NotSent, which never holds the address. `recipient`: the secret URL; the names of threads are mail's, and are lost."""
    service = addresses.opened(recipient)
    with connecting.outside_only() as way, _overheard() as lines:
        try:
            done = service.notify(title=harmless(letter.subject), body=harmless(letter.chat), body_format="text")
        except Exception as exc:  # apprise's plugins are many, and each parses what strangers answer
            raise NotSent(
                _("%(service)s could not be written to (%(why)s).") % {"service": service.service_name, "why": type(exc).__name__}
            ) from None
    if done:
        return
    if way.refused:
        raise NotSent(way.refused, for_good=True)
    raise _refusal(str(service.service_name), lines)


def _refusal(name: str, lines: list[str]) -> NotSent:
    """By what apprise logs: the answer itself it keeps to itself."""
    found = [int(status[1]) for line in lines if (status := _STATUS.search(line))]
    if not found:
        return NotSent(_("%(service)s did not answer, or broke off.") % {"service": name}, unsure=True)
    told = {"service": name, "status": found[-1]}
    if found[-1] in FOR_GOOD:
        return NotSent(_("%(service)s answered %(status)s. Is the address right, and may it still write there?") % told, for_good=True)
    return NotSent(_("%(service)s answered %(status)s.") % told)


@contextlib.contextmanager
def _overheard() -> Iterator[list[str]]:
    """What apprise logs in this thread meanwhile; it goes nowhere else, since addresses may be in it."""
    lines: list[str] = []
    thread = threading.get_ident()

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                lines.append(record.getMessage())

    ear, log = Ear(logging.WARNING), logging.getLogger("apprise")
    log.propagate = False
    log.addHandler(ear)
    try:
        yield lines
    finally:
        log.removeHandler(ear)


def harmless(text: str) -> str:
    """What people and programs wrote, so that it calls nobody and hides no address behind words, wherever it is rendered."""
    zero = "\u200b"
    for mark in ("@", "](", "<!", "<@", "<#"):
        text = text.replace(mark, f"{mark[0]}{zero}{mark[1:]}")
    return text.replace("```", "'''")


def send_test(chat: Any) -> str:
    """A sentence that says how it went. Raises NotSent."""
    from jobs.notifications.trial import trial_letter

    send(trial_letter(), chat.url, message_id="", thread_id="")
    return _("%(service)s took the message.") % {"service": chat.service}
