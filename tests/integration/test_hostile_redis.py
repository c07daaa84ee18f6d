"""Redis as somebody else may leave it: old heartbeats put there again, and other things where our keys belong."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from django.utils import timezone

from gpuworker import misplaced, protocol
from gpuworker.canary import Ear
from gpuworker.claims.store import ClaimStore
from gpuworker.link import Link, connect
from gpuworker.protocol import Ack, Ended, Started
from gpuworker.reports import Reporter
from jobs import dispatch, hostlink
from jobs.ingest import Ingest
from jobs.models import Host, Job
from jobs.states import JobState
from tests.integration.fakehost import FakeHost
from tests.integration.host import KEY, running_host
from tests.waiting import wait_until

HIGHEST = "18446744073709551615-18446744073709551615"


@pytest.fixture
def link(broker: str) -> Iterator[Link]:
    link = connect(broker, host="gpu-a", key=KEY)
    yield link
    link.client.close()


# --- heartbeats -----------------------------------------------------------------------------------------------------------


def test_heartbeat_that_is_put_there_again_is_as_old_as_it_is(host: FakeHost) -> None:
    now = time.time()
    host.beat(at=now)
    assert hostlink.heard(["gpu-a"])["gpu-a"].age_s < 10
    host.beat(at=now - 40)
    assert hostlink.heard(["gpu-a"])["gpu-a"].age_s == pytest.approx(40, abs=0.1)
    host.beat(at=now + 1)
    assert hostlink.heard(["gpu-a"])["gpu-a"].age_s < 10


def test_heartbeat_of_an_agent_that_another_has_followed_is_none(host: FakeHost) -> None:
    for instance, heard in (("one", True), ("two", True), ("one", False), ("two", True), ("three", True), ("two", False)):
        host.beat(instance=instance)
        assert ("gpu-a" in hostlink.heard(["gpu-a"])) is heard, instance


def test_agent_whose_clock_was_set_back_is_heard_at_once_after_a_restart(host: FakeHost) -> None:
    host.beat(instance="one", at=time.time() + 3600)
    assert hostlink.heard(["gpu-a"])["gpu-a"].age_s < 10
    host.beat(instance="two")
    assert hostlink.heard(["gpu-a"])["gpu-a"].age_s < 10


# --- other things where keys of ours belong ----------------------------------------------------------------------------------


def test_only_what_cannot_be_ours_is_cleared_away(link: Link) -> None:
    client = link.client
    client.set("string", "x")
    client.rpush("list", "x")
    client.hset("hash", "x", "x")
    client.xadd("stream", {"x": "x"})
    client.xadd("ahead", {"x": "x"}, id=HIGHEST)
    right = {"string": "string", "list": "list", "hash": "hash", "stream": "stream", "nothing": "stream"}
    assert not misplaced.clear(client, right)
    assert misplaced.clear(client, {"string": "stream", "list": "hash", "hash": "list", "stream": "string", "ahead": "stream"})
    assert client.keys("*") == []


def test_what_redis_refuses_for_another_reason_is_raised(link: Link) -> None:
    def act() -> None:
        link.client.execute_command("NO_SUCH_COMMAND")

    with pytest.raises(redis.ResponseError):
        misplaced.retried(link.client, {"stream": "stream"}, act)


def test_what_the_other_side_has_cleared_meanwhile_is_written_all_the_same(link: Link) -> None:
    link.client.xadd("stream", {"x": "x"}, id=HIGHEST)

    def act() -> None:
        try:
            link.client.xadd("stream", {"x": "ours"})
        except redis.ResponseError:
            link.client.delete("stream")  # as the other side does
            raise

    misplaced.retried(link.client, {"stream": "stream"}, act)
    assert [fields for _, fields in link.client.xrange("stream")] == [{b"x": b"ours"}]


@pytest.mark.parametrize("poison", ["string", "highest entry"])
def test_host_that_spoils_its_own_streams_keeps_nobody_elses_from_being_read(
    poison: str, submit: Callable[..., Job], host: FakeHost, broker: str
) -> None:
    Host.objects.create(name="gpu-b")
    job = submit()
    dispatch.run_pass(timezone.now())
    (spec,) = host.offers()
    for key in (protocol.reports_key("gpu-b"), protocol.logs_key("gpu-b"), protocol.acks_key("gpu-a"), protocol.wake_key()):
        host.redis.delete(key)
        host.redis.set(key, "x") if poison == "string" else host.redis.xadd(key, {"x": "x"}, id=HIGHEST)
    host.started(spec)
    host.log(spec, b"epoch 1\n")
    ingest = Ingest()
    for _ in range(3):
        ingest.turn(block_ms=1)
    job.refresh_from_db()
    assert job.state == JobState.RUNNING
    assert {ack.what for ack in host.acks()} == {"started", "log"}


def test_what_a_host_writes_gets_there_whatever_lies_there(link: Link) -> None:
    report = Started(job="x", attempt=1, fence=1, devices=(), boot_id="b", pid=1, start_ticks=1, started_at=0.0)
    reporter = Reporter(link)
    link.client.set(protocol.reports_key("gpu-a"), "x")
    reporter.send(report)
    assert link.client.xlen(protocol.reports_key("gpu-a")) == 1
    link.client.delete(protocol.reports_key("gpu-a"))
    link.client.xadd(protocol.reports_key("gpu-a"), {"x": "x"}, id=HIGHEST)
    reporter.repeat()
    assert link.client.xlen(protocol.reports_key("gpu-a")) == 1
    claims = ClaimStore(link.client, "gpu-a")
    for key in (protocol.claims_key("gpu-a"), protocol.fences_key("gpu-a")):
        link.client.set(key, "x")
    assert claims.acquire("x.1.1", job="x", fence=1, count=1, allowed=["GPU-1"]) == ("GPU-1",)


def test_ear_hears_on_where_no_canary_lies(link: Link, tmp_path: Path) -> None:
    ear = Ear(link, tmp_path / "memory")
    for put in (
        lambda key: link.client.hset(key, "x", "x"),
        lambda key: link.client.set(key, '{"v":1,"k":"canary","h":"gpu-a","b":"\\ud800","m":"x"}'),
    ):
        link.client.delete(protocol.canary_key("gpu-a"))
        put(protocol.canary_key("gpu-a"))
        ear.listen()
        assert ear.deaf_s == 0.0


def test_fences_that_are_none_prove_nothing(host: FakeHost) -> None:
    assert hostlink.bar("gpu-a", job="x", fence=1)
    host.redis.delete(protocol.fences_key("gpu-a"))
    host.redis.set(protocol.fences_key("gpu-a"), "x")
    assert not hostlink.bar("gpu-a", job="x", fence=1)


def test_acknowledgements_get_there_whatever_lies_there(host: FakeHost) -> None:
    host.redis.set(protocol.acks_key("gpu-a"), "x")
    hostlink.acknowledge("gpu-a", [Ack(job="x", attempt=1, fence=1, what="ended")])
    assert [ack.what for ack in host.acks()] == ["ended"]


def test_since_is_noted_anew_where_something_else_lies(host: FakeHost) -> None:
    host.redis.hset(protocol.since_key(), "x", "x")
    assert hostlink.unbroken_since() <= datetime.now(UTC).replace(microsecond=0).fromtimestamp(math.ceil(time.time()), UTC)


# --- a worker ---------------------------------------------------------------------------------------------------------------


def test_id_of_a_job_cannot_be_made_a_revoked_one(redis_url: str, tmp_path: Path) -> None:
    """Celery puts the id of a task that has expired among the revoked ones, and drops all of that id for three hours."""
    with running_host(redis_url, tmp_path) as host:
        spec = host.spec("echo through", device_count=0)
        host.send([spec.job, "x"], task_id=spec.job, expires=datetime(2001, 1, 1, tzinfo=UTC))
        host.offer(spec)
        assert host.report(Ended, spec).exit_code == 0


def test_worker_hears_on_where_its_queue_was_something_else(redis_url: str, tmp_path: Path) -> None:
    with running_host(redis_url, tmp_path) as host:
        queue = f"{protocol.KEY_PREFIX}{protocol.host_queue('gpu-a')}"
        for put in (host.client.set, host.client.sadd):
            host.client.delete(queue, "autotrainer:host:gpu-a:unacked", "autotrainer:host:gpu-a:unacked_index")
            put(queue, "x")
            host.client.set("autotrainer:host:gpu-a:unacked", "x")
            host.client.set("autotrainer:host:gpu-a:unacked_index", "x")
            wait_until(lambda: not host.client.exists(queue), 10, "the queue is cleared")
            spec = host.offer(host.spec("true", device_count=0))
            answer: Any = host.report(Ended, spec)
            assert answer.exit_code == 0
        assert host.agent
        assert host.agent.poll() is None
