"""Devices that operators keep for a person until a time: only that person's jobs are placed there meanwhile.

Nobody has to take it back: the rows say until when, and whoever looks at them compares. What runs there is left alone.
"""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from jobs import eventphrases
from jobs.drains import by, told
from jobs.models import Device, User
from jobs.models.audit import About, Act


class KeepRefused(Exception):
    """A wish that cannot be granted; `field` is what it is about, the text is for the operator."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


@transaction.atomic
def keep(uuid: str, actor: User, *, person: str, until: datetime | None, reason: str = "") -> bool:
    """Raises KeepRefused; False if there is no such device."""
    if until is None or until <= timezone.now():
        raise KeepRefused("until", _("Write a moment in the future, such as 2027-01-31T18:00."))
    user = User.objects.filter(username=person, is_active=True).first()
    if user is None:
        raise KeepRefused("user", _("Nobody of the name %(person)s can sign in here.") % {"person": repr(person)})
    kept = Device.objects.filter(uuid=uuid).update(kept_for=user, kept_until=until, kept_by=by(actor, reason))
    what = eventphrases.KEPT_FOR % {"user": person, "until": until.isoformat(timespec="minutes")}
    return told(Act.KEPT, About.DEVICE, uuid, actor=actor, changed=kept, what=what, reason=reason)


@transaction.atomic
def give_back(uuid: str, actor: User) -> bool:
    """Undo `keep`. False if there is no such device."""
    given = Device.objects.filter(uuid=uuid).update(kept_for=None, kept_until=None, kept_by="")
    return told(Act.GIVEN_BACK, About.DEVICE, uuid, actor=actor, changed=given, what=eventphrases.KEPT_NO_MORE)
