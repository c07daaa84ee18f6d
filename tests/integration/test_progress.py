"""How far trainings are: from what they print, through a real agent's heartbeats, into the row, REST and pages."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from gpuworker.protocol import AttemptReading, Ended, Spec
from jobs import dispatch, hostkeys, progress
from jobs.hosts import Watch
from jobs.ingest import Ingest
from jobs.models import Attempt, Job, User
from jobs.states import JobState
from tests.integration.fakehost import FakeHost
from tests.integration.host import running_host
from tests.integration.rest import Rest
from tests.waiting import wait_until

Submit = Callable[..., Job]
MOCK_TRAIN = Path(__file__).resolve().parents[2] / "mock_train.py"


def start(host: FakeHost) -> Spec:
    """Place what waits, and let the host say that it runs."""
    dispatch.run_pass(timezone.now())
    (spec,) = host.offers()
    host.started(spec)
    Ingest().turn(block_ms=1)
    return spec


def says(host: FakeHost, spec: Spec, fraction: float | None, **changes: Any) -> None:
    told = {"job": spec.job, "attempt": spec.attempt, "fence": spec.fence, "running": True} | changes
    host.beat(attempts=(AttemptReading(progress=fraction, **told),))


def look(watch: Watch) -> None:
    watch.look(timezone.now())


def told(job: Job) -> float | None:
    job.refresh_from_db()
    return job.progress


@pytest.fixture
def every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two looks of a test are nearer to each other than two of the leader."""
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    monkeypatch.setattr(hostkeys, "FRESH_S", -1.0)


def test_progress_and_memory_of_mock_train_are_told_by_a_real_agent(redis_url: str, tmp_path: Path) -> None:
    command = shlex.join([sys.executable, str(MOCK_TRAIN), "--name", "seen", "--seconds", "4", "--mem", "3", "--mode", "error"])
    seen: set[float] = set()
    with running_host(redis_url, tmp_path) as host:
        spec = host.offer(host.spec(command))

        def over() -> bool:
            host.hear()
            beat = host.beat()
            seen.update(a.progress for a in beat.attempts if a.progress is not None) if beat else None
            return any(isinstance(r, Ended) for r in host.reports)

        wait_until(over, 40, "the end of the training")
        ended = host.report(Ended, spec)
        samples = host.folder(spec) / f"samples-{ended.devices[0].index}.json"
        wait_until(lambda: json.loads(samples.read_text())["peak_memory_mib"] == ended.peak_memory_mib, 10, "the last samples")
    assert ended.peak_memory_mib == 3 * 1024  # its --mem, which is more than what one counts that has not told yet
    assert len(seen) >= 2
    assert all(0 < fraction <= 1 for fraction in seen)
    assert ended.progress is not None
    assert max(seen) <= ended.progress < 1
    assert f"Epoch {round(10 * ended.progress)}/10".encode() in host.log(spec)


def test_progress_is_written_where_it_has_moved(host: FakeHost, submit: Submit, django_assert_num_queries: Any, every_look: None) -> None:
    job, watch = submit(), Watch()
    spec = start(host)
    says(host, spec, 0.25)
    look(watch)
    assert told(job) == 0.25
    assert job.progress_at is not None
    says(host, spec, 0.2549)
    with django_assert_num_queries(5):  # of the look itself, all of them reads
        look(watch)
    assert told(job) == 0.25
    says(host, spec, 0.256)
    look(watch)
    assert told(job) == 0.256


def test_progress_is_written_once_a_second_at_most(host: FakeHost, submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 3600.0)
    job, watch = submit(), Watch()
    spec = start(host)
    for fraction in (0.1, 0.5):
        says(host, spec, fraction)
        look(watch)
    assert told(job) == 0.1


@pytest.mark.parametrize(
    "strange", [{"job": "00000000-0000-0000-0000-000000000000"}, {"attempt": 2}, {"fence": 2**70}, {"running": False}, {"age_s": 60.0}]
)
def test_progress_of_what_is_not_this_attempt_now_is_not_believed(host: FakeHost, submit: Submit, strange: dict[str, Any]) -> None:
    job = submit()
    spec = start(host)
    reading = {"job": spec.job, "attempt": spec.attempt, "fence": spec.fence, "running": True, "progress": 0.5}
    age_s = strange.get("age_s", 0.0)
    host.beat(attempts=(AttemptReading(**(reading | {k: v for k, v in strange.items() if k != "age_s"})),), age_s=age_s)
    look(Watch())
    assert told(job) is None


