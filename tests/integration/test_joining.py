"""An agent that may not work under its name says so and ends: alive elsewhere, wrong key, other version, wrong clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuworker import envelope, protocol
from gpuworker.greeting import Welcome, hello_key, welcome_key
from gpuworker.joining import BAD_WELCOMES, Joining, take_name
from gpuworker.link import Link, connect
from gpuworker.protocol import Kind
from gpuworker.settings import BadSetting
from jobs import welcome
from tests.integration.host import CLUSTER_KEY, HOST, KEY, Host, running_host
from tests.waiting import wait_until

OTHER_KEY = protocol.derive_host_key(CLUSTER_KEY, "gpu-z")


@pytest.fixture(autouse=True)
def control(settings: Any, broker: str) -> None:
    settings.CLUSTER_KEY = CLUSTER_KEY


@pytest.fixture
def link(redis_url: str) -> Iterator[Link]:
    link = connect(redis_url, host=HOST, key=KEY)
    yield link
    link.client.close()


class Refusals(list[str]):
    """The sentences with which an agent was refused."""


def joining(link: Link, refusals: Refusals, **more: Any) -> Joining:
    return Joining(link, "an instance", "0.0.0", refusals.append, **more)


def second(url: str, home: Path, **variables: str) -> Host:
    home.mkdir()
    return Host(url, home, variables=variables)


def last_words(host: Host) -> str:
    agent = host.spawn()
    wait_until(lambda: agent.poll() is not None, 20, "the agent has ended")
    assert agent.returncode == 1
    return host.words()


# --- the name -----------------------------------------------------------------------------------------------------------


def test_second_agent_of_a_name_is_refused_and_the_first_goes_on(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    with running_host(redis_url, tmp_path / "first") as first:
        spec = first.offer(first.spec("sleep 60"))
        first.report(protocol.Started, spec)
        claims = first.claims()
        assert f"Host {HOST} is alive already" in last_words(second(redis_url, tmp_path / "second"))
        assert first.claims() == claims != {}
        before = first.beat()
        wait_until(lambda: first.beat() != before, 10, "a heartbeat of the first")


def test_agent_with_the_key_of_another_host_is_refused_beside_the_true_one(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    with running_host(redis_url, tmp_path / "first"):
        said = last_words(second(redis_url, tmp_path / "second", AUTOTRAINER_HOST_KEY=OTHER_KEY.hex()))
    assert f"AUTOTRAINER_HOST_KEY is not the key of host {HOST}" in said


def test_heartbeat_of_our_own_last_start_is_not_waited_for(redis_url: str, tmp_path: Path, link: Link) -> None:
    with running_host(redis_url, tmp_path) as host:
        host.kill()
        beat = host.beat()
        assert beat
        memory = host.settings.host_home / "instance"
        assert beat.instance == memory.read_text()
        began = time.monotonic()
        assert take_name(link, memory, heartbeat_s=60) != beat.instance
    assert time.monotonic() - began < 60


def test_name_of_an_agent_that_is_gone_is_free(redis_url: str, tmp_path: Path, link: Link) -> None:
    with running_host(redis_url, tmp_path) as host:
        host.kill()
        assert take_name(link, tmp_path / "another", heartbeat_s=0.3)


def test_agent_starts_without_redis(tmp_path: Path) -> None:
    link = connect("redis://127.0.0.1:1/0", host=HOST, key=KEY)
    assert take_name(link, tmp_path / "instance", heartbeat_s=2)


# --- the control plane's word -------------------------------------------------------------------------------------------


def test_agent_with_the_right_key_is_welcome(link: Link) -> None:
    refusals = Refusals()
    one = joining(link, refusals)
    assert not one.turn()
    welcome.answer([HOST])
    assert one.turn()
    assert refusals == []
    assert not link.client.exists(hello_key(HOST))


def test_agent_with_a_wrong_key_ends_and_says_so(redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    host = second(redis_url, tmp_path / "home", AUTOTRAINER_HOST_KEY=OTHER_KEY.hex())
    agent = host.spawn()

    def ended() -> bool:
        welcome.answer([HOST])
        return agent.poll() is not None

    try:
        wait_until(ended, 20, "the agent has ended")
    finally:
        host.close()
    assert agent.returncode == 1
    assert f"AUTOTRAINER_HOST_KEY is not the key of host {HOST}" in host.words()
    assert f"manage.py join {HOST}" in host.words()
    assert f"Somebody says hello as host {HOST} and is not" in caplog.text


def test_agent_goes_on_while_nobody_answers(link: Link) -> None:
    refusals = Refusals()
    one = joining(link, refusals)
    assert [one.turn() for _ in range(3)] == [False] * 3
    assert refusals == []


@pytest.mark.parametrize(("off_s", "refused"), [(0, False), (30, False), (-30, False), (61.5, True), (-61.5, True)])
def test_agent_whose_clock_is_off_is_refused(link: Link, caplog: pytest.LogCaptureFixture, off_s: float, *, refused: bool) -> None:
    refusals = Refusals()
    one = joining(link, refusals, clock=lambda: time.time() + off_s)
    one.turn()
    welcome.answer([HOST])
    assert one.turn()
    assert bool(refusals) == refused
    assert all("clock" in why and ("ahead of" in why) == (off_s > 0) for why in refusals)
    assert ("Over 60 s nothing would start" in caplog.text) == (5 < abs(off_s) < 60)


def test_agent_of_another_version_is_refused(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = Refusals()
    one = joining(link, refusals)
    one.turn()
    for _ in range(BAD_WELCOMES):
        with monkeypatch.context() as newer:
            for name in ("PROTOCOL_VERSION", "OLDEST_READABLE_VERSION"):
                newer.setattr(envelope, name, envelope.PROTOCOL_VERSION + 1 if name == "PROTOCOL_VERSION" else envelope.PROTOCOL_VERSION)
            welcome.answer([HOST])
        assert one.turn() is bool(refusals)
        one.turn()
    assert "speaks another version" in refusals[0]


def test_answer_to_an_earlier_start_counts_for_nothing(link: Link) -> None:
    refusals = Refusals()
    joining(link, refusals).turn()
    welcome.answer([HOST])
    old: Any = link.client.get(welcome_key(HOST))
    one = joining(link, refusals, clock=lambda: time.time() + 3600)
    one.turn()
    link.client.set(welcome_key(HOST), old)
    assert not one.turn()
    assert refusals == []


def test_welcome_of_another_host_opens_for_nobody(link: Link) -> None:
    refusals = Refusals()
    one = joining(link, refusals)
    one.turn()
    body = Welcome(to="", at=time.time()).body()
    for _ in range(BAD_WELCOMES):
        assert refusals == []
        link.client.set(welcome_key(HOST), protocol.seal(Kind.WELCOME, "gpu-z", body, OTHER_KEY))
        one.turn()
        one._say_hello()
    assert "is not the key" in refusals[0]


def test_forged_welcome_keeps_no_agent_from_working(link: Link, caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    one = joining(link, refusals)
    one.turn()
    for forged in ("forged", "{}"):
        link.client.set(welcome_key(HOST), forged)
        assert not one.turn()
    assert not one.turn()  # it has said hello anew, which threw that away
    welcome.answer([HOST])
    assert one.turn()
    assert refusals == []
    assert "An answer to our hello was dropped" in caplog.text


def test_name_is_not_taken_while_another_beats(link: Link, redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    with running_host(redis_url, tmp_path / "first"), pytest.raises(BadSetting, match="alive already"):
        take_name(link, tmp_path / "instance", heartbeat_s=2)


# --- goodbye ------------------------------------------------------------------------------------------------------------


def test_agent_that_is_stopped_says_goodbye_and_frees_its_name(redis_url: str, tmp_path: Path, link: Link) -> None:
    with running_host(redis_url, tmp_path) as host:
        spec = host.offer(host.spec("sleep 60"))
        host.report(protocol.Started, spec)
        assert host.agent
        host.agent.terminate()
        host.agent.wait(20)
        beat = host.beat()
        assert beat
        assert beat.leaving
        assert [attempt.running for attempt in beat.attempts] == [True]
        began = time.monotonic()
        take_name(link, tmp_path / "another", heartbeat_s=60)
        assert time.monotonic() - began < 60


def test_agent_that_is_killed_says_no_goodbye(redis_url: str, tmp_path: Path) -> None:
    with running_host(redis_url, tmp_path) as host:
        host.kill()
        beat = host.beat()
        assert beat
        assert not beat.leaving
