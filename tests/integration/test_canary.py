"""A worker that no longer hears its queue: found, given nothing, and made to hear again; trainings do not notice."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.utils import timezone

from gpuworker import protocol
from gpuworker.canary import LONGEST_STEP_S, Ear
from gpuworker.link import connect
from gpuworker.protocol import Canary, Ended, Kind, Started
from jobs import capacity, dispatch, hostlink
from jobs.canaries import Canaries
from jobs.hosts import Watch
from jobs.models import Host as HostRow
from jobs.models import Job
from jobs.states import HostState, JobState, WaitReason
from tests.integration.fakehost import FakeHost
from tests.integration.host import HOST, KEY, running_host
from tests.waiting import wait_until

Submit = Callable[..., Job]
HOOKED = (str(Path(__file__).resolve().parent.parent / "programs" / "hooked_worker.py"),)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- the host's ear -----------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ear(redis_url: str, tmp_path: Path, clock: Clock) -> Iterator[Ear]:
    link = connect(redis_url, host=HOST, key=KEY)
    ear = Ear(link, tmp_path / "started-over", clock=clock)
    ear.listen()
    yield ear
    link.client.close()


def canary(at: float, *, lives_s: float = 60, key: bytes = KEY) -> str:
    return protocol.seal(Kind.CANARY, HOST, Canary(at=at, expires_at=time.time() + lives_s).body(), key)


def promise(ear: Ear, sealed: str) -> str:
    ear._link.client.set(protocol.canary_key(HOST), sealed)
    return sealed


def listen(ear: Ear, clock: Clock, seconds: int) -> None:
    for _ in range(seconds):
        clock.now += 1
        ear.listen()


def test_ear_counts_from_the_first_promise_that_did_not_come_and_forgets_when_one_comes(ear: Ear, clock: Clock) -> None:
    promise(ear, canary(10))
    listen(ear, clock, 25)
    sealed = promise(ear, canary(30))
    listen(ear, clock, 20)
    assert ear.deaf_s == 45
    ear.heard(sealed)
    listen(ear, clock, 5)
    assert ear.deaf_s == 0


def test_ear_has_had_enough_after_a_minute_and_is_more_patient_each_time_in_vain(ear: Ear, clock: Clock) -> None:
    promise(ear, canary(10))
    listen(ear, clock, 60)
    assert not ear.has_had_enough
    listen(ear, clock, 1)
    assert ear.has_had_enough
    ear.remember_starting_over()
    assert not ear.has_had_enough
    listen(ear, clock, 60)
    assert ear.has_had_enough
    for _ in range(20):
        ear.remember_starting_over()
    listen(ear, clock, 480)
    assert ear.has_had_enough
    ear.heard(canary(11))
    assert not ear._memory.exists()


def test_ear_is_not_deaf_to_what_is_forged_or_expired_or_was_promised_before_it_was_there(ear: Ear, clock: Clock) -> None:
    for sealed in (canary(10, key=b"stolen"), canary(10, lives_s=-1), "nonsense"):
        promise(ear, sealed)
        listen(ear, clock, 90)
        assert ear.deaf_s == 0
    for sealed in (canary(10, key=b"stolen"), None, 5, ["x"]):
        ear.heard(sealed)
    promise(ear, canary(10))
    late = Ear(ear._link, ear._memory, clock=clock)
    late.listen()
    listen(late, clock, 90)
    assert late.deaf_s == 0


def test_ear_counts_no_time_in_which_it_was_stopped(ear: Ear, clock: Clock) -> None:
    promise(ear, canary(10))
    listen(ear, clock, 1)
    clock.now += 3600
    ear.listen()
    assert ear.deaf_s == 1 + LONGEST_STEP_S


# --- the control plane --------------------------------------------------------------------------------------------------


def test_canaries_go_through_the_queue_of_each_host_that_knows_them(host: FakeHost, clock: Clock) -> None:
    queue = f"{protocol.KEY_PREFIX}{protocol.host_queue('gpu-a')}"
    canaries = Canaries(clock=clock)

    def send() -> int:
        canaries.send(hostlink.heard(["gpu-a"]).items())
        return int(host.redis.llen(queue))

    assert send() == 0  # an agent of before there were any
    host.beat(deaf_s=0.0)
    clock.now += protocol.CANARY_EVERY_S
    assert (send(), send()) == (1, 1)
    told = Canary.read(protocol.unseal(Kind.CANARY, "gpu-a", host.redis.get(protocol.canary_key("gpu-a")), [host.key]))
    assert 0 < told.expires_at - time.time() <= protocol.COMMAND_LIFETIME_S
    for _ in range(hostlink.CANARY_QUEUE):
        host.redis.lpush(queue, b"x")
    clock.now += protocol.CANARY_EVERY_S
    assert send() == hostlink.CANARY_QUEUE + 1


def test_deaf_host_says_so_and_gets_nothing_new(submit: Submit, host: FakeHost, caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch()
    watch.look(timezone.now())
    for more in (20, 0):
        host.beat(deaf_s=protocol.DEAF_AFTER_S + more)
        watch.look(timezone.now())
    assert caplog.text.count("gpu-a is up: it is deaf") == 1
    (view,) = capacity.hosts_now()
    assert (view.state, view.reason) == (
        HostState.UP,
        "is deaf: its queue has brought it nothing for 30 s, and its agent starts over by itself",
    )
    assert HostRow.objects.get().reason == view.reason
    job = submit()
    dispatch.run_pass(timezone.now())
    job.refresh_from_db()
    assert (job.state, job.wait_code) == (JobState.QUEUED, WaitReason.HOST_DOWN)
    assert "gpu-a is deaf" in job.wait_message
    host.beat(deaf_s=protocol.DEAF_AFTER_S - 1)
    assert watch.look(timezone.now())
    dispatch.place(timezone.now())
    assert len(host.offers()) == 1


# --- a real worker ------------------------------------------------------------------------------------------------------


def test_deaf_agent_starts_itself_over_and_takes_jobs_again(redis_url: str, tmp_path: Path) -> None:
    with running_host(redis_url, tmp_path, program=HOOKED, variables={"AT_START_OVER_AFTER_S": "2"}) as agent:
        training = agent.offer(agent.spec("for i in $(seq 100); do echo $i; sleep 0.2; test -e hurry && exit 4; done"))
        started = agent.report(Started, training)
        agent.canary()
        wait_until(lambda: agent.client.llen(f"{protocol.KEY_PREFIX}{protocol.host_queue(HOST)}") == 0, 5, "the canary is taken")
        assert agent.beat().deaf_s == 0  # type: ignore[union-attr]
        agent.app.control.broadcast("test_deafen", destination=[protocol.node_name(HOST)], reply=True, timeout=5)
        waiting = agent.offer(agent.spec("echo heard", devices=agent.uuids[1:], fence=101))
        agent.canary()
        wait_until(lambda: "starting over" in agent.words(), 15, "the agent has had enough")
        ended = agent.report(Ended, waiting, 30)
        assert (ended.exit_code, agent.agent.poll()) == (0, None)  # type: ignore[union-attr]
        assert os.path.exists(f"/proc/{started.pid}")
        (agent.home / "hurry").touch()
        ended = agent.report(Ended, training)
        assert (ended.exit_code, ended.started_at) == (4, started.started_at)
        wait_until(lambda: not (agent.settings.host_home / "started-over").exists(), 10, "the canary came through")
        assert "autotrainer.canary" not in agent.words().rsplit("ready.", 1)[-1]
