"""Writes who has to be told of an event, in the transaction of the event itself. Sends nothing."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from jobs.models import Job, JobEvent, Notification
from jobs.notifications import channels, ownmail
from jobs.notifications.occasions import TYPES, occasion_of


def note(event: JobEvent) -> None:
    """Where no channel is set up nobody is promised anything."""
    if event.type not in TYPES or not (channel := channels.for_mail()):
        return
    job = Job.objects.select_related("owner").get(pk=event.job_id)
    occasion = occasion_of(event, job)
    if occasion is None or ownmail.of(job, event.attempt, occasion).skip:
        return
    told = {"event": event, "job": job, "channel": channel, "occasion": occasion, "created_at": event.at, "next_at": event.at}
    Notification.objects.bulk_create([Notification(recipient=address, **told) for address in recipients(job)], ignore_conflicts=True)


def recipients(job: Job) -> list[str]:
    """Those whom the job names; else its owner, where an address is known."""
    return list(job.notify) or [address for address in (job.owner.email,) if _usable(address)]


def _usable(address: str) -> bool:
    try:
        validate_email(address)
    except ValidationError:
        return False
    return True
