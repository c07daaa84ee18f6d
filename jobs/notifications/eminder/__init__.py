"""Mail through an EMinder service (AUTOTRAINER_EMINDER_URL): its interface as it documents it, and as it behaves.

A 200 of it means that it took the mail, not that anybody got it: it sends in the background and tells nobody of a failure.
It loses mails silently that have a line break in subject or address, and attachments with long or odd names: ours have none.
"""

from __future__ import annotations

import json
import re
from typing import Any

import requests
from django.conf import settings

from jobs.notifications import connecting
from jobs.notifications.deadline import within
from jobs.notifications.letter import Attachment, Letter, NotSent

TIMEOUT_S = (5, 60)
"""To connect, and for each answer."""
CHECK_LONGEST_S = 15.0
NAME = "EMinder"
_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def configured() -> bool:
    return bool(settings.AUTOTRAINER.eminder_url)


def address() -> str:
    return str(settings.AUTOTRAINER.eminder_url)


@within()
def send(letter: Letter, recipient: str, *, message_id: str, thread_id: str) -> None:
    """Raises NotSent. `message_id` and `thread_id` are lost on the way: EMinder writes its own mails."""
    template = template_for(templates())
    form = {
        "receiver_email": recipient,
        "template_type": template,
        "template_data_str": json.dumps(_data(template, letter)),
        "custom_subject": " ".join(letter.subject.split()),
    }
    fields: list[tuple[str, Any]] = [(name, (None, value)) for name, value in form.items()]  # multipart also without a file
    files = [("attachments", (_plain(one, number), one.data, one.content_type)) for number, one in enumerate(letter.attachments, 1)]
    answer = _asked("POST", "/api/send-now", files=[*fields, *files])
    told = _json(answer)
    if not isinstance(told, dict) or told.get("status") != "success":
        raise NotSent(f"{address()} answered something that EMinder does not: {answer.text[:200]!r}")


@within(CHECK_LONGEST_S)
def check() -> str:
    """Asks for its templates and sends nothing; what is there, as a phrase. Raises NotSent."""
    return f"{address()} is an EMinder, and {template_for(templates())} is the template that is used"


def templates() -> list[str]:
    """The templates that it knows. Raises NotSent, also where it is no EMinder."""
    told = _json(_asked("GET", "/api/templates/info"))
    if not isinstance(told, dict) or not all(isinstance(value, dict) for value in told.values()):
        raise NotSent(f"{address()} is no EMinder: it does not tell its templates at /api/templates/info.")
    return list(told)


def template_for(known: list[str]) -> str:
    """`training_report` where it has been added, else one that every EMinder has. Raises NotSent."""
    for name in ("training_report", "quick_message"):
        if name in known:
            return name
    raise NotSent(f"{address()} knows neither the template training_report nor quick_message, only: {', '.join(known)[:300]}.")


def _data(template: str, letter: Letter) -> dict[str, str]:
    if template == "training_report":
        return {"run_name": letter.subject, "dataset": "", "status": letter.text.splitlines()[0], "raw_log": letter.text[-2000:]}
    return {"message": letter.markdown}


def _plain(one: Attachment, number: int) -> str:
    return _NAME.sub("_", one.name)[-60:] or f"file-{number}"


def _asked(method: str, path: str, **how: Any) -> requests.Response:
    try:
        answer = connecting.request(method, address() + path, timeout=TIMEOUT_S, allow_redirects=False, **how)
    except requests.RequestException as exc:
        raise NotSent(f"{address()} cannot be reached, or broke off ({type(exc).__name__}).") from exc
    if answer.status_code == 200:
        return answer
    told = _json(answer)
    detail = told.get("detail") if isinstance(told, dict) else None
    said = detail if isinstance(detail, str) else json.dumps(detail) if detail else answer.reason
    raise NotSent(f"{address()} answered {answer.status_code}: {str(said)[:300]}", for_good=answer.status_code in (400, 422))


def _json(answer: requests.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None
