"""What is thrown away after a while, and what never is."""

from __future__ import annotations

import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.utils import timezone
from knox.models import AuthToken

from jobs import logs, retention
from jobs.bootsteps import Janitor
from jobs.models import Content, IdempotencyKey, Job, JobEvent, OneTimeLink, User
from jobs.states import JobState
from jobs.web import onetime
from tests.integration.rest import Rest, make_attempt, make_job, put_into, token_of

pytestmark = pytest.mark.django_db

NOW = timezone.now()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "logs"


def a_job(owner: User, *, days_ago: float, state: JobState = JobState.COMPLETED) -> Job:
    """A job with a stored log of two attempts that ended so long ago."""
    job = make_job(owner)
    for number in (1, 2):
        make_attempt(job, number, outcome="completed", ended_at=NOW)
        logs.append(job.pk, number, 0, b"x" * 10_000)
    put_into(job, state, ended_at=NOW - timedelta(days=days_ago))
    return job


def prune(days: int = 90, **more: Any) -> retention.Pruned:
    return retention.prune(days=days, now=NOW, **more)


def stored(*those: Job) -> list[int]:
    return [job.pk for job in those if logs.size(job.pk, 1) or logs.size(job.pk, 2)]


def test_logs_of_jobs_that_ended_long_ago_go_and_the_jobs_stay(ann: User, home: Path) -> None:
    old, young = a_job(ann, days_ago=91), a_job(ann, days_ago=89)
    running = a_job(ann, days_ago=91, state=JobState.RUNNING)
    events = JobEvent.objects.count()
    pruned = prune()
    assert (pruned.jobs, pruned.log_bytes > 0) == (1, True)
    assert stored(old, young, running) == [young.pk, running.pk]
    assert not (home / str(old.pk)).exists()
    assert (Job.objects.count(), JobEvent.objects.count()) == (3, events)
    assert [a.log_removed_at for a in old.attempts.all()] == [NOW, NOW]
    assert [a.log_removed_at for a in young.attempts.all()] == [None, None]
    assert prune().jobs == 0


def test_removed_log_is_said_to_be_removed_on_page_and_rest(ann: User, client: Any) -> None:
    old = a_job(ann, days_ago=100)
    prune()
    assert Rest(ann)("GET", f"jobs/{old.pk}/log/").status_code == 410
    client.force_login(ann)
    page = client.get(f"/jobs/{old.pk}/").content.decode()
    assert "The log of attempt 2 was removed on" in page
    assert 'id="log-state"' not in page


