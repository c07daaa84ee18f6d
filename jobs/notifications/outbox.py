"""Writes who has to be told of an event, in the transaction of the event itself. Sends nothing."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from jobs.models import Job, JobEvent, Notification
from jobs.notifications import channels, ownmail, preferences
from jobs.notifications.occasions import TYPES, Occasion, occasion_of


def note(event: JobEvent) -> None:
    """Where no channel is set up nobody is promised anything."""
    if event.type not in TYPES or not (channel := channels.for_mail()):
        return
    job = Job.objects.select_related("owner").get(pk=event.job_id)
    occasion = occasion_of(event, job)
    if occasion is None or ownmail.of(job, event.attempt, occasion).skip:
        return
    told = {"event": event, "job": job, "channel": channel, "occasion": occasion, "created_at": event.at, "next_at": event.at}
    rows = [Notification(recipient=address, **told) for address in recipients(job, occasion)]
    Notification.objects.bulk_create(rows, ignore_conflicts=True)


def recipients(job: Job, occasion: Occasion) -> list[str]:
    """Those whom the job names; else its owner, where an address is known and this is wanted."""
    if job.notify:
        return list(job.notify)
    return [job.owner.email] if _usable(job.owner.email) and preferences.wants(job.owner, occasion) else []


def _usable(address: str) -> bool:
    try:
        validate_email(address)
    except ValidationError:
        return False
    return True
