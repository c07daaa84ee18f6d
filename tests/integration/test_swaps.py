"""Swaps from a submission to a host and back, as the control plane sees them: contents, refusals, what is told."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from gpuworker import protocol
from gpuworker.protocol import AttemptReading, PutBack, Spec, Swapped
from jobs import dispatch, lifecycle, swaps
from jobs.ingest import Ingest
from jobs.models import Content, Job, JobEvent, User
from jobs.reconcile import Reconciler
from jobs.states import JobState, Line, WaitReason
from tests.integration.fakehost import FakeHost
from tests.integration.rest import Rest, errors, known_host, make_job, person

TEXT = "LR = 0.2  # é\n"
SHA256 = hashlib.sha256(TEXT.encode()).hexdigest()
STORED = {"target": "loss.py", "sha256": SHA256, "size": len(TEXT.encode())}
SWAPS = [{"target": "loss.py", "content": TEXT}]
Submit = Callable[..., Job]


@pytest.fixture
def ingest(host: FakeHost) -> Ingest:
    return Ingest()


def offered(host: FakeHost) -> Spec:
    dispatch.run_pass(timezone.now())
    (spec,) = host.offers()
    return spec


def take(ingest: Ingest) -> None:
    while ingest.turn(block_ms=1):
        pass


def told(job: Job, kind: str) -> JobEvent:
    return JobEvent.objects.get(job=job, type=kind)


def waits(job: Job) -> tuple[str, str, str]:
    job.refresh_from_db()
    return job.state, job.wait_code, job.wait_message


# --- submission ---------------------------------------------------------------------------------------------------------


def test_content_is_kept_by_its_hash_and_shown_by_it(ann: User) -> None:
    api = Rest(ann)
    job = api("POST", "jobs/", {"command": "true", "min_gpus": 0, "swaps": [{"target": "./a//loss.py", "content": TEXT}]}).json()
    assert job["swaps"] == [{**STORED, "target": "a/loss.py"}]
    assert bytes(Content.objects.get(pk=SHA256).data) == TEXT.encode()
    answer = api("GET", f"jobs/{job['id']}/swaps/1/")
    assert (answer.status_code, answer.content.decode(), answer["Content-Type"]) == (200, TEXT, "text/plain; charset=utf-8")
    assert api("GET", f"jobs/{job['id']}/swaps/2/").status_code == 404


def test_relative_source_is_taken_from_the_checkout_and_an_empty_content_is_a_file(ann: User, settings: Any) -> None:
    swaps = [{"target": "a.py", "source": "new/a.py"}, {"target": "b.py", "content": ""}]
    job = Rest(ann)("POST", "jobs/", {"command": "true", "min_gpus": 0, "swaps": swaps}).json()
    assert job["swaps"][0] == {"target": "a.py", "source": str(settings.BASE_DIR / "new/a.py")}
    assert job["swaps"][1] == {"target": "b.py", "sha256": hashlib.sha256(b"").hexdigest(), "size": 0}


def test_job_that_is_sent_back_as_it_was_shown_keeps_its_swaps(ann: User) -> None:
    api = Rest(ann)
    job = api("POST", "jobs/", {"command": "true", "min_gpus": 0, "swaps": SWAPS, "hold": True}).json()
    assert api("PATCH", f"jobs/{job['id']}/", {"swaps": job["swaps"]}).json()["swaps"] == [STORED]
    assert api("POST", "jobs/", {"command": "true", "min_gpus": 0, "swaps": job["swaps"]}).json()["swaps"] == [STORED]
    assert api("POST", f"jobs/{job['id']}/resubmit/").json()["swaps"] == [STORED]
    assert api("PATCH", f"jobs/{job['id']}/", {"swaps": []}).json()["swaps"] == []


def test_hash_of_somebody_elses_content_opens_nothing(ann: User) -> None:
    make_job(ann, swaps=SWAPS)
    answer = Rest(person("bob"))("POST", "jobs/", {"command": "true", "min_gpus": 0, "swaps": [{"target": "x", "sha256": SHA256}]})
    assert answer.status_code == 400
    assert "handed in no content" in str(errors(answer))


def test_refused_submission_keeps_no_content(ann: User) -> None:
    known_host("gpu-a", 24)
    answer = Rest(ann)("POST", "jobs/", {"command": "true", "min_gpus": 99, "swaps": SWAPS})
    assert answer.status_code == 400
    assert not Content.objects.exists()


# --- on the way ---------------------------------------------------------------------------------------------------------


def test_content_travels_beside_the_spec_that_names_it(submit: Submit, host: FakeHost) -> None:
    submit(swaps=[*SWAPS, {"target": "b.py", "source": "/data/b.py"}])
    spec = offered(host)
    assert [(s.target, s.source, s.sha256) for s in spec.swaps] == [("loss.py", "", SHA256), ("b.py", "/data/b.py", "")]
    key = protocol.content_key(SHA256)
    assert host.redis.get(key) == TEXT.encode()
    assert 0 < host.redis.ttl(key) <= protocol.CONTENT_LIFETIME_S


def test_content_that_went_missing_comes_again_with_the_next_offer(submit: Submit, host: FakeHost, ingest: Ingest) -> None:
    job = submit(swaps=SWAPS)
    spec = offered(host)
    host.redis.delete(protocol.content_key(SHA256))
    host.refused(spec, "content_missing", "The content of loss.py is not in Redis any more.")
    take(ingest)
    assert waits(job)[:2] == (JobState.QUEUED, WaitReason.BACKOFF)
    assert (job.retries_spent, job.faults) == (0, 0)
    Job.objects.filter(pk=job.pk).update(not_before=None, line=Line.NEW)
    assert offered(host).fence > spec.fence
    assert host.redis.get(protocol.content_key(SHA256)) == TEXT.encode()


def test_refusal_for_a_file_waits_longer_each_time_and_no_longer_than_the_other_job(submit: Submit, host: FakeHost, ingest: Ingest) -> None:
    other = submit(swaps=SWAPS)
    running = offered(host)
    host.started(running)
    take(ingest)
    job = submit(swaps=SWAPS)
    said = f"loss.py is swapped by job #{other.pk} now; it can be swapped again when that one has ended."
    delays = []
    for _ in range(3):
        before = timezone.now()
        host.refused(offered(host), "file_in_use", said)
        take(ingest)
        assert waits(job) == (JobState.QUEUED, WaitReason.FILE_IN_USE, said)
        delays.append(round((job.not_before - before).total_seconds()))
        dispatch.run_pass(timezone.now())
        assert waits(job) == (JobState.QUEUED, WaitReason.FILE_IN_USE, said)  # No pass says something else meanwhile.
        assert not host.offers()
        Job.objects.filter(pk=job.pk).update(not_before=None, line=Line.NEW)
    assert delays == sorted(set(delays))
    host.refused(offered(host), "file_in_use", said)
    take(ingest)
    host.ended(running, put_back=(PutBack(target="loss.py", way="journal", result="restored"),))
    take(ingest)
    job.refresh_from_db()
    assert job.not_before is None
    assert offered(host).job == str(job.uid)


def test_others_are_not_told_which_file_a_job_waits_for(submit: Submit, host: FakeHost, ingest: Ingest, ada: User) -> None:
    job = submit(swaps=SWAPS)
    host.refused(offered(host), "file_in_use", "loss.py is swapped by job #1 now.")
    take(ingest)
    assert "loss.py" in Rest(ada)("GET", f"jobs/{job.pk}/").json()["wait_reason"]["message"]
    assert "loss.py" not in Rest(person("bob"))("GET", f"jobs/{job.pk}/").content.decode()


# --- what is told -------------------------------------------------------------------------------------------------------


def test_events_tell_what_was_swapped_and_what_became_of_it(submit: Submit, host: FakeHost, ingest: Ingest) -> None:
    job = submit(swaps=SWAPS)
    spec = offered(host)
    swapped = (Swapped(target="loss.py", way="mount", diff="-a\0\n+b\n"), Swapped(target="new.py", way="journal", absent=True))
    host.started(spec, swapped=swapped)
    kept = PutBack(target="loss.py", way="journal", result="conflict", path="/code/loss.py", kept="/code/loss.py.original-of-job-7")
    host.ended(spec, put_back=(PutBack(target="new.py", way="journal", result="removed"), kept))
    take(ingest)
    event = told(job, "files_swapped")
    assert "loss.py for this job alone (mount namespace) and new.py by putting" in event.message
    assert (event.attempt, event.data["files"][0]["diff"]) == (1, "-a\ufffd\n+b\n")
    assert told(job, "files_restored").message == "Attempt 1: new.py is gone again."
    conflict = told(job, "restore_conflict").message
    assert "/code/loss.py, the original is /code/loss.py.original-of-job-7" in conflict
    job.refresh_from_db()
    assert job.state == JobState.COMPLETED


def test_report_of_an_older_host_has_no_swaps_and_is_taken_in(submit: Submit, host: FakeHost, ingest: Ingest) -> None:
    job = submit(swaps=SWAPS)
    spec = offered(host)
    host.started(spec)
    host.ended(spec)
    take(ingest)
    assert waits(job)[0] == JobState.COMPLETED
    assert not JobEvent.objects.filter(job=job, type__startswith="files_").exists()


def test_overlay_that_somebody_ended_is_told_once(submit: Submit, host: FakeHost, ingest: Ingest) -> None:
    job = submit(swaps=SWAPS)
    spec = offered(host)
    host.started(spec)
    take(ingest)
    reading = AttemptReading(job=spec.job, attempt=1, fence=spec.fence, running=True, uncovered=("loss.py",))
    host.beat(attempts=(reading,))
    for _ in range(2):
        Reconciler().round(timezone.now() + timedelta(seconds=1))
    assert "loss.py was replaced by somebody while attempt 1 runs" in told(job, "overlay_ended").message


def test_resubmit_by_an_operator_may_name_the_content_it_copied(submit: Submit, ada: User) -> None:
    job = submit(swaps=SWAPS)
    boss = person("boss")
    copy = lifecycle.resubmit(job, actor=boss)
    assert copy.swaps == [STORED]
    assert Content.objects.get(pk=SHA256).owners.count() == 2


def test_target_that_was_not_there_before_is_said() -> None:
    there, new = (Swapped(target=target, way="journal", absent=absent) for target, absent in (("a.py", False), ("b.py", True)))
    assert swaps.told_swapped(1, [there])[0].endswith("(journal).")
    assert swaps.told_swapped(1, [there, new])[0].endswith("(journal). b.py was not there before: is the name right?")
