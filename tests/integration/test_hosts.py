"""What heartbeats tell about hosts and devices: into rows, and into what the scheduler and the pages see."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis
from django.utils import timezone

from gpuworker.protocol import AttemptReading
from jobs import dispatch, drains, hostkeys, hostlink
from jobs.bootsteps import Keeper, Scheduler
from jobs.hosts import Watch
from jobs.leader import Leadership
from jobs.models import Device, Host, Job, User
from jobs.reconcile import Reconciler
from jobs.states import DeviceState, HostState, WaitReason
from tests.integration.fakehost import FakeHost

Submit = Callable[..., Job]


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


@pytest.mark.parametrize("others", [0, 5])
def test_watch_writes_nothing_when_nothing_changed_and_reads_no_more_for_more_hosts(
    others: int, host: FakeHost, settings: Any, django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostkeys, "FRESH_S", 3600.0)
    hosts = [host, *(FakeHost(settings.REDIS_URL, f"other-{n}", devices=2) for n in range(others))]
    for one in hosts[1:]:
        Host.objects.create(name=one.name)
        one.beat()
    watch = Watch()
    watch.look(timezone.now())
    for one in hosts:
        one.beat()
    with django_assert_num_queries(4):  # all of them reads
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


def test_watch_asks_for_repair_when_a_host_is_heard_again_or_runs_what_nobody_knows(host: FakeHost, settings: Any) -> None:
    watch = Watch()

    def to_repair() -> bool:
        watch.look(timezone.now())
        return watch.to_repair

    assert [to_repair(), to_repair()] == [True, False]
    host.beat(age_s=30)
    assert not to_repair()
    host.beat()
    assert [to_repair(), to_repair()] == [True, False]
    host.beat(attempts=(AttemptReading(job="x", attempt=1, fence=2**70, running=True),) * 2)
    assert not to_repair()  # no database could know such a fence
    host.beat(attempts=(AttemptReading(job="x", attempt=1, fence=7, running=True),))
    assert [to_repair(), to_repair()] == [True, False]


def test_leader_repairs_at_the_start_of_its_term_and_when_redis_is_back(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[object] = []
    away = False

    def round_(reconciler: Reconciler, now: object) -> None:
        rounds.append(reconciler)
        if away:
            raise redis.ConnectionError

    monkeypatch.setattr(Reconciler, "round", round_)
    leadership = Leadership()
    keeper = Keeper(leadership, Scheduler(leadership))
    keeper.stopping.set()  # no rest between turns
    keeper.turn()
    keeper.turn()
    assert len(rounds) == 1
    host.beat(age_s=30)
    keeper.turn()
    host.beat()
    keeper.turn()
    assert len(rounds) == 2
    away = True
    keeper._reconcile_at = 0.0
    with pytest.raises(redis.ConnectionError):
        keeper.turn()
    away = False
    keeper.turn()
    assert len(rounds) == 4
    leadership.resign()
    keeper._leadership.keep()
    keeper._led = False
    keeper.turn()
    assert len(rounds) == 5
    assert rounds[4] is not rounds[3]  # it remembers nothing of before
    leadership.resign()


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
    dispatch.place(timezone.now())
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


def test_host_that_joins_or_changes_its_devices_is_seen_with_its_next_heartbeat(host: FakeHost, broker: str, submit: Submit) -> None:
    watch = Watch()
    watch.look(timezone.now())
    big = submit(min_gpus=3)
    dispatch.run_pass(timezone.now())
    big.refresh_from_db()
    assert big.wait_code == WaitReason.NEVER_FITS
    host.devices.append(host.device(2))
    host.beat()
    assert watch.look(timezone.now())  # so that the scheduler wakes
    dispatch.run_pass(timezone.now())
    assert [spec.number for spec in host.offers()] == [big.pk]
    Host.objects.create(name="gpu-b")
    other = FakeHost(broker, "gpu-b")
    other.beat()
    assert watch.look(timezone.now())
    assert Device.objects.filter(host__name="gpu-b", present=True).count() == 2
    small = submit()
    dispatch.run_pass(timezone.now())
    assert [spec.number for spec in other.offers()] == [small.pk]
    other.devices.pop()
    other.beat()
    watch.look(timezone.now())
    assert Device.objects.filter(host__name="gpu-b", present=True).count() == 1
    other.close()


def test_host_that_leaves_gets_nothing_new_and_is_shown_so(host: FakeHost, submit: Submit, settings: Any) -> None:
    watch = Watch()
    watch.look(timezone.now())
    host.beat(age_s=2.5 * settings.AUTOTRAINER.heartbeat_s + 0.1)
    watch.look(timezone.now())
    job = submit()
    dispatch.run_pass(timezone.now())
    job.refresh_from_db()
    assert (host.offers(), job.wait_code) == ([], WaitReason.HOST_DOWN)
    assert "gpu-a has not been heard from since" in Host.objects.get().reason + job.wait_message


def test_host_that_says_goodbye_is_unreachable_at_once_and_back_with_its_next_heartbeat(host: FakeHost, submit: Submit) -> None:
    watch = Watch()
    watch.look(timezone.now())
    host.beat(leaving=True)
    watch.look(timezone.now())
    job = submit()
    dispatch.run_pass(timezone.now())
    job.refresh_from_db()
    row = Host.objects.get()
    assert (host.offers(), job.wait_code, row.state) == ([], WaitReason.HOST_DOWN, HostState.UNREACHABLE)
    assert "has taken its leave: its agent was stopped" in row.reason
    assert f"gpu-a {row.reason}" in job.wait_message
    host.beat()
    assert watch.look(timezone.now())
    assert (Host.objects.get().state, Host.objects.get().reason) == (HostState.UP, "")


def test_threads_that_are_first_to_speak_to_redis_at_once_share_one_client(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hostlink.client.cache_clear()
    hostlink._client_of.cache_clear()
    together, make, made = threading.Barrier(2), redis.Redis.from_url, list[redis.Redis]()

    def from_url(url: str, **more: Any) -> redis.Redis:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(0.3)  # broken where only one of them makes a client, as it should be
        made.append(make(url, **more))
        return made[-1]

    monkeypatch.setattr(redis.Redis, "from_url", from_url)
    threads = [threading.Thread(target=hostlink.client) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert made == [hostlink.client()]
