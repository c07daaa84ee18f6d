"""What people, the scheduler and hosts do to a job, on the real database."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from django.utils import timezone

from gpuworker.protocol import DeviceRef, Ended, EndReason, Refused, Started
from jobs import lifecycle
from jobs.models import Attempt, Dispatch, Job, JobEvent, User
from jobs.states import TERMINAL, TRANSITIONS, JobState, Outcome, WaitReason
from tests.integration.fakehost import FakeHost

Submit = Callable[..., Job]
HOST = "gpu-a"
DEVICES = [{"uuid": "GPU-gpu-a-0", "index": 0}]


def dispatched(job: Job) -> Attempt:
    job.refresh_from_db()
    attempt = lifecycle.dispatch(job, host=HOST, devices=DEVICES, now=timezone.now())
    assert attempt
    return attempt


def start(job: Job, attempt: Attempt) -> Started:
    said = Started(
        job=str(job.uid),
        attempt=attempt.number,
        fence=attempt.fence,
        devices=(DeviceRef(uuid="GPU-gpu-a-0", index=0),),
        boot_id="b",
        pid=1,
        start_ticks=1,
        started_at=time.time(),
    )
    assert lifecycle.started(said, host=HOST)
    return said


def end(job: Job, attempt: Attempt, exit_code: int | None = 0, **more: object) -> Ended:
    told = {"reason": EndReason.EXITED, "exit_code": exit_code, "ended_at": time.time()} | more
    return Ended(job=str(job.uid), attempt=attempt.number, fence=attempt.fence, **told)  # type: ignore[arg-type]


def state(job: Job) -> JobState:
    job.refresh_from_db()
    return JobState(job.state)


def events(job: Job) -> list[str]:
    return list(JobEvent.objects.filter(job=job).order_by("id").values_list("type", flat=True))


def test_job_goes_from_submit_to_completed_with_one_event_for_each_step(submit: Submit, host: FakeHost) -> None:
    job = submit()
    attempt = dispatched(job)
    start(job, attempt)
    assert lifecycle.ended(end(job, attempt), host=HOST)
    assert state(job) is JobState.COMPLETED
    assert events(job) == ["submitted", "dispatched", "attempt_started", "completed"]
    assert (job.exit_code, job.wait_code, bool(job.started_at and job.ended_at)) == (0, "", True)


def test_repeated_and_outdated_reports_change_nothing(submit: Submit, host: FakeHost) -> None:
    job = submit(max_retries=1)
    attempt = dispatched(job)
    said = start(job, attempt)
    assert not lifecycle.started(said, host=HOST)
    assert not lifecycle.ended(replace(end(job, attempt), fence=attempt.fence + 1), host=HOST)
    assert not lifecycle.ended(end(job, attempt), host="gpu-b")
    failed = end(job, attempt, 1)
    assert lifecycle.ended(failed, host=HOST)
    assert not lifecycle.ended(failed, host=HOST)
    assert (state(job), job.retries_spent) == (JobState.QUEUED, 1)


def test_end_that_two_leaders_take_in_at_once_counts_once(submit: Submit, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    job = submit(max_retries=3)
    attempt = dispatched(job)
    start(job, attempt)
    monkeypatch.setattr(lifecycle, "open_attempt", lambda *_: attempt)  # both have found it open
    assert [lifecycle.ended(end(job, attempt, 1), host=HOST) for _ in range(2)] == [True, False]
    assert (state(job), job.retries_spent) == (JobState.QUEUED, 1)


def test_cancel_of_a_running_job_waits_for_its_end(submit: Submit, host: FakeHost, ada: User) -> None:
    job = submit()
    attempt = dispatched(job)
    start(job, attempt)
    assert lifecycle.cancel(job, actor=ada)
    assert lifecycle.cancel(job, actor=ada)
    assert state(job) is JobState.STOPPING
    lifecycle.ended(end(job, attempt, 143, reason=EndReason.CANCELLED), host=HOST)
    assert state(job) is JobState.CANCELLED
    assert not lifecycle.cancel(job, actor=ada)
    assert events(job) == ["submitted", "dispatched", "attempt_started", "stopping", "cancelled"]


def test_start_that_is_told_after_a_cancel_is_kept_and_the_job_still_stops(submit: Submit, host: FakeHost, ada: User) -> None:
    job = submit()
    attempt = dispatched(job)
    lifecycle.cancel(job, actor=ada)
    start(job, attempt)
    assert state(job) is JobState.STOPPING
    assert Attempt.objects.get().started_at


def test_refused_dispatch_goes_back_to_its_place_and_spends_nothing(submit: Submit, host: FakeHost, woken: list[int]) -> None:
    job = submit()
    attempt = dispatched(job)
    woken.clear()
    said = Refused(job=str(job.uid), attempt=1, fence=attempt.fence, code="device_busy", message="GPU 0 is busy.")
    assert lifecycle.refused(said, host=HOST)
    assert (state(job), job.next_attempt, job.faults, job.retries_spent) == (JobState.QUEUED, 1, 0, 0)
    assert Dispatch.objects.get().refusal == "gpu-a refused it: GPU 0 is busy"
    assert woken
    again = dispatched(job)
    assert again.number == 1
    assert again.fence > attempt.fence
    assert not lifecycle.refused(said, host=HOST)


def test_job_is_held_when_the_infrastructure_spoiled_too_many_starts(submit: Submit, host: FakeHost, ada: User) -> None:
    job = submit()
    for _ in range(6):
        attempt = dispatched(job)
        lifecycle.ended(end(job, attempt, None, reason=EndReason.HOST_LOST, own_fault=False), host=HOST)
    assert (state(job), job.wait_code, job.retries_spent) == (JobState.HELD, WaitReason.HELD, 0)
    assert "6 starts" in job.wait_message
    assert lifecycle.release(job, actor=ada)
    assert (state(job), job.faults) == (JobState.QUEUED, 0)


def test_held_job_says_who_holds_it_and_starts_only_after_release(submit: Submit, host: FakeHost, ada: User) -> None:
    job = submit(hold=True)
    assert job.wait_reason == {"code": "Held", "message": "Held by ada until somebody releases it."}
    assert lifecycle.dispatch(job, host=HOST, devices=[], now=timezone.now()) is None
    assert lifecycle.release(job, actor=ada)
    assert not lifecycle.release(job, actor=ada)
    assert lifecycle.hold(job, actor=ada)
    assert state(job) is JobState.HELD


def test_job_can_be_edited_until_it_has_started(submit: Submit, host: FakeHost, ada: User) -> None:
    job = submit()
    assert lifecycle.edit(job, {"priority": 3}, actor=ada)
    attempt = dispatched(job)
    assert not lifecycle.edit(job, {"priority": 4}, actor=ada)
    start(job, attempt)
    lifecycle.ended(end(job, attempt, 1), host=HOST)
    assert not lifecycle.edit(job, {"priority": 4}, actor=ada)
    job.refresh_from_db()
    assert job.priority == 3


def test_resubmitted_job_takes_over_what_was_asked_but_not_when(submit: Submit, host: FakeHost, ada: User) -> None:
    job = submit(begin_at=timezone.now() + timedelta(hours=1), env={"A": "1"}, priority=4)
    copy = lifecycle.resubmit(job, actor=ada)
    assert (copy.env, copy.priority, copy.begin_at, copy.uid != job.uid) == ({"A": "1"}, 4, None, True)
    assert events(copy) == ["submitted", "copied"]


@pytest.mark.parametrize("before", JobState)
@pytest.mark.parametrize("after", JobState)
def test_only_the_transitions_of_the_table_can_be_written(submit: Submit, host: FakeHost, before: JobState, after: JobState) -> None:
    job = submit()
    Job.objects.filter(pk=job.pk).update(state=before)
    if after in TRANSITIONS[before]:
        assert lifecycle._move(job.pk, {before}, after, "moved", "Moved.")
        assert state(job) is after
    else:
        with pytest.raises(ValueError, match="a job never goes"):
            lifecycle._move(job.pk, {before}, after, "moved", "Moved.")
        assert state(job) is before


def test_outcomes_and_ends_agree(submit: Submit, host: FakeHost) -> None:
    for reason in EndReason:
        job = submit()
        attempt = dispatched(job)
        lifecycle.ended(end(job, attempt, 1, reason=reason), host=HOST)
        attempt.refresh_from_db()
        assert attempt.outcome in set(Outcome)
        assert state(job) in TERMINAL or job.wait_code == WaitReason.BACKOFF
