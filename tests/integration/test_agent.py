"""The host agent as a real Celery worker against a real Redis, with simulated devices and real trainings."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gpuworker import groups, protocol
from gpuworker.protocol import DeviceReading, Ended, EndReason, IgnoredProcess, Kind, Refused, Rules, Started
from gpuworker.shim import locks, processes
from tests.conftest import start_redis
from tests.integration.host import CLUSTER_KEY, HOST, KEY, Host, carries, running_host
from tests.waiting import wait_until


@pytest.fixture
def host(redis_url: str, tmp_path: Path) -> Iterator[Host]:
    with running_host(redis_url, tmp_path) as host:
        yield host


def test_agent_runs_a_job_and_tells_all_of_it(host: Host) -> None:
    spec = host.offer(host.spec("echo hello; echo $CUDA_VISIBLE_DEVICES; sleep 0.3; exit 0"))
    started = host.report(Started, spec)
    assert host.claims() == {host.uuids[0]: protocol.attempt_key(spec.job, 1, 100)}
    ended = host.report(Ended, spec)
    assert (ended.reason, ended.exit_code, ended.unclean) == (EndReason.EXITED, 0, {})
    assert [d.uuid for d in started.devices] == [host.uuids[0]] == [d.uuid for d in ended.devices]
    assert host.log(spec) == b"hello\n0\n"
    assert ended.log_bytes == 8
    assert host.claims() == {}
    markers = ("ack-started", "ack-ended", "ack-log", "ended.json")
    wait_until(lambda: all((host.folder(spec) / name).exists() for name in markers), 5, "acknowledged")


def test_agent_tells_its_log_what_its_machine_lacks(redis_url: str, tmp_path: Path) -> None:
    with running_host(redis_url, tmp_path, devices="none") as host:
        assert "no GPU: only jobs with 0 GPUs run here" in host.words()


def test_agent_has_no_django(host: Host) -> None:
    spec = host.offer(host.spec(f"grep -c django/db /proc/{host.agent.pid}/maps; env | grep -c ^DJANGO_", device_count=0))  # type: ignore[union-attr]
    host.report(Ended, spec)
    assert host.log(spec) == b"0\n0\n"
    code = "import sys, gpuworker.celery, gpuworker.agent; sys.exit('django.db' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=host.env, check=False).returncode == 0


def test_agent_says_what_its_host_is_doing(host: Host) -> None:
    spec = host.offer(host.spec("echo out of memory; sleep 30", device_count=2))
    host.report(Started, spec)

    def told() -> bool:
        host.hear()
        beat = host.beat()
        assert beat
        assert beat.kill_level == ("cgroup" if groups.parent_for() else "subreaper")
        return [(a.job, a.running, a.log_bytes, a.oom_detected) for a in beat.attempts] == [(spec.job, True, 14, True)] and all(
            d.processes and d.processes[0].ours and not d.in_use_outside for d in beat.devices
        )

    wait_until(told, 10, "the attempt and its devices in a heartbeat")
    host.stop(spec)
    assert host.report(Ended, spec).oom_detected
    wait_until(lambda: (beat := host.beat()) and not beat.attempts and not any(d.processes for d in beat.devices), 5, "an idle heartbeat")


def test_agent_sends_the_whole_log_before_the_end(host: Host) -> None:
    spec = host.offer(host.spec("head -c 3000000 /dev/zero | tr '\\0' x; exit 3"))
    assert host.report(Ended, spec).exit_code == 3
    wait_until(lambda: host.hear() or len(host.log(spec)) == 3_000_000, 10, "the log")


def test_relay_waits_while_nobody_reads_and_is_whole_in_the_end(host: Host) -> None:
    spec = host.offer(host.spec("head -c 5000000 /dev/zero | tr '\\0' x; sleep 1; echo; echo out of memory; exit 3", device_count=0))
    wait_until(lambda: (host.folder(spec) / "ended.json").exists(), 15, "the end")
    sent = sum(len(fields[b"d"]) for _, fields in host.client.xrange(protocol.logs_key(HOST)))
    assert 0 < sent <= 2**20
    assert host.report(Ended, spec).oom_detected
    wait_until(lambda: host.hear() or len(host.log(spec)) == 5_000_015, 15, "the log")
    wait_until(lambda: (host.folder(spec) / "ack-log").exists(), 5, "handed over")


def test_relay_fills_the_gap_when_redis_lost_a_piece_of_a_log(host: Host) -> None:
    spec = host.offer(host.spec("for i in $(seq 20); do echo line $i; sleep 0.2; done", device_count=0))
    wait_until(lambda: host.client.xlen(protocol.logs_key(HOST)), 10, "a chunk")
    host.client.delete(protocol.logs_key(HOST))
    host.report(Ended, spec)
    whole = b"".join(b"line %d\n" % i for i in range(1, 21))
    wait_until(lambda: host.hear() or host.log(spec) == whole, 15, "the log")


def test_log_that_its_command_truncates_keeps_what_was_relayed(host: Host) -> None:
    spec = host.offer(host.spec("echo before; sleep 0.5; echo after > /dev/stderr; sleep 0.3; echo more", device_count=0))
    ended = host.report(Ended, spec)
    assert host.log(spec) == b"before\nafter\nmore\n"
    assert (ended.log_bytes, ended.log_truncated, ended.message) == (18, True, "")


def test_agent_ends_the_tree_when_told_to_stop(host: Host) -> None:
    spec = host.offer(host.spec("trap '' TERM; sleep 100 & setsid sleep 100 & wait; sleep 100", device_count=1))
    host.report(Started, spec)
    begun = time.monotonic()
    host.stop(spec, kill_grace_s=0.5)
    ended = host.report(Ended, spec)
    assert ended.reason is EndReason.CANCELLED
    assert time.monotonic() - begun < 5
    assert not host.claims()


def test_stop_that_comes_first_refuses_the_start(host: Host) -> None:
    spec = host.spec("touch ran")
    host.stop(spec)
    assert host.report(Refused, spec).code == "stopped"
    host.offer(spec)
    _settled(host)
    assert not (host.home / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"devices": ("GPU-of-another-host",)}, "device_not_usable"), ({"device_count": 3}, "device_busy")],
)
def test_agent_refuses_what_it_cannot_start_and_holds_nothing(host: Host, changes: dict[str, Any], code: str) -> None:
    spec = host.offer(host.spec("touch ran", **changes))
    refused = host.report(Refused, spec)
    assert (refused.code, bool(refused.message), host.claims()) == (code, True, {})
    host.offer(spec)
    _settled(host)
    assert not (host.home / "ran").exists()


def test_agent_refuses_a_device_that_a_stranger_uses(host: Host) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        (host.settings.host_home / "sim" / f"{stranger.pid}@0").write_text("4000 90")
        spec = host.offer(host.spec("true", devices=host.uuids[:1]))
        assert host.report(Refused, spec).code == "device_not_usable"
        assert not host.claims()
    finally:
        stranger.kill()
        stranger.wait()


def test_agent_goes_by_an_operators_rules_in_its_heartbeats_and_before_a_launch(host: Host) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        (host.settings.host_home / "sim" / f"{stranger.pid}@0").write_text("4000 90")
        device = host.uuids[0]
        wait_until(lambda: _reading(host, device).in_use_outside, 5, "a device that a stranger uses")
        (process,) = _reading(host, device).processes
        assert (process.utilization_pct, process.ignored) == (90.0, False)
        assert process.start_ticks == processes.start_ticks(stranger.pid)
        assert process.age_s is not None
        ignored = IgnoredProcess(boot_id=processes.boot_id(), pid=stranger.pid, start_ticks=process.start_ticks or 0)
        rules = protocol.seal(Kind.RULES, HOST, Rules(serial=1, ignored=(ignored,)).body(), KEY)
        host.client.set(protocol.rules_key(HOST), rules)
        wait_until(lambda: not _reading(host, device).in_use_outside, 5, "a device that counts as free")
        beat = host.beat()
        assert beat
        assert (beat.rules_serial, _reading(host, device).processes[0].ignored) == (1, True)
        spec = host.offer(host.spec("true", devices=(device,)))
        assert host.report(Ended, spec).exit_code == 0
        host.client.delete(protocol.rules_key(HOST))
        host.kill()
        host.start()  # it has kept them
        spec = host.offer(host.spec("true", devices=(device,), fence=101))
        assert host.report(Ended, spec).exit_code == 0
    finally:
        stranger.kill()
        stranger.wait()


def _reading(host: Host, uuid: str) -> DeviceReading:
    beat = host.beat()
    assert beat
    return next(device for device in beat.devices if device.uuid == uuid)


def test_agent_shows_a_device_that_another_installation_has_locked_as_busy(host: Host) -> None:
    free, locked = host.uuids
    held = locks.take_all([locks.lock_path(host.settings.host_home / "locks", locked)])
    try:
        spec = host.offer(host.spec("touch ran", devices=(locked,)))
        assert host.report(Refused, spec).code == "device_busy"
        beat = host.beat()
        assert beat
        assert {d.uuid: d.in_use_outside for d in beat.devices} == {free: False, locked: True}
        assert not host.claims()
    finally:
        locks.drop(held)
    wait_until(lambda: not any(d.in_use_outside for d in host.beat().devices), 5, "a free device")  # type: ignore[union-attr]
    assert not (host.home / "ran").exists()


def test_claim_that_an_agent_died_at_is_dropped_by_the_next(host: Host) -> None:
    host.kill()
    host.client.hset(protocol.claims_key(HOST), host.uuids[0], f"some-job.1.5 5 {time.time() * 1000:.0f}")
    host.start()
    wait_until(lambda: not host.claims(), 5, "the claim dropped")


def test_agent_refuses_a_device_that_another_attempt_holds(host: Host) -> None:
    first = host.offer(host.spec("sleep 30", devices=host.uuids[:1]))
    host.report(Started, first)
    second = host.offer(host.spec("true", devices=host.uuids[:1], fence=101))
    assert first.job in host.report(Refused, second).message
    older = host.offer(replace(first, fence=99, devices=host.uuids[1:]))
    assert host.report(Refused, older).code == "stale"
    host.stop(first)
    host.report(Ended, first)


def test_agent_starts_those_who_share_a_device_beside_each_other_and_nobody_else(host: Host) -> None:
    (device,) = host.uuids[:1]
    sharing = {"devices": (device,), "shared": True, "gpu_memory_mib": 3000}
    first = host.offer(host.spec("sleep 60", **sharing))
    host.report(Started, first)
    second = host.offer(host.spec("sleep 60", fence=101, **sharing))
    host.report(Started, second)
    third = host.offer(host.spec("true", fence=102, **sharing))
    assert first.job in host.report(Refused, third).message  # 8 GiB are not enough for three
    alone = host.offer(host.spec("true", fence=103, devices=(device,)))
    assert host.report(Refused, alone).code == "device_busy"
    host.stop(first)
    assert host.report(Ended, first).unclean == {}  # what is still on it belongs to the other
    assert set(host.claims()) == {device}
    fourth = host.offer(host.spec("true", fence=104, **sharing))
    assert host.report(Ended, fourth).exit_code == 0
    host.stop(second)
    assert host.report(Ended, second).unclean == {}
    wait_until(lambda: not host.claims(), 5, "nothing is claimed any more")


def test_agent_that_takes_over_says_the_claims_of_those_who_share_again(host: Host) -> None:
    sharing = {"devices": host.uuids[:1], "shared": True, "gpu_memory_mib": 4000}
    specs = [host.offer(host.spec("sleep 60", fence=100 + n, **sharing)) for n in range(2)]
    for spec in specs:
        host.report(Started, spec)
    host.kill()
    host.client.delete(protocol.claims_key(HOST))
    host.start()
    wait_until(lambda: host.claims(), 5, "claims")
    third = host.offer(host.spec("true", fence=110, **sharing))
    assert host.report(Refused, third).code == "device_busy"
    for spec in specs:
        host.stop(spec)
        host.report(Ended, spec)


def test_agent_starts_nothing_that_is_not_its_control_planes_word(host: Host) -> None:
    spec = host.spec("touch ran", device_count=0)
    stranger = protocol.derive_host_key(b"another cluster", HOST)
    other_host = protocol.derive_host_key(CLUSTER_KEY, "gpu-b")
    late = replace(spec, expires_at=time.time() - 1)
    for sealed in (
        protocol.seal(Kind.SPEC, HOST, spec.body(), stranger),
        protocol.seal(Kind.SPEC, "gpu-b", spec.body(), other_host),
        protocol.seal(Kind.SPEC, HOST, late.body(), KEY),
        protocol.seal(Kind.STOP, HOST, spec.body(), KEY),
        protocol.seal(Kind.SPEC, HOST, {"job": spec.job}, KEY),
        "nonsense",
    ):
        host.offer(spec, sealed=sealed)
    good = protocol.seal(Kind.SPEC, HOST, spec.body(), KEY)
    for args in ([], [spec.job], [spec.job, None], [{}, []], [str(uuid.uuid4()), good], [spec.job, good, "more"]):
        host.send(args, task_id=str(uuid.uuid4()))
    _settled(host)
    assert not (host.home / "ran").exists()
    assert not host.folder(spec).exists()


def test_agent_obeys_no_forged_expired_or_repeated_stop(host: Host) -> None:
    spec = host.offer(host.spec("sleep 30", device_count=0))
    host.report(Started, spec)
    order = host.stop(replace(spec, fence=5))
    host.stop(spec, expires_at=time.time() - 1)
    host.stop(spec, nonce="../../evil")
    for sealed in (order, protocol.seal(Kind.SPEC, HOST, spec.body(), KEY), "nonsense", None, ["x"], {}):
        host.command(sealed)
    _settled(host)
    assert not (host.folder(spec) / "exit.json").exists()
    assert len(list((host.settings.host_home / "nonces").iterdir())) == 1


def test_worker_lives_whatever_lies_in_its_queue(host: Host) -> None:
    queue = f"{protocol.KEY_PREFIX}{protocol.host_queue(HOST)}"
    for raw in _raw_messages():
        host.client.lpush(queue, raw)
    for task in ("celery.backend_cleanup", "no.such.task"):
        host.app.send_task(task, queue=protocol.host_queue(HOST))
    host.app.send_task(protocol.TRAIN_TASK, args=["x"], kwargs={"y": 1}, queue=protocol.host_queue(HOST), eta=datetime.now(UTC))
    pidbox = f"{protocol.KEY_PREFIX}/0.celery.pidbox"
    for raw in (b"\xff", b"[]", b"{}", _message(body="WzFd"), _message(**{"content-type": "application/data"})):
        host.client.publish(pidbox, raw)
    assert host.agent
    pid = host.agent.pid
    spec = host.offer(host.spec("echo alive"))
    assert host.report(Ended, spec).exit_code == 0
    host.client.flushall()
    spec = host.offer(host.spec("echo alive", devices=_uuids(host)))
    assert host.report(Ended, spec).exit_code == 0
    assert host.agent.poll() is None
    assert host.agent.pid == pid
    assert "Unrecoverable" not in host.words()
    assert "Control command error" not in host.words()
    assert host.client.zcard(f"{protocol.KEY_PREFIX}host:{HOST}:unacked_index") == 0  # or they would come again


def test_worker_has_no_remote_command_that_stops_or_changes_it(host: Host) -> None:
    control = host.app.control
    spec = host.offer(host.spec("sleep 30", device_count=0))
    host.report(Started, spec)
    control.revoke(spec.job, terminate=True, signal="KILL")
    for command in ("shutdown", "pool_grow", "pool_shrink", "pool_restart", "cancel_consumer", "add_consumer", "hello", "election"):
        control.broadcast(command, arguments={})
    names = control.inspect(destination=[protocol.node_name(HOST)], timeout=3)
    active = names.active()[protocol.node_name(HOST)]
    assert [task["args"] for task in active] == ["sleep 30"]  # not the spec with its environment
    again = host.offer(replace(spec, attempt=2, fence=200, command="echo again", job=spec.job))
    assert host.report(Refused, again).code == "job_still_here"
    assert names.ping() == {protocol.node_name(HOST): {"ok": "pong"}}


def test_retry_goes_through_the_front_door_with_nothing_but_the_jobs_id(host: Host) -> None:
    spec = host.offer(host.spec("exit 9", max_retries=2, retries_spent=1, env={"SECRET": "s3cret"}))
    assert host.report(Ended, spec).exit_code == 9
    control = f"{protocol.KEY_PREFIX}{protocol.CONTROL_QUEUE}"
    raw: Any = wait_until(lambda: host.client.lindex(control, 0), 5, "a knock")
    message = json.loads(raw)
    headers, (args, kwargs, _) = message["headers"], json.loads(base64.b64decode(message["body"]))
    assert (headers["id"], headers["task"], headers["retries"]) == (spec.job, protocol.TRAIN_TASK, 2)
    assert (args, kwargs, headers["argsrepr"]) == ([spec.job], {}, "'exit 9'")
    assert b"s3cret" not in raw
    assert headers["eta"]


@pytest.mark.parametrize(
    ("command", "changes"),
    [("exit 9", {"max_retries": 1, "retries_spent": 1}), ("echo CUDA out of memory; exit 1", {"max_retries": 2, "retry_on_oom": False})],
)
def test_no_retry_is_asked_for_past_the_limit(host: Host, command: str, changes: dict[str, Any]) -> None:
    spec = host.offer(host.spec(command, **changes))
    host.report(Ended, spec)
    wait_until(lambda: "AttemptFailed" in host.words(), 5, "a failure in Celery's log")
    assert host.client.llen(f"{protocol.KEY_PREFIX}{protocol.CONTROL_QUEUE}") == 0


def test_next_agent_takes_over_when_one_is_killed_during_a_training(host: Host) -> None:
    spec = host.offer(host.spec("for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 0.5; done; exit 4"))
    started = host.report(Started, spec)
    wait_until(lambda: host.hear() or b"line 2" in host.log(spec), 5, "the second line")
    host.kill()
    assert Path(f"/proc/{started.pid}").exists()
    host.client.flushall()
    host.start()
    wait_until(lambda: host.claims() == {host.uuids[0]: protocol.attempt_key(spec.job, 1, 100)}, 5, "the claim again")
    ended = host.report(Ended, spec)
    assert (ended.exit_code, ended.reason, ended.started_at) == (4, EndReason.EXITED, started.started_at)
    assert host.log(spec) == b"".join(b"line %d\n" % i for i in range(1, 9))
    assert host.claims() == {}
    wait_until(lambda: "exit code 4" in host.words(), 5, "Celery's picture of the end")


def test_next_agent_tells_what_ended_while_there_was_none(host: Host) -> None:
    host.acknowledges = False
    over = host.offer(host.spec("echo before; exit 5", device_count=0))
    host.report(Ended, over)
    spec = host.offer(host.spec("sleep 1; echo after; exit 6"))
    host.report(Started, spec)
    host.kill()
    wait_until(lambda: (host.folder(spec) / "done.json").exists(), 5, "done")
    host.reports.clear()
    host.logs.clear()
    host.acknowledges = True
    host.start()
    assert (host.report(Ended, over).exit_code, host.report(Ended, spec).exit_code) == (5, 6)
    wait_until(lambda: host.hear() or (host.log(over), host.log(spec)) == (b"before\n", b"after\n"), 5, "both logs")
    assert host.claims() == {}


def test_agent_waits_for_a_tree_whose_shim_was_killed(host: Host) -> None:
    spec = host.offer(host.spec("echo one; sleep 2; echo two"))
    host.report(Started, spec)
    shim = json.loads((host.folder(spec) / "shim.json").read_text())["pid"]
    os.kill(shim, signal.SIGKILL)
    ended = host.report(Ended, spec)
    assert (ended.reason, ended.exit_code) == (EndReason.EXIT_LOST, None)
    assert host.log(spec) == b"one\ntwo\n"
    assert host.claims() == {}


def test_stop_ends_a_tree_whose_shim_was_killed(host: Host) -> None:
    spec = host.offer(host.spec("trap '' TERM; while true; do sleep 0.2; done"))
    host.report(Started, spec)
    os.kill(json.loads((host.folder(spec) / "shim.json").read_text())["pid"], signal.SIGKILL)
    host.stop(spec, kill_grace_s=0.3)
    assert host.report(Ended, spec).reason is EndReason.CANCELLED


def test_attempt_of_before_a_restart_of_the_host_is_host_lost(host: Host) -> None:
    spec = host.offer(host.spec("sleep 60"))
    host.report(Started, spec)
    host.kill()
    folder = host.folder(spec)
    os.kill(json.loads((folder / "shim.json").read_text())["pid"], signal.SIGKILL)
    for name in ("shim.json", "started.json"):
        record = json.loads((folder / name).read_text())
        os.kill(record["pid"], signal.SIGKILL) if name == "started.json" else None
        (folder / name).write_text(json.dumps(record | {"boot_id": "another boot"}))
    wait_until(lambda: not _marked(folder.name), 5, "its processes gone")
    host.start()
    assert host.report(Ended, spec).reason is EndReason.HOST_LOST
    assert host.claims() == {}


def test_agent_leaves_at_once_when_it_is_terminated_and_the_training_goes_on(host: Host) -> None:
    spec = host.offer(host.spec("sleep 4; echo through"))
    started = host.report(Started, spec)
    agent = host.agent
    assert agent
    begun = time.monotonic()
    agent.terminate()
    agent.wait(10)
    assert time.monotonic() - begun < 3
    assert Path(f"/proc/{started.pid}").exists()
    host.start()
    assert host.report(Ended, spec).exit_code == 0
    assert host.log(spec) == b"through\n"


def test_agent_goes_on_when_redis_was_away(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = start_redis(folder)
    try:
        with running_host(server.url, tmp_path) as host:
            spec = host.offer(host.spec("sleep 3; echo through; exit 8", max_retries=3))
            host.report(Started, spec)
            server.process.kill()
            server.process.wait()
            wait_until(lambda: (host.folder(spec) / "ended.json").exists(), 20, "an end without Redis")
            server = start_redis(folder)
            assert host.report(Ended, spec, 30).exit_code == 8
            wait_until(lambda: host.hear() or host.log(spec) == b"through\n", 10, "the log")
            later = host.offer(host.spec("true", devices=_uuids(host)))
            assert host.report(Ended, later, 40).exit_code == 0
    finally:
        server.process.kill()
        server.process.wait()


def test_reports_are_said_again_until_they_are_acknowledged_but_do_not_pile_up(host: Host) -> None:
    spec = host.offer(host.spec("true", device_count=0))
    wait_until(lambda: (host.folder(spec) / "ended.json").exists(), 10, "the end")
    wait_until(lambda: host.client.xlen(protocol.reports_key(HOST)) == 2, 5, "both reports")
    host.acknowledges = False
    host.report(Ended, spec)
    wait_until(lambda: host.client.xlen(protocol.reports_key(HOST)) == 2, 12, "both reports again")
    host.acknowledges = True
    host.hear()
    wait_until(lambda: (host.folder(spec) / "ack-ended").exists(), 5, "the acknowledgement")


@pytest.mark.parametrize("missing", ["AUTOTRAINER_HOST_KEY", "AUTOTRAINER_DEVICES"])
def test_agent_says_in_a_sentence_which_setting_is_wrong(redis_url: str, tmp_path: Path, missing: str) -> None:
    host = Host(redis_url, tmp_path)
    env = host.env | ({missing: "sim:many"} if missing == "AUTOTRAINER_DEVICES" else {missing: ""})
    command = [sys.executable, "-m", "celery", "-A", "gpuworker", "worker", "-P", "threads", "-n", protocol.node_name(HOST)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert missing in done.stderr
    assert "Traceback" not in done.stderr
    host.close()


def test_second_agent_on_the_same_home_is_refused(host: Host) -> None:
    command = [sys.executable, "-m", "celery", "-A", "gpuworker", "worker", "-P", "threads", "-n", "gpu@second"]
    done = subprocess.run(command, env=host.env, capture_output=True, text=True, timeout=40, check=False)
    assert done.returncode == 1
    assert "Another agent" in done.stderr
    assert "Traceback" not in done.stderr


# --- raw material -------------------------------------------------------------------------------------------------------


def _settled(host: Host) -> None:
    """All that was sent before has been handled: a job sent now has run through."""
    spec = host.offer(host.spec("true", device_count=0, fence=10**6))
    host.report(Ended, spec)


def _uuids(host: Host) -> tuple[str, ...]:
    wait_until(lambda: host.uuids, 10, "a heartbeat")
    return host.uuids


def _marked(key: str) -> list[str]:
    mark = f"AUTOTRAINER_MARK={key}".encode()
    return [proc.name for proc in Path("/proc").iterdir() if proc.name.isdigit() and carries(proc, mark)]


def _message(body: str = "", **changes: Any) -> bytes:
    body = body or base64.b64encode(json.dumps([["uid", "spec"], {}, {}]).encode()).decode()
    route = {"exchange": "", "routing_key": protocol.host_queue(HOST)}
    properties = {"delivery_tag": str(uuid.uuid4()), "delivery_mode": 2, "body_encoding": "base64", "delivery_info": route}
    headers = {"task": protocol.TRAIN_TASK, "id": str(uuid.uuid4()), "lang": "py"}
    whole = {"body": body, "content-type": "application/json", "content-encoding": "utf-8", "headers": headers, "properties": properties}
    return json.dumps(whole | changes).encode()


def _raw_messages() -> Iterator[bytes]:
    yield from (b"", b"\xff\xfe", b"nonsense", b"null", b"[]", b"{}", b'"x"', b"[" * 50_000, b'{"__type__": "datetime", "__value__": 5}')
    for kind in ("application/data", "application/text", "application/x-python-serialize", "application/x-yaml", "", None):
        yield _message(**{"content-type": kind})
    yield _message(body=base64.b64encode(pickle.dumps(({}, {}, {}))).decode(), **{"content-type": "application/x-python-serialize"})
    for body in ("x", [], {}, [1], [1, 2, 3, 4], [[], {}], [{}, [], {}], [[], {}, []], None, 5):
        for _ in range(20):  # a run of them made Celery deaf
            yield _message(body=base64.b64encode(json.dumps(body).encode()).decode())
    for headers in ({}, None, [], {"task": None}, {"task": []}, {"task": protocol.TRAIN_TASK}, {"task": protocol.TRAIN_TASK, "id": {}}):
        yield _message(headers=headers)
    yield _message(properties={})
    yield _message(properties={"delivery_tag": "t", "delivery_info": {}})
    yield _message(properties=None)
