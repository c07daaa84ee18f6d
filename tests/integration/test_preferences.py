"""What people want to be told, when, and in which language: the page, the outbox and the letters."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from jobs.models import AuditEntry, Job, JobEvent, Notification, Preference, User
from jobs.notifications import compose, outbox, preferences
from jobs.notifications.occasions import Occasion
from jobs.notifications.sending import Postman
from tests.integration.rest import make_attempt, make_job, person, put_into

pytestmark = pytest.mark.django_db

ALL = ["completed", "failed", "oom", "timed_out", "host_lost", "held", "cancelled", "quiet"]


@pytest.fixture
def ann() -> User:
    user = person("ann")
    user.email = "Ann@example.org"
    user.save()
    return user


@pytest.fixture
def browser(ann: User) -> Client:
    client = Client()
    client.force_login(ann)
    return client


@pytest.fixture
def ends(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """A job of a person that has ended, and its event."""
    monkeypatch.setattr("jobs.notifications.channels.for_mail", lambda: "smtp")

    def ended(owner: User, state: str = "failed", **fields: Any) -> Job:
        now = timezone.now()
        job = make_job(owner, **fields)
        make_attempt(job, 1, outcome=state, started_at=now, ended_at=now)
        put_into(job, state, ended_at=now)
        outbox.note(JobEvent.objects.create(job=job, attempt=1, type=state, at=now))
        return job

    return ended


def keep(browser: Client, **typed: Any) -> Any:
    return browser.post(
        "/account/notifications/",
        {"told": ALL, "quiet_from": "", "quiet_until": "", "time_zone": "", "language": "", "by_mail": "on"} | typed,
    )


def recipients() -> list[str]:
    return list(Notification.objects.order_by("id").values_list("recipient", flat=True))


def test_page_shows_what_was_kept_and_the_audit_log_who_did_it(browser: Client, ann: User) -> None:
    assert browser.get("/account/notifications/").content.decode().count(" checked") == len(ALL) + 1  # and mail
    typed = {"told": ["failed"], "quiet_from": "22:30", "quiet_until": "07:00", "time_zone": "Asia/Shanghai", "language": "zh-hans"}
    assert keep(browser, **typed).status_code == 302
    page = browser.get("/account/notifications/").content.decode()
    assert page.count(" checked") == 2
    for shown in ('value="22:30"', 'value="07:00"', 'value="Asia/Shanghai" selected', 'value="zh-hans" selected'):
        assert shown in page
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.detail) == (ann, "How they are told.")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"quiet_from": "22:30"}, "Write both times, or neither."),
        ({"quiet_until": "07:00"}, "Write both times, or neither."),
        ({"quiet_from": "07:00", "quiet_until": "07:00"}, "all day"),
        ({"quiet_from": "late", "quiet_until": "07:00"}, "Enter a valid time."),
        ({"time_zone": "../etc/passwd"}, "Select a valid choice."),
        ({"language": "\0"}, "Select a valid choice."),
    ],
)
def test_page_refuses_what_it_cannot_keep_and_says_why(browser: Client, typed: dict[str, str], said: str) -> None:
    answer = keep(browser, **typed)
    assert (answer.status_code, Preference.objects.count()) == (400, 0)
    assert said in answer.content.decode()


def test_owner_is_not_told_of_what_he_has_muted_unless_a_job_names_him(browser: Client, ann: User, ends: Callable[..., Job]) -> None:
    keep(browser, told=[name for name in ALL if name != "completed"])
    ends(ann, "completed")
    assert recipients() == []
    ends(ann, "failed")
    ends(ann, "completed", notify=["ann@example.org"])
    ends(person("bob"), "completed", notify=["ann@example.org"])
    assert recipients() == ["Ann@example.org", "ann@example.org", "ann@example.org"]


def test_letter_waits_for_the_end_of_quiet_hours(ann: User, ends: Callable[..., Job], settings: Any) -> None:
    settings.LOGS_HOME = settings.BASE_DIR / "nowhere"
    now = timezone.now()
    begin, end = now - timedelta(minutes=5), now + timedelta(minutes=5)
    Preference.objects.create(user=ann, quiet_from=begin.time(), quiet_until=end.time(), time_zone="UTC")
    ends(ann)
    assert Postman().turn()
    row = Notification.objects.get()
    assert (row.state, row.tries, row.next_at) == (Notification.PENDING, 0, end)
    ends(person("bob"), notify=["carl@example.org"])
    assert preferences.quiet_until(Notification(recipient="carl@example.org"), now) is None


@pytest.mark.parametrize(
    ("begin", "end", "zone", "now", "until"),
    [
        (time(22), time(7), "UTC", "2026-05-06T23:00", "2026-05-07T07:00"),
        (time(22), time(7), "UTC", "2026-05-06T06:59", "2026-05-06T07:00"),
        (time(22), time(7), "UTC", "2026-05-06T07:00", None),
        (time(22), time(7), "UTC", "2026-05-06T21:59", None),
        (time(12), time(13), "UTC", "2026-05-06T12:30", "2026-05-06T13:00"),
        (time(12), time(13), "UTC", "2026-05-06T13:00", None),
        (time(22), time(7), "Asia/Shanghai", "2026-05-06T15:00", "2026-05-06T23:00"),
        (time(22), time(7), "Europe/Berlin", "2026-03-28T22:00", "2026-03-29T05:00"),  # an hour shorter
        (time(22), time(7), "no zone", "2026-05-06T23:00", "2026-05-07T07:00"),
        (None, None, "UTC", "2026-05-06T23:00", None),
    ],
)
def test_quiet_hours_end_by_the_clock_on_the_persons_wall(
    settings: Any, begin: time | None, end: time | None, zone: str, now: str, until: str | None
) -> None:
    settings.TIME_ZONE = "UTC"
    kept = Preference(quiet_from=begin, quiet_until=end, time_zone=zone)
    ends = preferences.end_of_quiet(kept, datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert ends == (datetime.fromisoformat(until).replace(tzinfo=UTC) if until else None)


def test_letters_are_in_the_language_of_whoever_gets_them(ann: User, settings: Any) -> None:
    assert preferences.language_of(Notification(recipient="ann@example.org")) == settings.LANGUAGE_CODE
    Preference.objects.create(user=ann, language="zh-hans")
    assert preferences.language_of(Notification(recipient="ann@example.org")) == "zh-hans"
    assert preferences.language_of(Notification(recipient="bob@example.org")) == settings.LANGUAGE_CODE
    Preference.objects.update(language="gone")
    assert preferences.language_of(Notification(recipient="ann@example.org")) == settings.LANGUAGE_CODE


def test_starts_and_retries_are_told_to_owners_who_ask_for_it_and_to_nobody_else(ann: User, browser: Client, ends: Any) -> None:
    job = make_job(ann, max_retries=1)
    attempt = job.attempts.create(number=1, fence=1, host="gpu-a", created_at=timezone.now(), offer_expires_at=timezone.now())

    def tell(kind: str) -> None:
        outbox.note(JobEvent.objects.create(job=job, attempt=attempt.number, type=kind, at=timezone.now(), message="Attempt 1 failed."))

    for kind in ("attempt_started", "retry_scheduled"):
        tell(kind)
    assert recipients() == []
    keep(browser, told=[*ALL, "started", "retried"])
    assert browser.get("/account/notifications/").content.decode().count(" checked") == len(ALL) + 3
    for kind in ("attempt_started", "retry_scheduled"):
        tell(kind)
    assert list(Notification.objects.order_by("id").values_list("occasion", flat=True)) == ["started", "retried"]
    Job.objects.filter(pk=job.pk).update(notify=["boss@example.org"])
    tell("attempt_started")
    assert Notification.objects.count() == 2
    letters = [compose.compose(Occasion(row.occasion), row.event, attempt) for row in Notification.objects.order_by("id")]
    assert [letter.subject.split(" ")[1] for letter in letters] == ["STARTED", "RETRY"]
    assert "Attempt 1 failed." in letters[1].text
