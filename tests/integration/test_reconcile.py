"""What is repaired when messages, agents and hosts get lost; and what silence alone never takes back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from gpuworker.protocol import AttemptReading, Spec
from jobs import dispatch, drains, hostlink, lifecycle
from jobs.hosts import Watch
from jobs.models import Attempt, Device, Host, Job, User
from jobs.reconcile import MISSING_S, Reconciler
from jobs.states import DeviceState, HostState, JobState, Outcome, WaitReason
from tests.integration.fakehost import FakeHost

Submit = Callable[..., Job]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reconciler(clock: Clock) -> Reconciler:
    return Reconciler(clock=clock)


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The fences that were told to stop."""
    sent: list[int] = []
    monkeypatch.setattr(hostlink, "stop", lambda attempt, **_: sent.append(attempt.fence) or True)
    return sent


def offered(job: Job, host: FakeHost) -> Spec:
    dispatch.place(timezone.now())
    (spec,) = host.offers()
    return spec


def running(job: Job, host: FakeHost) -> tuple[Spec, Attempt]:
    spec = offered(job, host)
    attempt = Attempt.objects.get(fence=spec.fence)
    Attempt.objects.filter(pk=attempt.pk).update(started_at=timezone.now(), boot_id=host.boot_id)
    Job.objects.filter(pk=job.pk).update(state=JobState.RUNNING)
    return spec, attempt


def listed(spec: Spec, *, running: bool = True) -> tuple[AttemptReading, ...]:
    return (AttemptReading(job=spec.job, attempt=spec.attempt, fence=spec.fence, running=running),)


def state(job: Job) -> JobState:
    job.refresh_from_db()
    return JobState(job.state)


def after(seconds: float) -> datetime:
    return timezone.now() + timedelta(seconds=seconds)


def test_offer_that_nobody_started_is_offered_again_under_the_same_fence(reconciler: Reconciler, submit: Submit, host: FakeHost) -> None:
    job = submit()
    spec = offered(job, host)
    reconciler.round(after(10))
    assert host.offers() == []
    reconciler.round(after(31))
    (again,) = host.offers()
    assert (again.fence, again.attempt, again.expires_at > spec.expires_at) == (spec.fence, 1, True)
    assert state(job) is JobState.STARTING


def test_offer_is_taken_back_when_it_has_expired_and_the_host_shows_that_it_did_not_start(
    reconciler: Reconciler, submit: Submit, host: FakeHost
) -> None:
    job = submit()
    offered(job, host)
    for seconds in (31, 62, 93, 119):
        reconciler.round(after(seconds))
    assert len(host.offers()) == 3
    reconciler.round(after(200))
    assert state(job) is JobState.STARTING
    reconciler.round(after(215))
    assert (state(job), job.next_attempt, job.faults) == (JobState.QUEUED, 1, 0)


def test_offer_is_not_taken_back_while_the_host_is_silent_or_shows_it_or_has_something_to_say(
    reconciler: Reconciler, submit: Submit, host: FakeHost
) -> None:
    job = submit()
    spec = offered(job, host)
    host.beat(age_s=30)
    reconciler.round(after(1000))
    assert state(job) is JobState.STARTING
    host.beat(attempts=listed(spec))
    reconciler.round(after(1000))
    assert state(job) is JobState.STARTING
    host.beat()
    host.started(spec)
    reconciler.round(after(1000))
    assert state(job) is JobState.STARTING


def test_stop_is_said_again_until_the_end_is_reported(
    reconciler: Reconciler, submit: Submit, host: FakeHost, ada: User, stops: list[int]
) -> None:
    job = submit()
    spec, _ = running(job, host)
    host.beat(attempts=listed(spec))
    lifecycle.cancel(job, actor=ada)
    reconciler.round(timezone.now())
    reconciler.round(timezone.now())
    assert stops == [spec.fence] * 3


def test_attempt_that_its_host_does_not_know_ends_as_exit_lost(
    reconciler: Reconciler, clock: Clock, submit: Submit, host: FakeHost
) -> None:
    job = submit()
    spec, attempt = running(job, host)
    host.beat(attempts=listed(spec, running=False))
    reconciler.round(timezone.now())
    host.beat()
    reconciler.round(timezone.now())
    clock.now += MISSING_S - 1
    reconciler.round(timezone.now())
    assert state(job) is JobState.RUNNING
    clock.now += 2
    reconciler.round(timezone.now())
    attempt.refresh_from_db()
    assert (state(job), attempt.outcome, job.faults, job.retries_spent) == (JobState.QUEUED, Outcome.EXIT_LOST, 1, 0)


def test_attempt_is_not_missing_while_a_report_waits_or_its_host_is_silent(
    reconciler: Reconciler, clock: Clock, submit: Submit, host: FakeHost
) -> None:
    job = submit()
    spec, _ = running(job, host)
    for quiet in (True, False):
        host.beat(age_s=60 if quiet else 0)
        if not quiet:
            host.ended(spec)
        reconciler.round(timezone.now())
        clock.now += 2 * MISSING_S
        reconciler.round(timezone.now())
        assert state(job) is JobState.RUNNING


def test_attempt_of_another_boot_ends_as_host_lost(reconciler: Reconciler, clock: Clock, submit: Submit, host: FakeHost) -> None:
    job = submit()
    _, attempt = running(job, host)
    host.boot_id = "boot-2"
    host.beat()
    reconciler.round(timezone.now())
    clock.now += MISSING_S + 1
    reconciler.round(timezone.now())
    attempt.refresh_from_db()
    assert (attempt.outcome, state(job)) == (Outcome.HOST_LOST, JobState.QUEUED)


