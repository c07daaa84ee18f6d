"""A letter that is about no job, to see whether mail arrives. It goes past the outbox: who asks for it waits for the answer."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxLengthValidator, validate_email
from django.template.loader import render_to_string
from django.utils.translation import gettext as _

from jobs.notifications import channels
from jobs.notifications.compose import fenced
from jobs.notifications.letter import Letter, NotSent
from jobs.notifications.sending import domain

LONGEST = 254
"""Characters of an address, as everywhere else."""


def send_test(address: str) -> str:
    """A sentence that says how it went. Raises NotSent."""
    address = address.strip()
    try:
        MaxLengthValidator(LONGEST)(address)
        validate_email(address)
    except ValidationError as exc:
        raise NotSent(
            _("%(address)s is not a mail address: write one such as ada@example.org.") % {"address": repr(address[:100])}
        ) from exc
    way = channels.for_mail()
    if not way:
        raise NotSent(_("No mail is set up: set EMAIL_URL or AUTOTRAINER_EMINDER_URL, then start AutoTrainer again."))
    channel = channels.BY_NAME[way]
    name = f"<test.{uuid.uuid4()}@{domain()}>"
    channel.send(trial_letter(), address, message_id=name, thread_id=name)
    told = {"server": channel.address(), "address": address}
    if way == "smtp":
        return _("%(server)s took the mail to %(address)s.") % told
    return (
        _("EMinder at %(server)s accepted the mail to %(address)s. Whether it arrives, EMinder tells nobody: look into the mailbox.") % told
    )


def trial_letter() -> Letter:
    url = settings.AUTOTRAINER.url
    title = _("A test: AutoTrainer can reach you")
    text = _("Somebody asked AutoTrainer for this test. Nothing has happened to any job.")
    context = {"title": title, "text": text, "url": url}
    return Letter(
        subject=f"[AutoTrainer] {title}",
        text=f"{text}\n\n{url}\n",
        html=render_to_string("jobs/mail/trial.html", context),
        markdown=f"{fenced(text)}\n\n{url}",
        chat=f"{text}\n\n{url}",
    )
