"""What a host repairs by itself, with a real agent: rows of the reconcile table whose evidence lies in attempt directories.

The plain ones (the shim lives; it is dead and its tree lives; ended meanwhile; another boot) are in test_agent.py.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuworker import protocol, reports
from gpuworker.attempts import AttemptDir, TakenDevice
from gpuworker.claims.store import ClaimStore
from gpuworker.link import connect
from gpuworker.protocol import Ack, Ended, EndReason, Kind, Refused, Spec, Started
from gpuworker.recovery import Recovery
from gpuworker.reports import AckReader
from gpuworker.roster import Roster, Supervised
from gpuworker.runner import Runner
from tests.conftest import start_redis
from tests.integration.host import HOST, KEY, Host, running_host
from tests.waiting import wait_until

HOOKED = (str(Path(__file__).resolve().parent.parent / "programs" / "hooked_worker.py"),)
UNTIL_HURRIED = "echo begun; until test -e hurry; do sleep 0.1; done; echo through; exit 5"


@pytest.fixture
def host(redis_url: str, tmp_path: Path) -> Iterator[Host]:
    with running_host(redis_url, tmp_path) as host:
        yield host


def ask_again(host: Host, spec: Spec) -> None:
    ack = Ack(job=spec.job, attempt=spec.attempt, fence=spec.fence, what=protocol.SAY_AGAIN)
    host.client.xadd(protocol.acks_key(HOST), {"e": protocol.seal(Kind.ACK, HOST, ack.body(), KEY)})


def rewrite(record: Path, **changes: Any) -> None:
    record.write_text(json.dumps(json.loads(record.read_text()) | changes))


def test_end_that_was_acknowledged_is_told_again_to_a_control_plane_that_forgot_it(host: Host) -> None:
    spec = host.offer(host.spec("exit 3"))
    refused = host.offer(host.spec("true", device_count=9, fence=101))
    host.report(Ended, spec)
    host.report(Refused, refused)
    marks = (host.folder(spec) / "ack-ended", host.folder(refused) / "ack-refused")
    wait_until(lambda: all(mark.exists() for mark in marks), 5, "the acknowledgements")
    host.reports.clear()
    for one in (spec, refused, host.spec("never was", fence=102)):
        ask_again(host, one)
    assert host.report(Ended, spec).exit_code == 3
    assert host.report(Refused, refused).code == "device_busy"
    assert len(host.reports) == 2


def test_training_of_another_version_is_listed_and_left_alone_and_its_end_is_told(host: Host) -> None:
    spec = host.offer(host.spec(UNTIL_HURRIED))
    started = host.report(Started, spec)
    host.kill()
    rewrite(host.folder(spec) / "spec.json", body={"job": spec.job, "words": "of another version"})
    host.start()
    (listed,) = host.beat().attempts  # type: ignore[union-attr]
    assert (listed.job, listed.attempt, listed.fence, listed.running, listed.devices) == (spec.job, 1, 100, True, host.uuids[:1])
    assert os.path.exists(f"/proc/{started.pid}")
    refused = host.offer(host.spec("true", devices=host.uuids[:1], fence=101))
    assert host.report(Refused, refused).code in ("device_busy", "device_not_usable")
    (host.home / "hurry").touch()
    wait_until(lambda: (host.folder(spec) / "done.json").exists(), 10, "the training's end")
    host.kill()  # the next agent looks at once, this one within 15 s
    host.start()
    ended = host.report(Ended, spec)
    assert (ended.exit_code, ended.log_bytes) == (5, len(b"begun\nthrough\n"))
    wait_until(lambda: host.hear() or host.log(spec) == b"begun\nthrough\n", 10, "the log")
    wait_until(lambda: (host.folder(spec) / "ack-ended").exists(), 5, "the acknowledgement")
    assert not host.beat().attempts  # type: ignore[union-attr]


def test_training_of_another_version_can_be_stopped(host: Host) -> None:
    spec = host.offer(host.spec("sleep 60", device_count=0))
    host.report(Started, spec)
    host.kill()
    rewrite(host.folder(spec) / "spec.json", body={"job": spec.job})
    host.start()
    host.stop(spec)
    wait_until(lambda: (host.folder(spec) / "done.json").exists(), 10, "the training's end")


def test_directory_that_a_power_cut_left_without_its_spec_is_refused_or_lost(host: Host) -> None:
    host.kill()
    shim = {"boot_id": "another boot", "pid": 1, "start_ticks": 1}
    specs = [host.spec("true", fence=fence) for fence in (201, 202)]
    for spec, records in zip(specs, ({"shim.json": shim}, {"shim.json": shim, "started.json": shim}), strict=True):
        host.folder(spec).mkdir(parents=True)
        for name, body in records.items():
            (host.folder(spec) / name).write_text(json.dumps(body))
        (host.folder(spec) / "spec.json").write_bytes(b"\0" * 400)
    host.start()
    assert host.report(Refused, specs[0]).code == "spec_lost"
    lost = host.report(Ended, specs[1])
    assert (lost.reason, lost.own_fault) == (EndReason.HOST_LOST, False)


def test_devices_of_an_attempt_of_another_boot_go_to_nobody_before_its_end_is_told(host: Host) -> None:
    spec = host.offer(host.spec("sleep 60"))
    host.report(Started, spec)
    host.kill()
    folder = host.folder(spec)
    for name in ("shim.json", "started.json"):
        record = json.loads((folder / name).read_text())
        os.kill(record["pid"], signal.SIGKILL)
        rewrite(folder / name, boot_id="another boot")
    host.client.flushall()
    next_one = host.offer(host.spec("true", devices=(folder_device(folder),), fence=101))  # waits there before the agent does
    host.reports.clear()
    host.start()
    assert host.report(Ended, spec).reason is EndReason.HOST_LOST
    wait_until(lambda: host.hear() or any(r.fence == 101 for r in host.reports), 15, "what became of the next one")
    about = [(type(r).__name__, r.fence) for r in host.reports]
    if ("Started", 101) in about:
        assert about.index(("Ended", 100)) < about.index(("Started", 101))
    else:
        assert host.report(Refused, next_one).code == "device_busy"


def folder_device(folder: Path) -> str:
    return str(json.loads((folder / "spec.json").read_text())["taken"][0][0])


def test_training_is_supervised_by_an_agent_that_starts_while_redis_is_away(tmp_path: Path) -> None:
    (folder := tmp_path / "redis").mkdir()
    server = start_redis(folder)
    try:
        with running_host(server.url, tmp_path) as host:
            spec = host.offer(host.spec(UNTIL_HURRIED))
            host.report(Started, spec)
            host.kill()
            server.process.kill()
            server.process.wait()
            host.spawn()
            wait_until(lambda: "taken over" in host.words(), 20, "the training is taken over")
            (host.home / "hurry").touch()
            wait_until(lambda: (host.folder(spec) / "ended.json").exists(), 10, "its end is seen and written down")
            server = start_redis(folder)
            assert host.report(Ended, spec, 30).exit_code == 5
    finally:
        server.process.kill()
        server.process.wait()


def test_celerys_picture_of_a_training_that_was_taken_over_holds_up_nobody(redis_url: str, tmp_path: Path) -> None:
    hangs, asked, watched = threading.Event(), list[str](), list[str]()

    def publish(spec: Spec, sealed: str) -> None:
        asked.append(spec.job)
        hangs.wait(20)
        raise AttributeError("as Celery does where a worker's first publish finds no Redis")

    nobody = Host(redis_url, tmp_path)
    runner = SimpleNamespace(watcher=SimpleNamespace(watch=lambda one: watched.append(one.spec.job)))
    recovery = Recovery(nobody.settings, SimpleNamespace(), runner, publish)  # type: ignore[arg-type]
    ones = [Supervised(f"{n}", nobody.spec("true"), AttemptDir(tmp_path / f"{n}")) for n in range(2)]
    for one in ones:
        recovery._supervise(one)
    assert watched == [one.spec.job for one in ones]
    hangs.set()
    wait_until(lambda: asked == watched, 5, "both were published, in spite of the failure")
    nobody.close()


# --- an old spec in the hand --------------------------------------------------------------------------------------------


def all_threads_stand(pid: int) -> bool:
    """A signal is taken by each thread in its own time."""
    return all(stat.read_text().rpartition(") ")[2][0] == "T" for stat in Path(f"/proc/{pid}/task").glob("*/stat"))


def test_agent_that_was_stopped_between_claim_and_launch_refuses_what_has_expired_meanwhile(redis_url: str, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    with running_host(redis_url, tmp_path, program=HOOKED, variables={"AT_HOLD": str(hold)}) as host:
        spec = host.offer(host.spec("touch ran", expires_at=time.time() + 3))
        wait_until(hold.with_suffix(".reached").exists, 10, "the agent has claimed and looks")
        assert list(host.claims().values()) == [protocol.attempt_key(spec.job, 1, 100)]
        assert host.agent
        host.agent.send_signal(signal.SIGSTOP)
        stopped = host.agent.pid
        wait_until(lambda: all_threads_stand(stopped), 10, "it stands")
        hold.unlink()
        wait_until(lambda: time.time() > spec.expires_at, 10, "the offer has expired")
        host.agent.send_signal(signal.SIGCONT)
        assert host.report(Refused, spec).code == "expired"
        assert (host.claims(), (host.home / "ran").exists()) == ({}, False)


def test_agent_that_was_stopped_for_longer_than_an_offer_lives_starts_nothing_from_its_queue(host: Host) -> None:
    assert host.agent
    host.agent.send_signal(signal.SIGSTOP)
    spec = host.offer(host.spec("touch ran", device_count=0, expires_at=time.time() + 0.5))
    wait_until(lambda: time.time() > spec.expires_at, 10, "the offer has expired")
    host.agent.send_signal(signal.SIGCONT)
    after = host.offer(host.spec("true", device_count=0, fence=102))
    host.report(Ended, after)
    assert not host.folder(spec).exists()


# --- a Redis that knows nothing -----------------------------------------------------------------------------------------


def test_device_of_a_living_attempt_is_not_claimed_although_redis_knows_of_nobody(redis_url: str, tmp_path: Path) -> None:
    link = connect(redis_url, host=HOST, key=KEY)
    roster = Roster(tmp_path)
    nobody = Host(redis_url, tmp_path)
    spec = nobody.spec("true", devices=("GPU-0", "GPU-1"))
    living = Supervised("job.1.1", spec, AttemptDir(tmp_path / "job.1.1"), taken=(TakenDevice("GPU-0", 0, "0"),))
    assert roster.enter(living)
    inventory = SimpleNamespace(
        look=lambda uuids, **_: {},
        snapshot=lambda: SimpleNamespace(devices=[SimpleNamespace(uuid="GPU-1", index=1, memory_total_mib=1024)]),
        backend=SimpleNamespace(mask_token=lambda uuid: "1"),
    )
    parts: Any = SimpleNamespace(roster=roster, claims=ClaimStore(link.client, HOST), inventory=inventory)
    runner = Runner(parts, SimpleNamespace(), tmp_path)  # type: ignore[arg-type]
    one = Supervised("other.1.2", spec, AttemptDir(tmp_path / "other.1.2"))
    assert runner._prepare(one) is None
    assert one.uuids == ("GPU-1",)
    two = Supervised("other.1.3", nobody.spec("true", devices=("GPU-0",)), AttemptDir(tmp_path / "other.1.3"))
    refusal = runner._prepare(two)
    assert refusal
    assert (refusal.code, "GPU-0 is held by job.1.1" in refusal.message) == ("device_busy", True)
    assert set(link.client.hgetall(protocol.claims_key(HOST))) == {b"GPU-1"}
    link.client.close()
    nobody.close()


def test_acknowledgements_are_heard_from_a_redis_that_was_replaced_by_one_whose_clock_is_behind(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "ACKS_BLOCK_MS", 20)
    link = connect(redis_url, host=HOST, key=KEY)
    heard: list[Ack] = []
    reader = AckReader(link, heard.append)

    def say(attempt: int, entry: str) -> None:
        ack = Ack(job="j", attempt=attempt, fence=attempt, what="ended")
        link.client.xadd(protocol.acks_key(HOST), {"e": protocol.seal(Kind.ACK, HOST, ack.body(), KEY)}, id=entry)

    say(1, "5000-0")
    reader._read()
    say(2, "6000-0")
    reader._read()
    link.client.flushall()
    say(3, "40-0")
    for _ in range(3):
        reader._read()
    say(4, "41-0")
    reader._read()
    assert [ack.attempt for ack in heard] == [2, 3, 4]
    link.client.close()
