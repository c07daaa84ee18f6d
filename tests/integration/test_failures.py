"""Why attempts failed: read from their logs once, shown first, and compared with the person's other failures."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from jobs import failures, logs
from jobs.models import Attempt, Job, User
from jobs.states import JobState, Role
from tests.integration.rest import make_attempt, make_job, person, put_into

pytestmark = pytest.mark.django_db
TRACEBACK = b'Traceback (most recent call last):\n  File "/w/train.py", line 88, in main\n    config["lr"]\nKeyError: \'lr\'\n'
HOW = "KeyError: 'lr' at train.py:88"


def failed(owner: User, log: bytes = TRACEBACK, *, outcome: str = "failed", minutes_ago: float = 0, **fields: Any) -> Job:
    ended = timezone.now() - timedelta(minutes=minutes_ago)
    job = make_job(owner)
    make_attempt(job, 1, outcome=outcome, exit_code=1, ended_at=ended, started_at=ended, log_bytes=len(log), **fields)
    logs.append(job.pk, 1, 0, log)
    put_into(job, JobState.FAILED if outcome == "failed" else JobState.COMPLETED, ended_at=ended, exit_code=1)
    return job


def how(job: Job) -> str:
    return Attempt.objects.get(job=job).failure


def test_failure_is_read_from_the_log_once(ann: User) -> None:
    keyed, silent, oom, good = (
        failed(ann),
        failed(ann, b"nothing\n"),
        failed(ann, b"CUDA out of memory.\n"),
        failed(ann, outcome="completed"),
    )
    assert failures.explain(timezone.now()) == 3
    assert [how(job) for job in (keyed, silent, oom, good)] == [HOW, "-", "CUDA out of memory.", ""]
    assert failures.explain(timezone.now()) == 0


def test_log_that_is_still_coming_is_waited_for_a_little(ann: User) -> None:
    job = failed(ann, TRACEBACK)
    Attempt.objects.filter(job=job).update(log_bytes=10_000)
    assert failures.explain(timezone.now()) == 0
    assert failures.explain(timezone.now() + timedelta(minutes=1)) == 1
    assert how(failed(ann, minutes_ago=70)) == ""
    assert failures.explain(timezone.now()) == 0


def test_page_shows_the_traceback_first_and_how_many_failed_alike(ann: User, client: Any) -> None:
    jobs = [failed(ann) for _ in range(3)]
    failed(ann, b"CUDA out of memory.\n")
    failed(person("bob"))
    failures.explain(timezone.now())
    client.force_login(ann)
    page = client.get(f"/jobs/{jobs[0].pk}/").content.decode()
    assert page.index("KeyError: &#x27;lr&#x27; at train.py:88") < page.index('id="logbox"')
    assert "3 of your last 4 jobs failed like this" in page
    client.force_login(person("olga", Role.OPERATOR))
    assert "3 of the last 4 jobs of ann failed like this" in client.get(f"/jobs/{jobs[0].pk}/").content.decode()


def test_traceback_leads_to_its_line_of_the_log(ann: User, client: Any) -> None:
    job = failed(ann, b"one\ntwo\n" + TRACEBACK + b"after it\n")
    client.force_login(ann)
    link = f"/jobs/{job.pk}/log/failure/?attempt=1"
    assert f'href="{link}"' in client.get(f"/jobs/{job.pk}/").content.decode()
    last = 2 + TRACEBACK.count(b"\n")
    assert client.get(link).url == f"/jobs/{job.pk}/?attempt=1#L{last}"
    assert client.get(f"/jobs/{failed(ann, b'nothing').pk}/log/failure/").status_code == 404
    client.force_login(person("bob"))
    assert client.get(link).status_code == 404


def test_only_failure_of_its_kind_is_not_counted_out(ann: User, client: Any) -> None:
    job = failed(ann)
    failures.explain(timezone.now())
    client.force_login(ann)
    page = client.get(f"/jobs/{job.pk}/").content.decode()
    assert "failed like this" not in page
    assert 'id="failure"' in page


def test_others_do_not_see_how_it_failed(ann: User, client: Any) -> None:
    job = failed(ann)
    failed(ann)
    failures.explain(timezone.now())
    client.force_login(person("bob"))
    page = client.get(f"/jobs/{job.pk}/").content.decode()
    assert "KeyError" not in page