@pytest.mark.parametrize("fraction", [None, -0.1, 1.1, float("nan")])
def test_progress_that_is_none_is_not_written(host: FakeHost, submit: Submit, fraction: float | None) -> None:
    job = submit()
    says(host, start(host), fraction)
    look(Watch())
    assert told(job) is None


def test_progress_begins_anew_with_a_new_attempt(host: FakeHost, submit: Submit, every_look: None) -> None:
    job, watch = submit(max_retries=1, retry_delay_s=0), Watch()
    spec = start(host)
    says(host, spec, 0.5)
    look(watch)
    host.ended(spec, exit_code=1, progress=0.6)
    Ingest().turn(block_ms=1)
    assert told(job) is None
    says(host, spec, 0.7)  # an old heartbeat
    look(watch)
    assert told(job) is None
    Job.objects.filter(pk=job.pk).update(not_before=None, line=0)
    host.beat()
    again = start(host)
    assert (again.attempt, told(job)) == (2, None)
    says(host, again, 0.1)
    look(watch)
    assert told(job) == 0.1


@pytest.mark.parametrize(
    ("seen", "at_the_end", "exit_code", "stays"),
    [(0.5, 0.97, 0, 1.0), (0.5, None, 0, 1.0), (None, 0.97, 0, 1.0), (None, None, 0, None), (0.5, 0.6, 1, 0.6), (0.5, None, 1, 0.5)],
)
def test_progress_of_an_ended_job(
    host: FakeHost, submit: Submit, seen: float | None, at_the_end: float | None, exit_code: int, stays: float | None
) -> None:
    job = submit()
    spec = start(host)
    says(host, spec, seen)
    look(Watch())
    host.ended(spec, exit_code=exit_code, progress=at_the_end)
    Ingest().turn(block_ms=1)
    assert told(job) == stays


def test_peak_memory_is_stored_and_shown(host: FakeHost, submit: Submit, ada: User) -> None:
    job = submit()
    spec = start(host)
    page = Client()
    page.force_login(ada)
    assert 'id="peak"' not in page.get(f"/jobs/{job.pk}/").content.decode()
    host.ended(spec, peak_memory_mib=23_654)
    Ingest().turn(block_ms=1)
    assert Attempt.objects.get().peak_memory_mib == 23_654
    assert "23.1 GiB on one GPU" in page.get(f"/jobs/{job.pk}/").content.decode()


NOW = timezone.now()
HOURS = timedelta(hours=1)


@pytest.mark.parametrize(
    ("state", "fraction", "told_ago", "left_s"),
    [
        ("running", 0.5, timedelta(), 3600.0),
        ("running", 0.25, 0.5 * HOURS, 3600.0),  # half an hour for a quarter: an hour and a half, of which half an hour is over
        ("running", 0.8, 0.9 * HOURS, None),  # longer ago than the rest should have taken
        ("running", 0.01, timedelta(), None),
        ("running", 1.0, timedelta(), None),
        ("running", None, timedelta(), None),
        ("stopping", 0.5, timedelta(), None),
        ("completed", 1.0, timedelta(), None),
    ],
)
def test_remaining_time_counts_from_when_it_got_there(
    state: str, fraction: float | None, told_ago: timedelta, left_s: float | None
) -> None:
    job = Job(state=state, progress=fraction, progress_at=NOW - told_ago)
    assert progress.remaining_s(job, Attempt(started_at=NOW - HOURS), NOW) == left_s
    assert progress.remaining_s(job, Attempt(), NOW) is None
    assert progress.remaining_s(job, None, NOW) is None


def test_progress_is_shown(host: FakeHost, submit: Submit, ada: User) -> None:
    job = submit()
    says(host, start(host), 0.5)
    look(Watch())
    Attempt.objects.update(started_at=timezone.now() - timedelta(minutes=40, seconds=30))
    body = Rest(ada)("GET", f"jobs/{job.pk}/").json()
    assert body["progress"] == 0.5
    assert 2400 < body["remaining_s"] <= 2430
    browser = Client()
    browser.force_login(ada)
    for page in ("/", f"/jobs/{job.pk}/"):
        text = browser.get(page).content.decode()
        assert "50 %" in text
        assert "≈ 40 m left" in text
    Job.objects.update(progress=None)
    assert Rest(ada)("GET", f"jobs/{job.pk}/").json()["remaining_s"] is None
    assert JobState(Job.objects.get().state) is JobState.RUNNING
