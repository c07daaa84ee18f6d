"""Links with which people choose a password of their own: who is invited, and who has forgotten his.

Django's own reset tokens: signed, not stored, good for three days, and for nothing more once the password was set or the
person has signed in. They are passwords until then: show or mail them, never log them.
"""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.contrib.auth.tokens import default_token_generator
from django.urls import reverse
from django.utils.encoding import force_bytes
from django.utils.html import format_html
from django.utils.http import urlsafe_base64_encode
from django.utils.translation import gettext as _

from jobs import audit, eventphrases
from jobs.models import User
from jobs.models.audit import About, Act
from jobs.notifications import channels
from jobs.notifications.letter import Letter, NotSent

LIFETIME = timedelta(seconds=settings.PASSWORD_RESET_TIMEOUT)


def make_link(person: User, *, actor: User | None) -> str:
    """The address where `person` sets a password."""
    audit.record(actor, Act.LINK_MADE, About.PERSON, target=person.get_username(), detail=eventphrases.SETS_PASSWORD)
    return _address(person)


def mail_link(person: User, *, actor: User | None) -> str:
    """Mail it to them, now; the address that it went to. Raises NotSent."""
    if not person.email:
        raise NotSent(_("%(name)s has no mail address: write it into the account, or hand over the link.") % {"name": person})
    if not (way := channels.for_mail()):
        raise NotSent(_("No way to send mail is set up (EMAIL_URL or AUTOTRAINER_EMINDER_URL): hand over the link."))
    message_id = f"<password.{default_token_generator.make_token(person)[-20:]}@autotrainer>"
    channels.BY_NAME[way].send(_letter(person, _address(person)), person.email, message_id=message_id, thread_id=message_id)
    told = eventphrases.MAILED % {"address": person.email}
    audit.record(actor, Act.LINK_MADE, About.PERSON, target=person.get_username(), detail=told)
    return person.email


def _address(person: User) -> str:
    where = [urlsafe_base64_encode(force_bytes(person.pk)), default_token_generator.make_token(person)]
    return str(settings.AUTOTRAINER.url.rstrip("/") + reverse("password-link", args=where))


def _letter(person: User, link: str) -> Letter:
    named = {"name": person.get_username(), "url": settings.AUTOTRAINER.url, "days": LIFETIME.days}
    subject = _("[AutoTrainer] Choose a password for %(name)s") % named
    said = _(
        "Somebody who manages the GPU queue at %(url)s made this link for your account, %(name)s. "
        "It is good for %(days)d days, and once. If you did not expect it, leave it alone: nothing changes."
    )
    text = f"{said % named}\n\n{link}\n"
    return Letter(subject, text, format_html('<p>{}</p><p><a href="{}">{}</a></p>', said % named, link, link), text)
