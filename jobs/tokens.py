"""Personal tokens: made, looked at, and taken back; the same for pages and REST."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from knox.models import AuthToken

from jobs import audit, eventphrases
from jobs.fields import unfit
from jobs.models import PersonalToken, User
from jobs.models.audit import About, Act

LONGEST_NAME, LONGEST_DAYS, MOST = 80, 3650, 50
DEFAULT_DAYS = 90
_NOTE_EVERY = timedelta(minutes=1)


class TokenRefused(ValueError):
    """`field` is what has to be mended; the text says how."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def make(user: User, *, name: str, scope: str, days: int) -> tuple[PersonalToken, str]:
    """A new token and its secret, which nobody can see again. Raises TokenRefused."""
    name = " ".join(name.split())
    if not name or len(name) > LONGEST_NAME:
        raise TokenRefused("name", _("Give it a name of at most %(most)s characters, so that you know it again.") % {"most": LONGEST_NAME})
    if why := unfit(name):
        raise TokenRefused("name", why)
    if scope not in (PersonalToken.READ, PersonalToken.ALL):
        raise TokenRefused("scope", _("Write read or all."))
    if not 1 <= days <= LONGEST_DAYS:
        raise TokenRefused("days", _("Write a number of days from 1 to %(most)s.") % {"most": LONGEST_DAYS})
    if of(user).count() >= MOST:
        raise TokenRefused("name", _("You have %(most)s tokens: take one back first.") % {"most": MOST})
    with transaction.atomic():
        auth, secret = AuthToken.objects.create(user, expiry=timedelta(days=days))
        given = {"created_at": auth.created, "expires_at": auth.expiry, "name": name, "scope": scope}
        made = PersonalToken.objects.create(owner=user, digest=auth.digest, **given)
        audit.record(user, Act.MADE, About.TOKEN, target=name, detail=eventphrases.MAY % {"scope": scope, "n": days})
        return made, secret


def of(user: User) -> QuerySet[PersonalToken]:
    """Those that still work, newest first."""
    living = AuthToken.objects.filter(user=user).values("digest")
    return PersonalToken.objects.filter(owner=user, expires_at__gt=timezone.now(), digest__in=living).order_by("-created_at", "-id")


def take_back(user: User, number: int) -> bool:
    """From now on it opens nothing; False where this person has none with this number."""
    found = PersonalToken.objects.select_related("owner").filter(pk=number, owner=user).first()
    if found is None:
        return False
    end(found, actor=user)
    return True


@transaction.atomic
def end(token: PersonalToken, *, actor: User) -> None:
    """Whoever holds it is refused from now on."""
    AuthToken.objects.filter(digest=token.digest).delete()
    if PersonalToken.objects.filter(pk=token.pk).delete()[0]:
        audit.record(actor, Act.TAKEN_BACK, About.TOKEN, target=token.name, detail=eventphrases.OF_PERSON % {"person": token.owner})


@transaction.atomic
def end_all(person: User, *, actor: User) -> int:
    """All of a person's, those of signing in too; how many they were."""
    number: int = AuthToken.objects.filter(user=person).delete()[0]
    PersonalToken.objects.filter(owner=person).delete()
    if number:
        audit.record(actor, Act.TAKEN_BACK, About.PERSON, target=person.get_username(), detail=eventphrases.ALL_TOKENS % {"n": number})
    return number


def used(token: PersonalToken, now: datetime) -> None:
    """Noted once a minute at most."""
    stale = Q(last_used_at=None) | Q(last_used_at__lt=now - _NOTE_EVERY)
    if token.last_used_at is None or token.last_used_at < now - _NOTE_EVERY:
        PersonalToken.objects.filter(stale, pk=token.pk).update(last_used_at=now)
