"""What is repaired when messages, agents and hosts get lost; and what silence alone never takes back.

One test or more for each row of "what the database says, what the host shows" (docs/how-it-works.md, "Repair"). The rows
that a host repairs by itself, with a real agent, are in test_adoption.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone

from gpuworker import protocol
from gpuworker.claims.store import ClaimRefused, ClaimStore
from gpuworker.protocol import AttemptReading, ProcessReading, Spec
from jobs import dispatch, drains, hostlink, lifecycle
from jobs.hosts import Watch
from jobs.ingest import Ingest
from jobs.leader import Deposed, Leadership
from jobs.models import Attempt, Device, Dispatch, Host, Job, Leader, User
from jobs.reconcile import GONE_MARGIN_S, MISSING_S, OLD_NEWS_S, OldNews, Reconciler
from jobs.states import HostState, JobState, Outcome, WaitReason
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
    monkeypatch.setattr(hostlink, "stop_on", lambda host, *, fence, **_: sent.append(fence) or True)
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


def acquire(host: FakeHost, spec: Spec) -> object:
    claims = ClaimStore(host.redis, host.name)
    key = protocol.attempt_key(spec.job, spec.attempt, spec.fence)
    return claims.acquire(key, job=spec.job, fence=spec.fence, count=spec.device_count, allowed=spec.devices)


def state(job: Job) -> JobState:
    job.refresh_from_db()
    return JobState(job.state)


def after(seconds: float) -> datetime:
    return timezone.now() + timedelta(seconds=seconds)


def test_row_starting_and_not_listed_is_offered_again_under_the_same_fence(reconciler: Reconciler, submit: Submit, host: FakeHost) -> None:
    job = submit()
    spec = offered(job, host)
    reconciler.round(after(10))
    assert host.offers() == []
    reconciler.round(after(31))
    (again,) = host.offers()
    assert (again.fence, again.attempt, again.expires_at > spec.expires_at) == (spec.fence, 1, True)
    assert state(job) is JobState.STARTING


def test_row_starting_and_not_listed_is_taken_back_when_three_offers_have_expired(
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
    assert state(job) is JobState.STARTING  # this heartbeat is of before the offers' end: it may have been put there again
    host.beat(at=after(200).timestamp())
    reconciler.round(after(215))
    assert (state(job), job.next_attempt, job.faults) == (JobState.QUEUED, 1, 0)


def test_row_starting_is_left_alone_while_the_host_is_silent_or_lists_it_or_has_something_to_say(
    reconciler: Reconciler, submit: Submit, host: FakeHost
) -> None:
    reconciler.round(timezone.now())
    job = submit()
    spec = offered(job, host)
    acquire(host, spec)
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


def test_row_stopping_is_told_to_stop_again_until_its_end_is_reported(
    reconciler: Reconciler, submit: Submit, host: FakeHost, ada: User, stops: list[int]
) -> None:
    job = submit()
    spec, _ = running(job, host)
    host.beat(attempts=listed(spec))
    lifecycle.cancel(job, actor=ada)
    reconciler.round(timezone.now())
    reconciler.round(timezone.now())
    assert stops == [spec.fence] * 3


def test_row_started_and_not_listed_on_the_same_boot_is_exit_lost_and_its_host_is_drained(
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
    row = Host.objects.get()
    assert (row.drain, f"knows nothing any more of #{job.pk}, attempt 1" in row.drain_reason) == (True, True)
    assert {ack.what for ack in host.acks()} == {"again"}


def test_row_started_is_left_alone_while_only_a_heartbeat_of_before_its_start_misses_it(
    reconciler: Reconciler, clock: Clock, submit: Submit, host: FakeHost
) -> None:
    """Such a heartbeat was put there again by whoever can write into Redis."""
    job = submit()
    _, attempt = running(job, host)
    attempt.refresh_from_db()
    assert attempt.started_at
    host.boot_id = "another boot"
    host.beat(at=attempt.started_at.timestamp() - 1)
    for _ in range(3):
        reconciler.round(timezone.now())
        clock.now += MISSING_S
    assert state(job) is JobState.RUNNING
    host.beat(at=attempt.started_at.timestamp() + 1)
    reconciler.round(timezone.now())
    assert state(job) is JobState.QUEUED


def test_row_started_is_left_alone_while_a_report_waits_or_its_host_is_silent(
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


def test_row_started_on_another_boot_is_host_lost_and_spends_the_infrastructure_budget(
    reconciler: Reconciler, clock: Clock, submit: Submit, host: FakeHost
) -> None:
    job = submit()
    _, attempt = running(job, host)
    host.boot_id = "boot-2"
    host.beat()
    reconciler.round(timezone.now())
    clock.now += MISSING_S + 1
    reconciler.round(timezone.now())
    attempt.refresh_from_db()
    assert (attempt.outcome, state(job)) == (Outcome.HOST_LOST, JobState.QUEUED)
    assert (job.faults, job.retries_spent, Host.objects.get().drain) == (1, 0, False)


def test_row_waiting_for_a_failed_job_is_cancelled_with_those_who_wait_for_it(
    reconciler: Reconciler, submit: Submit, host: FakeHost
) -> None:
    parent = submit(hold=True, name="prep")
    child = submit(after=(parent,))
    grandchild = submit(after=(child,), hold=True)
    Job.objects.filter(pk=parent.pk).update(state=JobState.FAILED)
    reconciler.round(timezone.now())
    assert (state(child), state(grandchild)) == (JobState.CANCELLED, JobState.CANCELLED)
    message = child.events.get(type="cancelled").message
    assert message == f"Cancelled: #{parent.pk} prep, which it waits for, failed."


def test_row_stopping_without_an_attempt_is_cancelled(reconciler: Reconciler, submit: Submit, host: FakeHost) -> None:
    job = submit()
    Job.objects.filter(pk=job.pk).update(state=JobState.STOPPING)
    reconciler.round(timezone.now())
    assert state(job) is JobState.CANCELLED


def test_row_over_and_still_running_is_stopped_and_keeps_its_devices_until_then(
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
    host.beat(at=timezone.now().timestamp() + 12)
    dispatch.run_pass(timezone.now())
    assert state(job) is JobState.STARTING


def test_host_is_not_lost_while_it_could_still_start_what_it_was_offered(submit: Submit, host: FakeHost, ada: User) -> None:
    job = submit()
    dispatch.run_pass(timezone.now())
    host.redis.delete("autotrainer:host:gpu-a:beat")
    with pytest.raises(drains.HostRefused, match=f"#{job.pk} was offered"):
        drains.declare_lost("gpu-a", ada)
    assert state(job) is JobState.STARTING
    Attempt.objects.update(offer_expires_at=timezone.now())
    assert drains.declare_lost("gpu-a", ada) == 1
    assert state(job) is JobState.QUEUED


# --- hosts that end a training by their own clock -----------------------------------------------------------------------


GONE_S = settings.AUTOTRAINER.requeue_after_s + GONE_MARGIN_S


def unbroken_for(host: FakeHost, seconds: float) -> None:
    """As the leader notes it: for so long this Redis has lost nothing."""
    since_ms = round((timezone.now().timestamp() - seconds) * 1000)
    host.redis.set(protocol.since_key(), f"{host.redis.info('server')['run_id']} {since_ms}")


def silent(reconciler: Reconciler, clock: Clock, host: FakeHost, *, ours_s: float, redis_s: float) -> None:
    """A round after so long a silence, by our clock and by that of Redis."""
    host.beat(age_s=redis_s)
    reconciler.round(timezone.now())
    clock.now += ours_s
    reconciler.round(timezone.now())


def test_requeued_job_travels_with_the_time_after_which_its_host_has_ended_it(submit: Submit, host: FakeHost) -> None:
    assert offered(submit(on_host_loss="requeue"), host).gone_after_s == settings.AUTOTRAINER.requeue_after_s
    assert offered(submit(), host).gone_after_s is None


def test_row_running_on_a_silent_host_is_started_elsewhere_once_it_is_gone_there(
    reconciler: Reconciler, clock: Clock, submit: Submit, host: FakeHost
) -> None:
    job = submit(on_host_loss="requeue")
    _, attempt = running(job, host)
    unbroken_for(host, 3 * GONE_S)
    silent(reconciler, clock, host, ours_s=GONE_S + 1, redis_s=GONE_S + 1)
    attempt.refresh_from_db()
    assert (attempt.outcome, state(job)) == (Outcome.HOST_LOST, JobState.QUEUED)
    assert (job.faults, job.retries_spent, job.next_attempt) == (1, 0, 2)
    assert "gpu-a has not been heard for 361 s" in job.events.get(type="requeued").message


@pytest.mark.parametrize(
    ("asked", "ours_s", "redis_s", "unbroken_s"),
    [
        ("requeue", GONE_S - 1, 2 * GONE_S, 3 * GONE_S),
        ("requeue", 2 * GONE_S, GONE_S - 1, 3 * GONE_S),
        ("requeue", 2 * GONE_S, 2 * GONE_S, GONE_S),
        ("wait", 2 * GONE_S, 2 * GONE_S, 3 * GONE_S),
    ],
    ids=["our clock says not yet", "Redis says not yet", "Redis was put in another's place meanwhile", "it waits"],
)
def test_row_running_on_a_silent_host_is_left_alone_while_it_may_live(
    reconciler: Reconciler, clock: Clock, submit: Submit, host: FakeHost, asked: str, ours_s: float, redis_s: float, unbroken_s: float
) -> None:
    job = submit(on_host_loss=asked)
    running(job, host)
    unbroken_for(host, unbroken_s)
    silent(reconciler, clock, host, ours_s=ours_s, redis_s=redis_s)
    assert state(job) is JobState.RUNNING


def test_leader_that_has_just_begun_waits_anew_for_a_silent_host(clock: Clock, submit: Submit, host: FakeHost) -> None:
    job = submit(on_host_loss="requeue")
    running(job, host)
    unbroken_for(host, 3 * GONE_S)
    host.beat(age_s=2 * GONE_S)
    Reconciler(clock=clock).round(timezone.now())
    clock.now += 10 * GONE_S
    Reconciler(clock=clock).round(timezone.now())
    assert state(job) is JobState.RUNNING


# --- devices that are not well ------------------------------------------------------------------------------------------


def rounds(reconciler: Reconciler, host: FakeHost, count: int, **told: Any) -> Device:
    """The first device after so many rounds, each with a heartbeat of its own."""
    for _ in range(count):
        host.beat(**told)
        reconciler.round(timezone.now())
    return Device.objects.get(uuid="GPU-gpu-a-0")


def test_lost_device_is_drained_and_comes_back_once_it_was_clean_for_a_while(reconciler: Reconciler, host: FakeHost) -> None:
    Watch().look(timezone.now())
    well = host.devices[0]
    host.devices[0] = replace(well, error="NVML: GPU is lost.")
    device = rounds(reconciler, host, 9)
    assert (device.drain, device.drain_reason) == (True, "AutoTrainer: NVML: GPU is lost")
    host.devices[0] = well
    assert rounds(reconciler, host, drains.CLEAN_LOOKS - 1).drain
    host.devices[0] = replace(well, in_use_outside=True)
    rounds(reconciler, host, 1)
    host.devices[0] = well
    assert rounds(reconciler, host, drains.CLEAN_LOOKS - 1).drain
    device = rounds(reconciler, host, 1)
    assert (device.drain, device.drain_reason, device.drained_by_system) == (False, "", False)


def test_device_that_is_not_known_or_not_given_back_stays_drained(reconciler: Reconciler, host: FakeHost, submit: Submit) -> None:
    Watch().look(timezone.now())
    drains.drain_unclean("gpu-a", {"GPU-gpu-a-0": "memory"}, job_id=1)
    ours = ProcessReading(pid=7, ours=True)
    well = host.devices[0]
    host.devices[0] = replace(well, processes=(ours,))
    assert rounds(reconciler, host, 9).drain
    rest, host.devices = host.devices[1:], []
    assert rounds(reconciler, host, 9, device_error="NVML hangs").drain
    host.devices = [well, *rest]
    host.beat()
    Device.objects.update(drain=False, drained_by_system=False)
    _, attempt = running(submit(min_gpus=2), host)
    drains.drain_unclean("gpu-a", {"GPU-gpu-a-0": "memory"}, job_id=1)
    listing = (AttemptReading(job=str(attempt.job.uid), attempt=1, fence=attempt.fence, running=True),)
    assert rounds(reconciler, host, 9, attempts=listing).drain


def test_operators_drain_is_only_the_operators_to_undo(reconciler: Reconciler, host: FakeHost, ada: User) -> None:
    Watch().look(timezone.now())
    drains.drain_unclean("gpu-a", {"GPU-gpu-a-0": "memory"}, job_id=1)
    drains.drain_device("GPU-gpu-a-0", ada, "fan")
    drains.drain_unclean("gpu-a", {"GPU-gpu-a-0": "memory"}, job_id=2)
    assert rounds(reconciler, host, 9).drain_reason == "ada: fan"
    drains.resume_device("GPU-gpu-a-0", ada)
    assert not rounds(reconciler, host, 1).drain


# --- heartbeats into rows -----------------------------------------------------------------------------------------------


# --- a host that does not answer, or has forgotten ----------------------------------------------------------------------


def test_row_started_and_forgotten_by_the_database_only_is_settled_by_what_the_host_says_again(
    reconciler: Reconciler, clock: Clock, submit: Submit, host: FakeHost
) -> None:
    """A restored backup says `running`; the host was acknowledged before the restore and lists it no more."""
    job = submit()
    spec, attempt = running(job, host)
    reconciler.round(timezone.now())
    (asked,) = host.acks()
    assert (asked.what, asked.job, asked.attempt, asked.fence) == ("again", spec.job, 1, spec.fence)
    host.ended(spec, 3)
    Ingest().turn(100)
    clock.now += 2 * MISSING_S
    reconciler.round(timezone.now())
    attempt.refresh_from_db()
    assert (state(job), attempt.outcome, attempt.exit_code, Host.objects.get().drain) == (JobState.FAILED, Outcome.FAILED, 3, False)


def test_row_started_and_missing_once_is_a_race_and_nothing_else(
    reconciler: Reconciler, clock: Clock, submit: Submit, host: FakeHost
) -> None:
    job = submit()
    spec, _ = running(job, host)
    for shown in ((), listed(spec), ()):
        host.beat(attempts=shown)
        reconciler.round(timezone.now())
        clock.now += MISSING_S - 1
    assert (state(job), Host.objects.get().drain) == (JobState.RUNNING, False)


def test_row_starting_on_a_silent_host_is_taken_back_where_it_claimed_nothing_and_never_can(
    reconciler: Reconciler, submit: Submit, host: FakeHost
) -> None:
    reconciler.round(timezone.now())
    job = submit()
    spec = offered(job, host)
    host.redis.delete(protocol.beat_key("gpu-a"))
    reconciler.round(after(protocol.SPEC_LIFETIME_S + 59))
    assert state(job) is JobState.STARTING
    reconciler.round(after(protocol.SPEC_LIFETIME_S + 61))
    assert (state(job), job.faults, job.next_attempt) == (JobState.QUEUED, 0, 1)
    assert Dispatch.objects.get().refusal == "gpu-a fell silent before it took it"
    refused = acquire(host, spec)  # the host comes back with the old spec in its hand
    assert isinstance(refused, ClaimRefused)
    assert refused.code == "stale"
    host.beat()
    assert acquire(host, offered(job, host))


def test_row_starting_on_a_silent_host_is_left_alone_where_redis_has_lost_what_it_knew(
    reconciler: Reconciler, submit: Submit, host: FakeHost
) -> None:
    reconciler.round(timezone.now())
    job = submit()
    acquire(host, offered(job, host))
    host.redis.flushall()
    for _ in range(2):
        reconciler.round(after(1000))
    assert state(job) is JobState.STARTING


def test_row_over_in_the_database_as_never_started_and_running_is_stopped(
    reconciler: Reconciler, submit: Submit, host: FakeHost, stops: list[int]
) -> None:
    job = submit()
    spec = offered(job, host)
    assert lifecycle.withdraw(Attempt.objects.get(), "test")
    host.beat(attempts=listed(spec), at=after(5).timestamp())
    reconciler.round(timezone.now())
    assert stops == []
    host.beat(attempts=listed(spec), at=after(11).timestamp())
    reconciler.round(timezone.now())
    assert stops == [spec.fence]


def test_refusals_without_end_are_answered_later_and_later(submit: Submit, host: FakeHost) -> None:
    job = submit()
    delays = []
    for _ in range(6):
        Job.objects.update(not_before=None)
        offered(job, host)
        assert lifecycle.withdraw(Attempt.objects.get(), "gpu-a refused it.")
        job.refresh_from_db()
        delays.append(round((job.not_before - timezone.now()).total_seconds()) if job.not_before else 0)
    assert delays == [0, 0, 0, 1, 2, 4]
    dispatch.run_pass(timezone.now())
    assert "offered again" in Job.objects.get().wait_message


# --- a leader that is none any more -------------------------------------------------------------------------------------


def test_leader_that_was_stopped_after_its_look_writes_nothing(
    clock: Clock, submit: Submit, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit()
    running(job, host)
    reconciler = Reconciler(clock=clock)
    reconciler.round(timezone.now())

    def stopped(names: object) -> dict[str, hostlink.Heard]:
        found = heard(names)  # type: ignore[arg-type]
        clock.now += MISSING_S + OLD_NEWS_S
        return found

    heard = hostlink.heard
    monkeypatch.setattr(hostlink, "heard", stopped)
    with pytest.raises(OldNews):
        reconciler.round(timezone.now())
    assert state(job) is JobState.RUNNING


def test_deposed_leader_repairs_nothing(clock: Clock, submit: Submit, host: FakeHost) -> None:
    job = submit()
    running(job, host)
    leadership = Leadership()
    assert leadership.keep()
    reconciler = Reconciler(clock=clock, writing=leadership.writing)
    reconciler.round(timezone.now())
    Leader.objects.update(holder="another one", term=99)
    clock.now += MISSING_S + 1
    with pytest.raises(Deposed):
        reconciler.round(timezone.now())
    assert state(job) is JobState.RUNNING
