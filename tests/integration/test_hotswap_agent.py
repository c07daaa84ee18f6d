"""Swaps through a real agent: contents from Redis, files that come back whoever was killed, and what is reported."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuworker import protocol
from gpuworker import settings as environment
from gpuworker.hotswap import ways
from gpuworker.hotswap.orders import HotSwap
from gpuworker.protocol import Ended, EndReason, Refused, Spec, Started, Swap
from tests.integration.host import Host
from tests.integration.launching import kill
from tests.waiting import wait_until

OLD, NEW = b"LR = 0.1\n", b"LR = 0.2\n"
SHA256 = hashlib.sha256(NEW).hexdigest()
HERE = ways.choose(Path(__file__).parent)


@pytest.fixture
def host(redis_url: str, tmp_path: Path) -> Iterator[Host]:
    """An agent that goes the journal's way."""
    host = Host(redis_url, tmp_path)
    host.env[ways.FORCED] = ways.JOURNAL
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "loss.py").write_bytes(OLD)
    try:
        host.start()
        yield host
    finally:
        host.close()


def swap_in(host: Host, command: str, *, content: bytes | None = NEW, fence: int = 100) -> Spec:
    if content is not None:
        host.client.set(protocol.content_key(SHA256), content, ex=60)
    swaps = (Swap(target="loss.py", sha256=SHA256, size=len(NEW)),)
    return host.offer(host.spec(command, working_dir=str(host.home / "code"), swaps=swaps, fence=fence))


def loss(host: Host) -> bytes:
    return (host.home / "code" / "loss.py").read_bytes()


def rest(host: Host) -> list[str]:
    return sorted(path.name for path in (host.home / "code").iterdir())


def test_agent_swaps_a_content_in_and_tells_of_it(host: Host) -> None:
    spec = swap_in(host, "cat loss.py")
    started, ended = host.report(Started, spec), host.report(Ended, spec)
    assert ended.exit_code == 0
    assert host.log(spec) == NEW
    assert [(s.target, s.way) for s in started.swapped] == [("loss.py", "journal")]
    assert "-LR = 0.1\n+LR = 0.2\n" in started.swapped[0].diff
    assert [(p.target, p.result) for p in ended.put_back] == [("loss.py", "restored")]
    assert (loss(host), rest(host)) == (OLD, ["loss.py"])


def test_agent_says_which_way_its_host_goes(host: Host) -> None:
    beat = host.beat()
    assert beat
    assert (beat.swap_way, beat.swap_note) == (ways.JOURNAL, f"{ways.FORCED} says so")


@pytest.mark.parametrize("content", [None, b"forged"], ids=["missing", "another one"])
def test_content_that_is_not_what_the_spec_names_is_refused(host: Host, content: bytes | None) -> None:
    refused = host.report(Refused, swap_in(host, "cat loss.py", content=content))
    assert refused.code == "content_missing"
    assert "loss.py" in refused.message
    assert loss(host) == OLD


def test_source_that_vanished_ends_as_the_jobs_own_fault(host: Host) -> None:
    swaps = (Swap(target="loss.py", source=str(host.home / "gone.py")),)
    ended = host.report(Ended, host.offer(host.spec("true", working_dir=str(host.home / "code"), swaps=swaps)))
    assert (ended.reason, ended.own_fault) == (EndReason.LAUNCH_FAILED, True)
    assert "gone.py" in ended.message


def test_second_job_is_refused_with_the_first_ones_number(host: Host) -> None:
    first = swap_in(host, "until [ -e go ]; do sleep 0.05; done")
    host.report(Started, first)
    refused = host.report(Refused, swap_in(host, "true", fence=101))
    assert (refused.code, "job #7" in refused.message) == ("file_in_use", True)
    (host.home / "code" / "go").touch()
    host.report(Ended, first)


