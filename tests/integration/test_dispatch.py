"""A scheduling pass on the real database and a real Redis."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone

from gpuworker.protocol import ProcessReading
from jobs import dispatch, drains, lifecycle
from jobs.models import Attempt, Host, Job, User
from jobs.states import JobState, Line, WaitReason
from tests.integration.fakehost import FakeHost

Submit = Callable[..., Job]


def run_pass() -> float | None:
    return dispatch.run_pass(timezone.now())


def state(job: Job) -> JobState:
    job.refresh_from_db()
    return JobState(job.state)


def why(job: Job) -> tuple[str, str]:
    job.refresh_from_db()
    return job.wait_code, job.wait_message


def test_pass_offers_a_job_to_its_host_with_a_fence(submit: Submit, host: FakeHost) -> None:
    job = submit(env={"SEED": "7"})
    run_pass()
    (spec,) = host.offers()
    attempt = Attempt.objects.get(job=job)
    assert state(job) is JobState.STARTING
    assert (spec.job, spec.attempt, spec.fence) == (str(job.uid), 1, attempt.fence)
    assert (spec.command, spec.env, spec.devices) == ("python train.py", {"SEED": "7"}, ("GPU-gpu-a-0",))


def test_pass_starts_higher_priority_first_and_tells_the_others_why(submit: Submit, host: FakeHost) -> None:
    low, high, second = submit(min_gpus=2), submit(min_gpus=2, priority=5), submit(priority=1)
    run_pass()
    assert [spec.number for spec in host.offers()] == [high.pk]
    assert why(second) == (
        WaitReason.RESOURCES,
        f"Needs 1 GPU; gpu-a has 0 of 2: GPU 0 and 1 run #{high.pk} of ada.",
    )
    assert why(low) == (WaitReason.PRIORITY, f"#{second.pk} of ada goes first (priority 1, this job has 0); it needs 1 GPU.")


def test_positions_count_in_scheduling_order(submit: Submit, host: FakeHost) -> None:
    first, urgent, held, last = submit(), submit(priority=9), submit(hold=True), submit(priority=-1)
    positions = dispatch.queue_positions([first.pk, urgent.pk, held.pk, last.pk])
    assert positions == {urgent.pk: 1, first.pk: 2, last.pk: 3}


def test_positions_count_the_jobs_that_were_not_asked_for_too(submit: Submit, host: FakeHost) -> None:
    first, urgent = submit(), submit(priority=9)
    assert dispatch.queue_positions([first.pk]) == {first.pk: 2}
    assert dispatch.queue_positions([urgent.pk, 10**6]) == {urgent.pk: 1}
    assert dispatch.queue_positions([]) == {}


def test_pass_says_when_it_wants_to_run_again(submit: Submit, host: FakeHost) -> None:
    submit(begin_at=timezone.now() + timedelta(seconds=90))
    later = run_pass()
    assert later is not None
    assert 85 < later <= 90


def test_jobs_that_may_not_start_yet_say_why(submit: Submit, host: FakeHost) -> None:
    parent = submit(min_gpus=2, name="parent")
    later = submit(begin_at=timezone.now() + timedelta(hours=3, minutes=7, seconds=2))
    child = submit(after=(parent,))
    failed = submit()
    Job.objects.filter(pk=failed.pk).update(
        not_before=timezone.now() + timedelta(seconds=300), retries_spent=1, max_retries=2, next_attempt=2, line=Line.NEW
    )
    run_pass()
    assert why(child) == (WaitReason.DEPENDENCY, f"Waits for #{parent.pk} parent, which is starting.")
    assert why(later)[0] == WaitReason.BEGIN_TIME
    assert why(later)[1].endswith("in 3 h 7 m, as its owner asked.")
    assert why(failed)[0] == WaitReason.BACKOFF
    assert "Retry 1 of 2 starts" in why(failed)[1]


def test_job_starts_once_its_parent_completed(submit: Submit, host: FakeHost) -> None:
    parent = submit()
    child = submit(after=(parent,))
    run_pass()
    (spec,) = host.offers()
    assert state(child) is JobState.QUEUED
    lifecycle.ended(host.ended(spec), host="gpu-a")
    run_pass()
    assert state(child) is JobState.STARTING


def test_job_waits_for_a_drained_a_silent_and_an_unknown_host(submit: Submit, host: FakeHost, ada: User) -> None:
    job, elsewhere = submit(), submit(hosts=["gpu-z"])
    drains.drain_host("gpu-a", ada, "new fans")
    run_pass()
    assert why(job) == (WaitReason.HOST_DOWN, "No host can take it now: gpu-a is drained by ada: new fans.")
    assert why(elsewhere) == (WaitReason.HOST_DOWN, "It may only run on gpu-z, and no host of that name has joined.")
    drains.resume_host("gpu-a", ada)
    host.beat(age_s=30)
    run_pass()
    assert why(job)[0] == WaitReason.HOST_DOWN
    assert "gpu-a has not been heard from since" in why(job)[1]
    host.beat()
    run_pass()
    assert state(job) is JobState.STARTING


def test_device_that_somebody_else_uses_is_not_handed_out(submit: Submit, host: FakeHost) -> None:
    alien = ProcessReading(pid=4711, user="alice", command="/usr/bin/python x.py", memory_mib=9000)
    host.devices = [host.device(0, in_use_outside=True, processes=(alien,)), host.device(1, error="fell off the bus")]
    host.beat()
    job = submit(gpu_memory_mib=20_000)
    run_pass()
    assert why(job) == (
        WaitReason.RESOURCES,
        "Needs 1 GPU with 19.5 GiB free; gpu-a has 0 of 2: GPU 0 is used by alice's python (pid 4711) outside the queue, "
        "GPU 1 cannot be read: fell off the bus.",
    )


def test_request_that_no_host_can_ever_meet_never_fits(submit: Submit, host: FakeHost) -> None:
    Host.objects.update(inventory_known=True)
    job = submit(min_gpus=3)
    run_pass()
    assert why(job) == (WaitReason.NEVER_FITS, "Needs 3 GPUs on one host; the only host that it may use, gpu-a, has 2.")


def test_without_redis_nothing_starts_and_nothing_breaks(submit: Submit, host: FakeHost, settings: object) -> None:
    job = submit()
    host.redis.delete("autotrainer:host:gpu-a:beat")
    run_pass()
    assert state(job) is JobState.QUEUED


def test_job_that_changed_meanwhile_is_not_started_as_it_was(
    submit: Submit, host: FakeHost, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit()
    asked = dispatch._ask

    def edited_meanwhile(*args: object) -> None:
        asked(*args)  # type: ignore[arg-type]
        lifecycle.edit(job, {"min_gpus": 2, "max_gpus": 2}, actor=ada)

    monkeypatch.setattr(dispatch, "_ask", edited_meanwhile)
    assert dispatch.place(timezone.now()) == 0
    assert state(job) is JobState.QUEUED


def test_extra_devices_go_to_who_welcomes_them_only_where_nobody_waits(submit: Submit, host: FakeHost) -> None:
    greedy = submit(min_gpus=1, max_gpus=2)
    waiting = submit()
    run_pass()
    assert sorted(len(spec.devices) for spec in host.offers()) == [1, 1]
    Attempt.objects.all().delete()
    Job.objects.filter(pk=waiting.pk).update(state=JobState.CANCELLED)
    Job.objects.filter(pk=greedy.pk).update(state=JobState.QUEUED)
    run_pass()
    assert [spec.device_count for spec in host.offers()] == [2]
