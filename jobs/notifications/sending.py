"""Sends what the outbox holds. One row at a time, each claimed first, so that two control workers never send the same one.

A row is sent once, or is visibly still being tried: what failed is tried again later and later, for a week, then it is dead
until somebody sends it again. Only where this process dies between the server's yes and our commit, or the connection breaks
there, may a letter go out twice: with the same Message-ID, and about the same jobs.

A thread of the control worker and no Celery task: the row is the queue, so a broker between the two could only lose or repeat
what it says. Mail goes out while Redis is down, and whoever dies is replaced by the lease of the row (tests/faults/outbox.py).
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone, translation

from jobs import artifacts, audit, logs
from jobs.models import Attempt, Job, Notification, User
from jobs.models.audit import About, Act
from jobs.notifications import channels, chat, compose, preferences
from jobs.notifications.letter import Letter, NotSent
from jobs.notifications.occasions import FAILURES, Occasion
from jobs.states import TERMINAL

log = logging.getLogger(__name__)

LEASE = timedelta(minutes=15)
"""Longer than collecting (jobs/artifacts.py) and sending (deadline.py) can take; whoever is killed meanwhile is replaced after it."""
GIVE_UP_AFTER = timedelta(days=7)
FIRST_DELAY_S, LONGEST_DELAY_S = 5.0, 6 * 3600.0
LOG_PATIENCE = timedelta(seconds=60)
"""How long a letter waits for the rest of its log, which comes a little after the end of its job."""
FOLD = timedelta(minutes=10)
"""The first failure is told at once; those of the next ten minutes to the same person as one."""

Writing = Callable[[], AbstractContextManager[None]]


class Postman:
    """`turn` sends what is due, one letter; whether there may be more."""

    def __init__(self, *, writing: Writing = transaction.atomic) -> None:
        self._writing = writing

    def turn(self, now: datetime | None = None) -> bool:
        now = now or timezone.now()
        row = self._claimed(now)
        if row is None:
            return False
        attempt = row.job.attempts.filter(number=row.event.attempt).first() if row.event.attempt else None
        if _log_is_coming(attempt, now):
            self._put_off(row, now + timedelta(seconds=1))
            return True
        if later := preferences.quiet_until(row, now) or _to_fold(row, now):
            self._put_off(row, later)
            return True
        self._send(row, attempt, now)
        return True

    def _claimed(self, now: datetime) -> Notification | None:
        due = Q(state=Notification.PENDING, next_at__lte=now) | _forsaken(now)
        row = Notification.objects.filter(due).order_by("next_at", "id").first()
        if row is None:
            return None
        mine = Notification.objects.filter(due, pk=row.pk, state=row.state, tries=row.tries)
        with self._writing():
            if mine.update(state=Notification.SENDING, lease_until=now + LEASE, tries=row.tries + 1) != 1:
                return None
            if row.message_id:  # at once, or whoever dies here would leave the others to be sent without this one
                _same_letter(row, now).update(state=Notification.SENDING, lease_until=now + LEASE)
        return Notification.objects.select_related("event", "event__job", "event__job__owner", "job", "job__owner", "chat").get(pk=row.pk)

    def _put_off(self, row: Notification, until: datetime) -> None:
        later = {"state": Notification.PENDING, "next_at": until, "lease_until": None}
        with self._writing():
            if row.message_id:
                _claimed_as_one(row).update(**later)
            Notification.objects.filter(pk=row.pk).update(**later, tries=row.tries - 1)

    def _send(self, row: Notification, attempt: Attempt | None, now: datetime) -> None:
        message_id = row.message_id or message_id_of(row)
        rows = sorted([row, *self._claimed_with(row, message_id, now)], key=lambda one: one.pk)
        try:
            channel = channels.BY_NAME.get(row.channel)
            if channel is None or not channel.configured():
                raise NotSent("This way of sending is not set up any more.")
            channel.send(_letter(rows, attempt), _target(row), message_id=message_id, thread_id=thread_id_of(rows[0].job))
        except NotSent as exc:
            self._failed(row, rows, exc, now)
        except Exception as exc:  # A letter that cannot be made must not keep the others.
            log.exception("notification %d", row.pk, extra={"action": "notification_failed", "job_id": row.job_id})
            self._failed(row, rows, NotSent(f"The letter could not be made: {type(exc).__name__}: {exc}"[:1000]), now)
        else:
            with self._writing():
                sent = {"state": Notification.SENT, "sent_at": timezone.now(), "error": "", "lease_until": None}
                Notification.objects.filter(pk__in=[one.pk for one in rows]).update(**sent)
            log.info("told %s of job %d", row.recipient, row.job_id, extra={"action": "notification_sent", "job_id": row.job_id})

    def _claimed_with(self, row: Notification, message_id: str, now: datetime) -> list[Notification]:
        """The other rows of its letter. One that may have been taken is made of the same again: its Message-ID says so to mail programs."""
        others = _claimed_as_one(row) if row.message_id else _folded(row, now)
        found = list(others.select_related("event", "job", "job__owner").order_by("id"))
        mine = {"state": Notification.SENDING, "lease_until": now + LEASE, "message_id": message_id}
        with self._writing():
            Notification.objects.filter(pk=row.pk, state=Notification.SENDING, lease_until=now + LEASE).update(message_id=message_id)
            return [one for one in found if others.filter(pk=one.pk).update(**mine) == 1]

    def _failed(self, row: Notification, rows: list[Notification], why: NotSent, now: datetime) -> None:
        """Where no server can have it, of this try or an earlier one, its rows may go with others the next time."""
        dead = why.for_good or now - row.created_at > GIVE_UP_AFTER
        delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** (row.tries - 1)) * random.uniform(0.75, 1.25)  # noqa: S311 - to spread
        with self._writing():
            ours = Notification.objects.filter(state=Notification.SENDING, lease_until=now + LEASE)  # unless somebody has taken over
            ours.filter(pk__in=[one.pk for one in rows]).update(
                state=Notification.DEAD if dead else Notification.PENDING,
                error=str(why),
                **({} if why.unsure or row.message_id else {"message_id": ""}),
                next_at=now + timedelta(seconds=delay_s),
                lease_until=None,
            )
        log.warning("%s", why, extra={"action": "notification_failed", "job_id": row.job_id})


def _target(row: Notification) -> str:
    """Raises NotSent."""
    if row.channel != chat.NAME:
        return row.recipient
    if row.chat is None:
        raise NotSent("Its owner has deleted this chat.", for_good=True)
    return row.chat.url


@transaction.atomic
def send_again(row: Notification, *, actor: User) -> bool:
    """Try a dead letter anew, for another week; False where it is not dead."""
    now = timezone.now()
    anew = {"state": Notification.PENDING, "next_at": now, "created_at": now, "tries": 0, "message_id": ""}
    if Notification.objects.filter(pk=row.pk, state=Notification.DEAD).update(**anew) != 1:
        return False
    audit.record(actor, Act.SENT_AGAIN, About.LETTER, target=row.pk, detail=f"{row}.")
    return True


def _letter(rows: list[Notification], attempt: Attempt | None) -> Letter:
    row = rows[0]
    with translation.override(preferences.language_of(row)):
        if len(rows) == 1:
            files = row.channel != chat.NAME
            if files and row.job.artifacts and attempt and attempt.started_at:
                artifacts.collect(row.job, attempt)
            return compose.compose(Occasion(row.occasion), row.event, attempt, files=files)
        told = [(Occasion(one.occasion), one.job, one.job.attempts.order_by("number").last()) for one in rows]
        since = min(one.job.ended_at or one.event.at for one in rows)
        ended = Job.objects.filter(owner=row.job.owner, state__in=TERMINAL, ended_at__gte=since).count()
        return compose.digest(told, ended=max(ended, len(rows)))


# --- storms -------------------------------------------------------------------------------------------------------------


def _failures(row: Notification) -> Q:
    return Q(channel=row.channel, recipient=row.recipient, occasion__in=FAILURES)


def _to_fold(row: Notification, now: datetime) -> datetime | None:
    """Until when a failure waits, since its recipient has been told of one just now; None where it does not, or may be there already."""
    if row.occasion not in FAILURES or row.message_id:
        return None
    last = Notification.objects.filter(_failures(row), state=Notification.SENT, sent_at__gt=now - FOLD).order_by("-sent_at").first()
    return last.sent_at + FOLD if last and last.sent_at else None


def _folded(row: Notification, now: datetime) -> QuerySet[Notification]:
    """The other failures that wait for this recipient: they go with this one as one letter."""
    waiting = Notification.objects.filter(_failures(row), state=Notification.PENDING, next_at__lte=now, message_id="").exclude(pk=row.pk)
    return waiting if row.occasion in FAILURES else waiting.none()


def _same_letter(row: Notification, now: datetime) -> QuerySet[Notification]:
    """Those that were in one letter with this one, and are still to be told."""
    open_ones = Notification.objects.filter(Q(state=Notification.PENDING) | _forsaken(now))
    return open_ones.filter(recipient=row.recipient, message_id=row.message_id).exclude(pk=row.pk)


def _claimed_as_one(row: Notification) -> QuerySet[Notification]:
    """Those of them that were claimed with it."""
    claimed = Notification.objects.filter(state=Notification.SENDING, lease_until=row.lease_until)
    return claimed.filter(recipient=row.recipient, message_id=row.message_id).exclude(pk=row.pk)


def _forsaken(now: datetime) -> Q:
    """Those whose sender has died."""
    return Q(state=Notification.SENDING, lease_until__lt=now)


# --- names --------------------------------------------------------------------------------------------------------------


def message_id_of(row: Notification) -> str:
    """The same however often it is sent."""
    what = hashlib.sha256(f"{row.channel}\n{row.recipient}".encode()).hexdigest()[:16]
    return f"<{row.job.uid}.{row.event_id}.{what}@{domain()}>"


def thread_id_of(job: Job) -> str:
    """All letters about a job are one thread."""
    return f"<{job.uid}@{domain()}>"


def domain() -> str:
    name = urlsplit(settings.AUTOTRAINER.url).hostname or "localhost"
    return name if "." in name else f"{name}.autotrainer.invalid"


def _log_is_coming(attempt: Attempt | None, now: datetime) -> bool:
    if attempt is None or attempt.ended_at is None or attempt.log_removed_at or now - attempt.ended_at > LOG_PATIENCE:
        return False
    return logs.size(attempt.job_id, attempt.number) < attempt.log_bytes
