"""Writes who has to be told of an event, in the transaction of the event itself. Sends nothing."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from jobs.models import ChatAddress, Job, JobEvent, Notification, Preference
from jobs.notifications import channels, chat, ownmail, preferences
from jobs.notifications.occasions import OPTIONAL, OPTIONAL_TYPES, TYPES, Occasion, occasion_of


def note(event: JobEvent) -> None:
    """Where there is no way to tell anybody nobody is promised anything."""
    if event.type not in TYPES and not (event.type in OPTIONAL_TYPES and _somebody_asks(event)):
        return
    job = Job.objects.select_related("owner").get(pk=event.job_id)
    occasion = occasion_of(event, job)
    if occasion is None or ownmail.of(job, event.attempt, occasion).skip:
        return
    told = {"event": event, "job": job, "occasion": occasion, "created_at": event.at, "next_at": event.at}
    rows = [Notification(channel=channel, recipient=address, **told) for channel, address in _by_mail(job, occasion)]
    rows += [Notification(channel=chat.NAME, recipient=f"{one} {one.pk}", chat=one, **told) for one in _chats(job, occasion)]
    Notification.objects.bulk_create(rows, ignore_conflicts=True)


def _somebody_asks(event: JobEvent) -> bool:
    """One question for each start and each retry; most people do not."""
    return Preference.objects.exclude(also=[]).filter(user__jobs=event.job_id).exists()


def _by_mail(job: Job, occasion: Occasion) -> list[tuple[str, str]]:
    channel = channels.for_mail()
    return [(channel, address) for address in recipients(job, occasion)] if channel else []


def recipients(job: Job, occasion: Occasion) -> list[str]:
    """Those whom the job names; else its owner, where an address is known and this is wanted."""
    if job.notify:
        return [] if occasion in OPTIONAL else list(job.notify)
    wanted = _usable(job.owner.email) and preferences.wants(job.owner, occasion) and preferences.wants_mail(job.owner)
    return [job.owner.email] if wanted else []


def _chats(job: Job, occasion: Occasion) -> list[ChatAddress]:
    """Its owner's, whomever the job names."""
    chats = list(ChatAddress.objects.filter(owner=job.owner_id))
    return chats if chats and preferences.wants(job.owner, occasion) else []


def _usable(address: str) -> bool:
    try:
        validate_email(address)
    except ValidationError:
        return False
    return True