def test_what_a_crash_left_half_removed_goes_the_next_time(ann: User, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = a_job(ann, days_ago=100)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    prune()
    assert Rest(ann)("GET", f"jobs/{old.pk}/log/").status_code == 410
    monkeypatch.undo()
    prune()
    assert not (home / str(old.pk)).exists()


def test_what_is_no_folder_of_a_job_of_ours_is_left_alone(ann: User, home: Path) -> None:
    home.mkdir()
    for name in ("987654", "notes"):
        (home / name).mkdir()
        (home / name / "1.log").write_bytes(b"x")
    assert prune().jobs == 0
    assert sorted(path.name for path in home.iterdir()) == ["987654", "notes"]


def test_expired_keys_links_tokens_and_sessions_go_and_the_others_stay(ann: User) -> None:
    job = a_job(ann, days_ago=0)
    for key, days in (("old", 8), ("young", 6)):
        IdempotencyKey.objects.create(owner=ann, key=key, fingerprint="f", job=job, created_at=NOW - timedelta(days=days))
    onetime.make_link(ann)
    OneTimeLink.objects.create(user=ann, digest="d", expires_at=NOW - timedelta(seconds=1))
    token_of(ann)
    expired, _ = AuthToken.objects.create(ann)
    AuthToken.objects.filter(pk=expired.pk).update(expiry=NOW - timedelta(seconds=1))
    for name, moment in (("old", NOW - timedelta(seconds=1)), ("young", NOW + timedelta(days=1))):
        Session.objects.create(session_key=name, session_data="", expire_date=moment)
    assert prune(dry_run=True).expired == prune().expired == 4
    assert [each.key for each in IdempotencyKey.objects.all()] == ["young"]
    assert (OneTimeLink.objects.count(), AuthToken.objects.count()) == (1, 1)
    assert [each.session_key for each in Session.objects.all()] == ["young"]


def told(*words: str) -> str:
    out = io.StringIO()
    call_command("prune", *words, stdout=out)
    return out.getvalue()


def test_prune_says_what_would_go_and_what_went(ann: User) -> None:
    old = a_job(ann, days_ago=40)
    assert told() == "Removed the logs of 0 jobs (0.0 MiB), 0 swapped files, 0 expired keys, links, tokens and sessions, 0 audit rows.\n"
    assert told("--days", "30", "--dry-run").startswith("Would remove the logs of 1 job (0.0 MiB)")
    assert stored(old) == [old.pk]
    assert told("--days", "30").startswith("Removed the logs of 1 job")
    assert stored(old) == []
    with pytest.raises(CommandError, match="0 or more"):
        told("--days", "-1")


def test_leader_prunes_once_a_day_and_nobody_else_does(ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lead:
        held = False

    old, clock, lead = a_job(ann, days_ago=100), [0.0], Lead()
    monkeypatch.setattr("jobs.bootsteps.connections.close_all", lambda: None)
    monkeypatch.setattr("jobs.bootsteps.time.monotonic", lambda: clock[0])
    janitor = Janitor(lead)  # type: ignore[arg-type]
    janitor.halt()  # its waits end at once
    for at, held, left in ((0, True, [old.pk]), (61, False, [old.pk]), (62, True, [])):
        clock[0], lead.held = at, held
        janitor.turn()
        assert stored(old) == left
    again = a_job(ann, days_ago=100)
    for at, left in ((3600, [again.pk]), (62 + 24 * 3600, [])):
        clock[0] = at
        janitor.turn()
        assert stored(again) == left


# --- swapped files ------------------------------------------------------------------------------------------------------


def with_file(owner: User, text: str, *, days_ago: float, state: JobState = JobState.COMPLETED) -> Job:
    body = {"command": "true", "min_gpus": 0, "swaps": [{"target": "loss.py", "content": text}]}
    job = Job.objects.get(pk=Rest(owner)("POST", "jobs/", body).json()["id"])
    put_into(job, state, ended_at=None if state is JobState.RUNNING else NOW - timedelta(days=days_ago))
    return job


def kept_files() -> set[bytes]:
    return {bytes(content.data) for content in Content.objects.all()}


def test_swapped_files_go_with_the_last_job_that_needs_them(ann: User) -> None:
    with_file(ann, "old", days_ago=91)
    with_file(ann, "old, but running", days_ago=91, state=JobState.RUNNING)
    with_file(ann, "young", days_ago=89)
    with_file(ann, "both", days_ago=91)
    with_file(ann, "both", days_ago=89)
    assert prune(dry_run=True).contents == 1
    assert "1 swapped file," in str(prune(dry_run=True))
    assert prune().contents == 1
    assert kept_files() == {b"old, but running", b"young", b"both"}
    assert prune().contents == 0


def test_job_whose_file_is_gone_is_not_run_again_without_it(ann: User) -> None:
    old = with_file(ann, "old", days_ago=91)
    prune()
    answer = Rest(ann)("POST", f"jobs/{old.pk}/resubmit/")
    assert answer.status_code == 409
    assert "handed in for loss.py was removed" in answer.json()["errors"][0]["detail"]
    assert Job.objects.count() == 1


def test_file_that_is_handed_in_while_it_is_thrown_away_stays(ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    with_file(ann, "old", days_ago=91)
    needed = retention._needed

    def then_handed_in(before: Any) -> set[str]:
        monkeypatch.setattr(retention, "_needed", needed)
        found = needed(before)
        with_file(ann, "old", days_ago=0)
        return found

    monkeypatch.setattr(retention, "_needed", then_handed_in)
    assert prune().contents == 0
    assert kept_files() == {b"old"}
