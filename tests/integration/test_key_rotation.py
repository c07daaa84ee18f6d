"""The cluster key is replaced while hosts run: both keys are valid meanwhile, and each host is spoken to with the one that it has."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import call_command

from autotrainer_site import keys
from gpuworker import protocol
from gpuworker.protocol import Ended, Kind, Rules, Started
from jobs import hostlink
from jobs.models import Host, Job
from tests.integration.fakehost import FakeHost, runs
from tests.integration.host import HOST, KEY, running_host

NEW = b"the new cluster key"


@pytest.fixture
def rotating(host: FakeHost, settings: Any) -> FakeHost:
    """The control plane goes by the new key already, its host by the old one."""
    settings.CLUSTER_KEY_PREVIOUS, settings.CLUSTER_KEY = settings.CLUSTER_KEY, NEW
    return host


def renewed(host: FakeHost) -> None:
    host.key = protocol.derive_host_key(NEW, host.name)
    host.beat(instance="started with the new key")


def test_host_is_spoken_to_with_the_key_that_it_has(rotating: FakeHost, submit: Callable[..., Job]) -> None:
    runs(submit(), rotating)
    renewed(rotating)
    rotating._acks_from = rotating.redis.xrevrange(protocol.acks_key("gpu-a"), count=1)[0][0]
    runs(submit(), rotating)


def test_host_with_the_old_key_is_heard_no_more_when_that_is_forgotten(rotating: FakeHost, settings: Any) -> None:
    assert hostlink.by_new_key(["gpu-a", "gpu-b"]) == {"gpu-a": False, "gpu-b": None}
    assert "gpu-a" in hostlink.heard(["gpu-a"])
    settings.CLUSTER_KEY_PREVIOUS = None
    hostlink.forget_heartbeats()
    assert hostlink.heard(["gpu-a"]) == {}
    renewed(rotating)
    assert "gpu-a" in hostlink.heard(["gpu-a"])
    assert hostlink.by_new_key(["gpu-a"]) == {"gpu-a": True}


def test_host_that_is_not_heard_is_spoken_to_with_the_new_key(rotating: FakeHost) -> None:
    rotating.redis.delete(protocol.beat_key("gpu-a"))
    assert hostlink._spoken("gpu-a").key == protocol.derive_host_key(NEW, "gpu-a")
    hostlink.forget_heartbeats()
    rotating.redis.set(protocol.beat_key("gpu-a"), "forged")
    assert hostlink._spoken("gpu-a").key == protocol.derive_host_key(NEW, "gpu-a")


# --- the command ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path, settings: Any) -> Any:
    """A control plane whose keys lie in files."""
    settings.AUTOTRAINER = SimpleNamespace(keys_home=tmp_path, cluster_key="", cluster_key_previous="")
    return settings.AUTOTRAINER


def said(*arguments: str) -> str:
    out = io.StringIO()
    call_command("cluster_key", *arguments, stdout=out)
    return out.getvalue()


def test_operator_replaces_the_key_in_three_steps(kept: Any, host: FakeHost, settings: Any) -> None:
    old = settings.CLUSTER_KEY_PREVIOUS = settings.CLUSTER_KEY = keys.cluster_key(kept)
    host.key = protocol.derive_host_key(old, "gpu-a")
    host.beat()
    assert "Start AutoTrainer again" in said("--new")
    assert keys.previous_cluster_key(kept) == old != keys.cluster_key(kept)
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept.keys_home.iterdir())
    settings.CLUSTER_KEY = keys.cluster_key(kept)
    assert "the previous key" in said()
    with pytest.raises(SystemExit, match="Still with the previous key: gpu-a"):
        said("--forget-previous")
    with pytest.raises(SystemExit, match="is being replaced still"):
        said("--new")
    host.key = protocol.derive_host_key(settings.CLUSTER_KEY, "gpu-a")
    host.beat()
    assert "the new key" in said()
    assert "Only the new key is valid" in said("--forget-previous")
    assert keys.previous_cluster_key(kept) is None
    with pytest.raises(SystemExit, match="no previous key"):
        said("--forget-previous")


def test_key_that_is_a_setting_is_the_operators_to_replace(kept: Any, transactional_db: None) -> None:
    kept.cluster_key = "x" * 64
    with pytest.raises(SystemExit, match="AUTOTRAINER_CLUSTER_KEY_PREVIOUS"):
        said("--new")
    kept.cluster_key_previous = "y" * 64
    with pytest.raises(SystemExit, match="unset it"):
        said("--forget-previous")
    assert keys.previous_cluster_key(kept) == b"y" * 64


def test_own_host_is_left_both_keys(kept: Any, settings: Any, tmp_path: Path, transactional_db: None) -> None:
    from autotrainer_site import prepare

    kept.host, kept.host_home = "lab", tmp_path / "hosts" / "lab"
    prepare.this_host(kept)
    first = (kept.host_home / "host_key").read_text()
    assert not (kept.host_home / "host_key_previous").exists()
    keys.replace_cluster_key(kept)
    prepare.this_host(kept)
    assert (kept.host_home / "host_key_previous").read_text() == first != (kept.host_home / "host_key").read_text()
    (kept.keys_home / keys.PREVIOUS).unlink()
    prepare.this_host(kept)
    assert not (kept.host_home / "host_key_previous").exists()
    assert Host.objects.get().name == "lab"


# --- a real agent -----------------------------------------------------------------------------------------------------------


def test_agent_takes_its_new_key_while_a_training_runs(redis_url: str, tmp_path: Path) -> None:
    new = protocol.derive_host_key(NEW, HOST)
    with running_host(redis_url, tmp_path) as host:
        host.client.set(protocol.rules_key(HOST), protocol.seal(Kind.RULES, HOST, Rules(serial=5, memory_mib=77).body(), KEY))
        spec = host.offer(host.spec("sleep 5; echo through"))
        started = host.report(Started, spec)
        assert host.agent
        host.agent.terminate()
        host.agent.wait(20)
        host.client.delete(protocol.rules_key(HOST))
        host.env |= {"AUTOTRAINER_HOST_KEY": new.hex(), "AUTOTRAINER_HOST_KEY_PREVIOUS": KEY.hex()}
        host.key = new
        host.start()
        beat = host.beat()
        assert beat
        assert [one.running for one in beat.attempts] == [True]
        assert beat.rules_serial == 5  # as they lie on its disk, sealed with the key before
        late = host.offer(host.spec("true", device_count=0, fence=200), sealed="")
        assert host.report(Ended, late).exit_code == 0
        old = host.spec("true", device_count=0, fence=201)
        host.offer(old, sealed=protocol.seal(Kind.SPEC, HOST, old.body(), KEY))
        assert host.report(Ended, old).exit_code == 0  # what was on its way is still read
        ended = host.report(Ended, spec)
        assert (ended.exit_code, host.log(spec), Path(f"/proc/{started.pid}").exists()) == (0, b"through\n", False)
