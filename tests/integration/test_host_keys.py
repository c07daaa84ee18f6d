"""The key of one host is replaced alone: beside the old one while its agent is brought over, or at once where others know that."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from django.core.management import call_command
from django.db import OperationalError, connection
from django.utils import timezone

from autotrainer_site import backup, keys, prepare
from gpuworker import protocol
from gpuworker.greeting import Hello, hello_key, welcome_key
from gpuworker.protocol import BadEnvelope, Ended, EndReason, Kind
from gpuworker.questions import Answer, answer_key
from jobs import asking, hostkeys, hostlink, welcome
from jobs.hosts import Watch
from jobs.ingest import Ingest
from jobs.models import Attempt, AuditEntry, Host, Job, User
from jobs.states import HostState, JobState
from tests.integration.databases import postgres_as_default
from tests.integration.fakehost import FakeHost, runs
from tests.integration.host import CLUSTER_KEY, HOST, KEY
from tests.integration.host import Host as Agent
from tests.integration.stack import running_stack
from tests.integration.test_redis_users import server
from tests.postgres import Postgres
from tests.waiting import wait_until

NEW = b"the new cluster key"


@pytest.fixture(autouse=True)
def control(settings: Any, broker: str) -> None:
    """A control plane on a Redis that other machines reach."""
    settings.CLUSTER_KEY, settings.CLUSTER_KEY_PREVIOUS = CLUSTER_KEY, None
    at = {"redis_url": "redis://:p@10.0.0.5:6379/0", "redis_embedded": False, "cluster_key": CLUSTER_KEY.decode(), "host": "here"}
    settings.AUTOTRAINER = replace(settings.AUTOTRAINER, **at)


@pytest.fixture
def other(host: FakeHost, broker: str) -> Iterator[FakeHost]:
    """A second host beside gpu-a, of which nothing is changed."""
    Host.objects.create(name="gpu-b")
    fake = FakeHost(broker, "gpu-b", devices=0)
    fake.beat()
    yield fake
    fake.close()


def join(*arguments: str) -> tuple[dict[str, str], str]:
    out, err = io.StringIO(), io.StringIO()
    call_command("join", *arguments, stdout=out, stderr=err)
    return dict(line.split("=", 1) for line in out.getvalue().splitlines()), err.getvalue()


def rotated(*arguments: str, name: str = HOST) -> bytes:
    """Its new key."""
    return bytes.fromhex(join(name, "--rotate", *arguments)[0]["AUTOTRAINER_HOST_KEY"])


def heard(*names: str) -> set[str]:
    return set(hostlink.heard(names))


# --- beside the old one -------------------------------------------------------------------------------------------------------


def test_old_key_is_valid_until_the_new_one_is_heard(host: FakeHost, other: FakeHost, submit: Callable[..., Job]) -> None:
    old, watch = host.key, Watch()
    new = rotated()
    assert new != old
    runs(submit(), host)
    host.beat()
    watch.look(timezone.now())
    assert heard(HOST, "gpu-b") == {HOST, "gpu-b"}
    assert set(hostkeys.valid(HOST)) == {old, new}
    host.key = new
    host.beat(instance="started with the new key")
    runs(submit(), host)
    watch.look(timezone.now())
    assert hostkeys.valid(HOST) == (new,)
    host.key = old
    host.beat(instance="somebody with the old key")
    assert heard(HOST, "gpu-b") == {"gpu-b"}
    assert hostkeys.valid("gpu-b") == (other.key,)


def test_agent_is_welcomed_with_the_key_that_it_has(host: FakeHost) -> None:
    keys_of_it = (host.key, rotated())
    for key in keys_of_it:
        hello = protocol.seal(Kind.HELLO, HOST, Hello(instance="x", at=1.0, agent_version="0").body(), key)
        host.redis.set(hello_key(HOST), hello)
        welcome.answer([HOST])
        text: Any = host.redis.get(welcome_key(HOST))
        assert protocol.unseal(Kind.WELCOME, HOST, text, [key])


def test_both_replacements_at_once_leave_every_key_valid_that_a_host_may_have(host: FakeHost, settings: Any) -> None:
    """Whichever was begun first, and with whatever its lines were printed."""
    first = rotated()
    settings.CLUSTER_KEY_PREVIOUS, settings.CLUSTER_KEY = CLUSTER_KEY, NEW
    settings.AUTOTRAINER = replace(settings.AUTOTRAINER, cluster_key=NEW.decode())
    printed = bytes.fromhex(join(HOST)[0]["AUTOTRAINER_HOST_KEY"])
    by_cluster_alone = protocol.derive_host_key(NEW, HOST)
    assert hostkeys.valid(HOST)[0] == printed
    assert set(hostkeys.valid(HOST)) == {host.key, first, by_cluster_alone, printed}
    assert hostlink.by_new_key([HOST]) == {HOST: False}
    for key, with_new_cluster_key in ((first, False), (by_cluster_alone, True), (printed, True)):
        host.key = key
        host.beat()
        assert hostlink.by_new_key([HOST]) == {HOST: with_new_cluster_key}
        assert hostlink._spoken(HOST).key in hostkeys.valid(HOST)
    Watch().look(timezone.now())
    assert set(hostkeys.valid(HOST)) == {first, printed}


def test_operator_sees_that_a_key_is_being_replaced(host: FakeHost, other: FakeHost) -> None:
    rotated()
    out = io.StringIO()
    call_command("cluster_key", stdout=out)
    assert [("being replaced" in line) for line in out.getvalue().splitlines()] == [True, False]


# --- at once ------------------------------------------------------------------------------------------------------------------


def test_old_key_says_nothing_more_from_then_on(host: FakeHost, other: FakeHost, submit: Callable[..., Job]) -> None:
    job, old = submit(), host.key
    runs(job, host)
    assert heard(HOST, "gpu-b") == {HOST, "gpu-b"}
    new = rotated("--now")
    assert heard(HOST, "gpu-b") == {"gpu-b"}  # the heartbeat that was believed a moment ago counts for nothing
    assert asking._heard(HOST, _answered(host), deadline=0.0).error.endswith("no answer that can be read.")
    attempt = Attempt.objects.get()
    end = Ended(job=str(job.uid), attempt=1, fence=attempt.fence, reason=EndReason.EXITED, exit_code=0, ended_at=1.0)
    host.redis.xadd(protocol.reports_key(HOST), {"e": protocol.seal(Kind.ENDED, HOST, end.body(), old)})
    Ingest().turn(block_ms=1)
    job.refresh_from_db()
    assert (job.state, host.left()) == (JobState.RUNNING, 0)
    with pytest.raises(BadEnvelope):
        protocol.unseal(Kind.ACK, HOST, hostlink.sealed(Kind.ACK, HOST, protocol.Ack(job="x", attempt=1, fence=1, what="log")), [old])
    host.key = new
    host.beat(instance="started with the new key")
    assert heard(HOST) == {HOST}
    host.redis.xadd(protocol.reports_key(HOST), {"e": protocol.seal(Kind.ENDED, HOST, end.body(), new)})
    Ingest().turn(block_ms=1)
    job.refresh_from_db()
    assert job.state == JobState.COMPLETED


def _answered(host: FakeHost) -> str:
    """An answer that is sealed with the key that the host has."""
    body = Answer(id="1", told="{}").body()
    host.redis.rpush(answer_key(HOST, "1"), protocol.seal(Kind.ANSWER, HOST, body, host.key))
    return "1"


def test_at_once_ends_all_keys_before_also_one_that_is_being_replaced(host: FakeHost) -> None:
    before = {host.key, rotated()}
    new = rotated("--now")
    assert hostkeys.valid(HOST) == (new,)
    assert new not in before


# --- what each process knows of it ----------------------------------------------------------------------------------------------


def by_another_process() -> bytes:
    """The row is changed, and nobody here is told."""
    Host.objects.filter(name=HOST).update(key_generation=5, key_generation_before=0)
    return protocol.derive_host_key(CLUSTER_KEY, HOST, 5)


def test_agent_that_starts_at_once_is_welcomed_though_its_key_is_news(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostkeys, "FRESH_S", 1000.0)
    assert hostkeys.valid(HOST) == (host.key,)
    new = by_another_process()
    assert hostkeys.valid(HOST) == (host.key,)
    host.redis.set(hello_key(HOST), protocol.seal(Kind.HELLO, HOST, Hello(instance="x", at=1.0, agent_version="0").body(), new))
    welcome.answer([HOST])
    text: Any = host.redis.get(welcome_key(HOST))
    assert protocol.unseal(Kind.WELCOME, HOST, text, [new])


def test_what_was_known_last_is_gone_by_while_the_database_is_away(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*told: Any) -> Any:
        raise OperationalError("the database is away")

    monkeypatch.setattr(hostkeys, "FRESH_S", -1.0)
    new = by_another_process()
    assert hostkeys.valid(HOST) == (new, host.key)
    with connection.execute_wrapper(away):
        assert hostkeys.valid(HOST) == (new, host.key)
        monkeypatch.setattr(hostkeys, "_rows", hostkeys._Rows())
        with pytest.raises(OperationalError):
            hostkeys.valid(HOST)


# --- the command --------------------------------------------------------------------------------------------------------------


def test_command_says_what_to_do_and_leaves_an_audit_entry(host: FakeHost) -> None:
    lines, notes = join(HOST, "--rotate")
    assert list(lines) == ["AUTOTRAINER_REDIS_URL", "AUTOTRAINER_HOST", "AUTOTRAINER_HOST_KEY"]
    assert "AUTOTRAINER_HOST_KEY_PREVIOUS" in notes
    assert join(HOST) == (lines, "")
    with pytest.raises(SystemExit, match="is being replaced still"):
        join(HOST, "--rotate")
    assert "refused when it starts again" in join(HOST, "--rotate", "--now")[1]
    told = AuditEntry.objects.filter(act="key_replaced", about="host", target=HOST, via="command").order_by("pk")
    assert [entry.detail for entry in told] == ["The key before is valid until the new one is heard.", "The key before is valid no more."]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["gpu-z", "--rotate"], "No host gpu-z has joined"),
        (["gpu-z", "--rotate", "--now"], "No host gpu-z has joined"),
        ([HOST, "--now"], "give --rotate too"),
        (["gpu z", "--rotate"], "is not a host name"),
    ],
)
def test_command_refuses_what_makes_no_sense_and_changes_nothing(host: FakeHost, arguments: list[str], why: str) -> None:
    with pytest.raises(SystemExit, match=why):
        join(*arguments)
    assert not Host.objects.filter(name="gpu-z").exists()
    assert hostkeys.valid(HOST) == (host.key,)
    assert not AuditEntry.objects.exists()


def test_own_host_is_left_its_new_key_and_the_one_that_it_had(transactional_db: None, tmp_path: Path) -> None:
    ours: Any = SimpleNamespace(keys_home=tmp_path, cluster_key="", cluster_key_previous="", host="here", host_home=tmp_path / "here")

    def left() -> list[str]:
        prepare.this_host(ours)
        return [path.read_text() for path in sorted(ours.host_home.iterdir())]

    (first,) = left()
    hostkeys.replace("here", at_once=False)
    keys.replace_cluster_key(ours)
    second, previous = left()
    assert previous == first != second
    assert left() == [second, first]
    hostkeys.replace("here", at_once=True)
    (third,) = left()
    assert third not in (first, second)
    assert "start AutoTrainer again here" in join("here", "--rotate")[1]


# --- users of Redis -----------------------------------------------------------------------------------------------------------


def test_password_in_redis_is_replaced_with_the_key_and_no_other(host: FakeHost, other: FakeHost, tmp_path: Path, settings: Any) -> None:
    def load() -> None:
        call_command("redis_acl", "--out", str(tmp_path / "users.acl"))
        with (tmp_path / "users.acl").open("a") as file:
            file.write("user root on >root ~* &* +@all\n")

    def address(name: str, *arguments: str) -> str:
        return join(name, *arguments)[0]["AUTOTRAINER_REDIS_URL"]

    def opens(url: str) -> bool:
        with redis.Redis.from_url(url) as client:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                return False

    settings.AUTOTRAINER = replace(settings.AUTOTRAINER, redis_url="redis://autotrainer:p@10.0.0.5:6379/0")
    load()  # for the database 0
    with server(tmp_path, "--port", "{port}", "--aclfile", str(tmp_path / "users.acl")) as url:
        settings.AUTOTRAINER = replace(settings.AUTOTRAINER, redis_url=url.replace("//", "//autotrainer:p@"))
        root = redis.Redis.from_url(url.replace("//", "//root:root@"))
        first, second = address(HOST), address("gpu-b")
        new = address(HOST, "--rotate")
        load()
        root.acl_load()
        assert [opens(one) for one in (first, new, second)] == [True, True, True]
        with redis.Redis.from_url(first, single_connection_client=True) as stranger:
            last = address(HOST, "--rotate", "--now")
            assert stranger.set(f"{protocol.KEY_PREFIX}host:{HOST}:x", "y")
            load()
            root.acl_load()
            assert [opens(one) for one in (first, new, last, second)] == [False, False, True, True]
            with pytest.raises(redis.RedisError):
                stranger.set(f"{protocol.KEY_PREFIX}host:{HOST}:x", "y")  # nor by a connection that was open
        root.close()


# --- backups ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def postgresql(transactional_db: None, migrated_postgres: Postgres) -> Iterator[None]:
    with postgres_as_default(migrated_postgres):
        yield


def test_key_that_was_outdated_stays_so_when_an_older_backup_is_restored(postgresql: None, tmp_path: Path, settings: Any) -> None:
    ours: Any = SimpleNamespace(home=tmp_path / "home")
    ours.home.mkdir()
    settings.LOGS_HOME = ours.home / "logs"
    Host.objects.bulk_create(Host(name=name) for name in (HOST, "gpu-b", "gpu-c"))
    hostkeys.replace("gpu-c", at_once=False)
    pending = hostkeys.valid("gpu-c")
    made = backup.make(ours, tmp_path / "backup.tar.gz")
    Host.objects.create(name="later")
    new = rotated("--now")
    after = {name: hostkeys.valid(name) for name in (HOST, "gpu-b", "gpu-c")}
    after["later"] = (rotated("--now", name="later"),)
    hostkeys.settle(Host.objects.get(name="gpu-c"))
    after["gpu-c"] = pending[:1]
    backup.restore(ours, made)
    assert after[HOST] == (new,)
    assert {name: hostkeys.valid(name) for name in after} == after


# --- a real agent, and a control worker of its own ------------------------------------------------------------------------------


def brought_over(agent: Agent, new: bytes) -> None:
    """As an operator does it."""
    assert agent.agent
    agent.agent.terminate()
    agent.agent.wait(20)
    agent.env |= {"AUTOTRAINER_HOST_KEY": new.hex(), "AUTOTRAINER_HOST_KEY_PREVIOUS": agent.key.hex()}
    agent.key = new
    agent.start()


def test_training_survives_and_who_has_the_old_key_is_refused(ada: User, broker: str, tmp_path: Path) -> None:
    with running_stack(broker, tmp_path, ada) as stack:
        Host.objects.create(name="gpu-b")
        other = FakeHost(broker, "gpu-b", devices=0)
        agent, go = stack.agent, tmp_path / "go"
        job = stack.submit(f"until test -e {go}; do sleep 0.1; done; echo through")
        wait_until(lambda: Attempt.objects.filter(job=job, job__state=JobState.RUNNING), 30, "it runs")
        attempt = Attempt.objects.get()

        # An operator brings the host over.
        new = rotated()
        brought_over(agent, new)
        wait_until(lambda: Host.objects.get(name=HOST).key_generation_before is None, 30, "the control worker has heard the new key")
        assert Path(f"/proc/{attempt.pid}").exists()
        late = stack.submit("true", min_gpus=0)
        wait_until(lambda: Job.objects.get(pk=late.pk).state == JobState.COMPLETED, 30, "another job on it")

        # The new one has got into other hands.
        rotated("--now")
        assert agent.agent
        agent.kill()
        refused = agent.spawn()
        wait_until(lambda: refused.poll() is not None, 30, "the agent with the old key has ended")
        assert (refused.returncode, f"AUTOTRAINER_HOST_KEY is not the key of host {HOST}" in agent.words()) == (1, True)
        end = Ended(job=str(job.uid), attempt=1, fence=attempt.fence, reason=EndReason.EXITED, exit_code=7, ended_at=1.0)
        for key in (KEY, new):
            forged = protocol.seal(Kind.ENDED, HOST, end.body(), key)
            agent.client.xadd(protocol.reports_key(HOST), {"e": forged})
        wait_until(lambda: agent.client.xlen(protocol.reports_key(HOST)) == 0, 20, "the control worker has read what was forged")
        assert Job.objects.get(pk=job.pk).state == JobState.RUNNING

        # The machine is the operator's again.
        last = bytes.fromhex(join(HOST)[0]["AUTOTRAINER_HOST_KEY"])
        agent.env.pop("AUTOTRAINER_HOST_KEY_PREVIOUS")
        agent.env["AUTOTRAINER_HOST_KEY"] = last.hex()
        agent.client.delete(protocol.beat_key(HOST))
        agent.key = last
        agent.start()
        go.touch()
        wait_until(lambda: Job.objects.get(pk=job.pk).state == JobState.COMPLETED, 30, "it is over")
        assert stack.starts().count((job.pk, 1)) == 1
        other.beat()
        wait_until(lambda: Host.objects.get(name="gpu-b").state == HostState.UP, 20, "the other host is heard with the key that it had")
        assert (other.key, Attempt.objects.get(job=job).exit_code) == (hostkeys.valid("gpu-b")[0], 0)
        other.close()


def test_what_was_said_with_the_old_key_and_not_read_in_time_is_said_again(ada: User, broker: str, tmp_path: Path) -> None:
    with running_stack(broker, tmp_path, ada) as stack:
        agent, go = stack.agent, tmp_path / "go"
        job = stack.submit(f"until test -e {go}; do sleep 0.1; done; echo through; exit 3", max_retries=0)
        wait_until(lambda: Job.objects.get().state == JobState.RUNNING, 30, "it runs")
        stack.kill_control()
        new = rotated()
        go.touch()
        wait_until(lambda: agent.client.xlen(protocol.reports_key(HOST)), 20, "its end lies there, sealed with the old key")
        brought_over(agent, new)
        hostkeys.settle(Host.objects.get())
        assert hostkeys.valid(HOST) == (new,)
        stack.start_control()
        wait_until(lambda: Job.objects.get().state == JobState.FAILED, 60, "its end is known")
        assert "report of gpu-a dropped: the signature is not by this host's key" in (tmp_path / "control.log").read_text()
        assert (Attempt.objects.get().exit_code, stack.starts()) == (3, [(job.pk, 1)])
        log = tmp_path / "control-home" / "logs" / str(job.pk) / "1.log"
        wait_until(lambda: log.exists() and log.read_text() == "through\n", 30, "its log is whole")
