"""What the person behind an address wants: of which occasions to hear, by which ways, at which hours not, and in which language."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.conf import settings

from jobs.models import Notification, Preference, User
from jobs.notifications.occasions import OPTIONAL, Occasion


def wants(owner: User, occasion: Occasion) -> bool:
    """Whether the owner of a job is told of it; whom a job names is told of everything."""
    kept = Preference.objects.filter(user=owner).first()
    if occasion in OPTIONAL:
        return kept is not None and occasion in kept.also
    return kept is None or occasion not in kept.muted


def wants_mail(owner: User) -> bool:
    return not Preference.objects.filter(user=owner, by_mail=False).exists()


def of_row(row: Notification) -> Preference | None:
    """Of the person whose chat or mail address it is, whoever's job it is about."""
    if row.chat:
        return Preference.objects.filter(user=row.chat.owner_id).first()
    return Preference.objects.filter(user__email__iexact=row.recipient, user__is_active=True).order_by("user_id").first()


def language_of(row: Notification) -> str:
    kept = of_row(row)
    known = dict(settings.LANGUAGES)
    return kept.language if kept and kept.language in known else settings.LANGUAGE_CODE


def quiet_until(row: Notification, now: datetime) -> datetime | None:
    """When the quiet hours end that this moment is in; None where it is in none."""
    kept = of_row(row)
    return end_of_quiet(kept, now) if kept and kept.quiet_from != kept.quiet_until else None


def end_of_quiet(kept: Preference, now: datetime) -> datetime | None:
    """By the clock on the person's wall, also where it is put forward or back meanwhile."""
    begin, end = kept.quiet_from, kept.quiet_until
    if begin is None or end is None:
        return None
    local = now.astimezone(_zone(kept.time_zone))
    at = local.time()
    within = begin <= at < end if begin < end else at >= begin or at < end
    if not within:
        return None
    ends = datetime.combine(local.date(), end, local.tzinfo)
    return ends if ends > now else datetime.combine(local.date() + timedelta(days=1), end, local.tzinfo)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name or settings.TIME_ZONE)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo(settings.TIME_ZONE)