def test_next_agent_puts_back_what_a_killed_shim_and_a_killed_agent_left(host: Host) -> None:
    spec = swap_in(host, "echo up; exec sleep 600")
    started = host.report(Started, spec)
    host.kill()
    kill(json.loads((host.folder(spec) / "shim.json").read_text())["pid"])
    assert loss(host) == NEW  # The training lives and needs it.
    kill(started.pid)
    host.start()
    ended = host.report(Ended, spec)
    assert (ended.reason, [p.result for p in ended.put_back]) == (EndReason.EXIT_LOST, ["restored"])
    assert (loss(host), rest(host)) == (OLD, ["loss.py"])
    after = swap_in(host, "cat loss.py", fence=101)
    assert host.report(Ended, after).exit_code == 0


def test_file_of_before_a_restart_of_the_machine_is_back_before_the_agent_is_heard(host: Host) -> None:
    spec = swap_in(host, "exec sleep 600")
    started = host.report(Started, spec)
    host.kill()
    kill(json.loads((host.folder(spec) / "shim.json").read_text())["pid"])
    kill(started.pid)
    for name in ("shim.json", "started.json"):
        record = host.folder(spec) / name
        record.write_text(json.dumps(json.loads(record.read_text()) | {"boot_id": "another boot"}))
    host.start()  # Returns with its first heartbeat.
    assert (loss(host), rest(host)) == (OLD, ["loss.py"])
    ended = host.report(Ended, spec)
    assert (ended.reason, [p.result for p in ended.put_back]) == (EndReason.HOST_LOST, ["restored"])


def test_file_that_could_not_be_put_back_is_tried_again_though_its_job_is_settled(host: Host) -> None:
    spec = swap_in(host, "exec sleep 600")
    started = host.report(Started, spec)
    host.kill()
    kill(json.loads((host.folder(spec) / "shim.json").read_text())["pid"])
    kill(started.pid)
    for what in ("started", "ended", "log"):
        (host.folder(spec) / f"ack-{what}").touch()
    host.start()
    assert (loss(host), rest(host)) == (OLD, ["loss.py"])


@pytest.mark.skipif(HERE.name != ways.MOUNT, reason=f"no mount namespaces here: {HERE.note}")
def test_overlay_that_a_rename_has_ended_is_in_the_heartbeat(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "loss.py").write_bytes(OLD)
    host = Host(redis_url, tmp_path)
    try:
        host.start()
        spec = swap_in(host, "until [ -e go ]; do sleep 0.05; done; cat loss.py")
        assert host.report(Started, spec).swapped[0].way == ways.MOUNT
        (tmp_path / "pulled").write_bytes(b"pulled\n")
        (tmp_path / "pulled").rename(tmp_path / "code" / "loss.py")
        wait_until(lambda: [a.uncovered for a in beat.attempts] == [("loss.py",)] if (beat := host.beat()) else False, 40, "it is noticed")
        (tmp_path / "code" / "go").touch()
        assert host.report(Ended, spec).exit_code == 0
        assert host.log(spec) == b"pulled\n"
    finally:
        host.close()


def test_old_bytecode_is_thrown_away_and_the_rest_stays(tmp_path: Path) -> None:
    config = environment.load({"AUTOTRAINER_HOME": str(tmp_path), "AUTOTRAINER_HOST": "gpu-a"})
    cache = config.host_home / "pycache"
    for name in ("a/b/old.pyc", "a/c/young.pyc"):
        (cache / name).parent.mkdir(parents=True)
        (cache / name).touch()
    os.utime(cache / "a/b/old.pyc", (0, 0))
    HotSwap(config, None, lock_folder=tmp_path, way=HERE).prune(keep_s=3600)
    assert [str(path.relative_to(cache)) for path in sorted(cache.rglob("*"))] == ["a", "a/c", "a/c/young.pyc"]
    HotSwap(config, None, lock_folder=tmp_path, way=HERE).prune(keep_s=-3600)
    assert not cache.exists()
    HotSwap(config, None, lock_folder=tmp_path, way=HERE).prune(keep_s=0)