def test_children_of_a_failed_parent_end_with_their_children(reconciler: Reconciler, submit: Submit, host: FakeHost) -> None:
    parent = submit(hold=True, name="prep")
    child = submit(after=(parent,))
    grandchild = submit(after=(child,), hold=True)
    Job.objects.filter(pk=parent.pk).update(state=JobState.FAILED)
    reconciler.round(timezone.now())
    assert (state(child), state(grandchild)) == (JobState.CANCELLED, JobState.CANCELLED)
    message = child.events.get(type="cancelled").message
    assert message == f"Cancelled: #{parent.pk} prep, which it waits for, failed."


def test_stopping_job_without_an_attempt_ends(reconciler: Reconciler, submit: Submit, host: FakeHost) -> None:
    job = submit()
    Job.objects.filter(pk=job.pk).update(state=JobState.STOPPING)
    reconciler.round(timezone.now())
    assert state(job) is JobState.CANCELLED


def test_lost_host_that_comes_back_keeps_its_devices_until_its_trainings_have_ended(
    reconciler: Reconciler, submit: Submit, host: FakeHost, ada: User, stops: list[int]
) -> None:
    job = submit(min_gpus=2)
    spec, attempt = running(job, host)
    with pytest.raises(drains.HostRefused, match="was heard"):
        drains.declare_lost("gpu-a", ada)
    host.redis.delete("autotrainer:host:gpu-a:beat")
    assert drains.declare_lost("gpu-a", ada) == 1
    attempt.refresh_from_db()
    assert (attempt.outcome, state(job), Host.objects.get().state) == (Outcome.HOST_LOST, JobState.QUEUED, HostState.LOST)
    host.beat(attempts=listed(spec), at=timezone.now().timestamp() + 11)
    Job.objects.update(not_before=None)
    dispatch.run_pass(timezone.now())
    assert (state(job), job.wait_code) == (JobState.QUEUED, WaitReason.RESOURCES)
    reconciler.round(timezone.now())
    assert stops == [spec.fence]
    host.beat()
    dispatch.run_pass(timezone.now())
    assert state(job) is JobState.STARTING


# --- heartbeats into rows -----------------------------------------------------------------------------------------------


def test_watch_writes_hosts_and_devices_and_tells_what_became_free(host: FakeHost, ada: User) -> None:
    watch = Watch()
    assert watch.look(timezone.now())
    row = Host.objects.get()
    assert (row.state, row.reason, row.inventory_known, row.device_count, row.job_slots) == (HostState.UP, "", True, 2, 112)
    assert [(d.index, d.memory_total_mib, d.present) for d in Device.objects.all()] == [(0, 24576, True), (1, 24576, True)]
    assert not watch.look(timezone.now())
    drains.drain_device("GPU-gpu-a-1", ada, "fan")
    assert not watch.look(timezone.now())
    drains.resume_device("GPU-gpu-a-1", ada)
    assert watch.look(timezone.now())


def test_watch_writes_nothing_when_nothing_changed(host: FakeHost, django_assert_num_queries: Any) -> None:
    watch = Watch()
    watch.look(timezone.now())
    host.beat()
    with django_assert_num_queries(6):  # all of them reads
        watch.look(timezone.now())


def test_watch_sees_a_host_fall_silent_and_come_back(host: FakeHost, settings: Any) -> None:
    watch = Watch()
    watch.look(timezone.now())
    host.beat(age_s=settings.AUTOTRAINER.host_lost_s + 1)
    watch.look(timezone.now())
    row = Host.objects.get()
    assert row.state == HostState.UNREACHABLE
    assert "has not been heard from since" in row.reason
    host.beat()
    assert watch.look(timezone.now())
    assert Host.objects.get().state == HostState.UP


def test_watch_keeps_devices_while_the_driver_does_not_answer_and_marks_those_that_are_gone(host: FakeHost) -> None:
    watch = Watch()
    watch.look(timezone.now())
    devices, host.devices = host.devices, []
    host.beat(device_error="driver not loaded")
    watch.look(timezone.now())
    assert Device.objects.filter(present=True).count() == 2
    assert Host.objects.get().device_error == "driver not loaded"
    host.devices = devices[:1]
    host.beat()
    watch.look(timezone.now())
    assert [d.present for d in Device.objects.all()] == [True, False]


def test_two_hosts_that_show_one_device_do_not_fight_over_it(host: FakeHost, broker: str, caplog: Any) -> None:
    Host.objects.create(name="gpu-b")
    other = FakeHost(broker, "gpu-b")
    other.devices = host.devices
    other.beat()
    watch = Watch()
    for _ in range(3):
        watch.look(timezone.now())
    assert {d.host.name for d in Device.objects.all()} == {"gpu-a"}
    assert caplog.text.count("both show device GPU-gpu-a-0") == 1
    other.close()


def test_views_tell_who_has_a_device_and_why(submit: Submit, host: FakeHost, ada: User) -> None:
    from jobs.capacity import hosts_now

    job = submit(name="big")
    offered(job, host)
    Watch().look(timezone.now())
    drains.drain_device("GPU-gpu-a-1", ada, "fan")
    (view,) = hosts_now()
    first, second = view.devices
    assert (first.state, first.job, first.job_name, first.job_owner) == (DeviceState.CLAIMED, job.pk, "big", "ada")
    assert (first.reason, second.reason) == (f"Runs #{job.pk} of ada.", "Is drained by ada: fan.")
    assert (view.used_slots, view.free_devices, view.accepts) == (1, (), True)
    host.redis.delete("autotrainer:host:gpu-a:beat")
    (view,) = hosts_now()
    assert [d.state for d in view.devices] == [DeviceState.CLAIMED, DeviceState.UNKNOWN]
    assert not view.accepts
