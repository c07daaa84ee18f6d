"""Reports and log chunks of hosts, through a real Redis into the database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from django.db import OperationalError
from django.utils import timezone

from gpuworker import protocol
from gpuworker.protocol import EndReason
from jobs import dispatch, drains, hostlink, lifecycle, logs
from jobs.bootsteps import IngestLoop
from jobs.ingest import Ingest
from jobs.models import Attempt, Device, Host, Job
from jobs.states import JobState, Outcome
from tests.integration.fakehost import FakeHost

Submit = Callable[..., Job]


@pytest.fixture
def ingest(host: FakeHost) -> Ingest:
    return Ingest()


@pytest.fixture
def offered(submit: Submit, host: FakeHost) -> Callable[..., tuple[Job, protocol.Spec]]:
    """A job that has been dispatched, and the spec that its host got."""

    def offered(**fields: Any) -> tuple[Job, protocol.Spec]:
        job = submit(**fields)
        dispatch.place(timezone.now())
        (spec,) = host.offers()
        return job, spec

    return offered


Offered = Callable[..., tuple[Job, protocol.Spec]]


def state(job: Job) -> JobState:
    job.refresh_from_db()
    return JobState(job.state)


def test_reports_are_applied_acknowledged_and_deleted(ingest: Ingest, offered: Offered, host: FakeHost) -> None:
    job, spec = offered()
    host.started(spec)
    assert ingest.turn(100) == 1
    assert state(job) is JobState.RUNNING
    host.ended(spec, 3, oom_detected=True)
    ingest.turn(100)
    assert (state(job), job.exit_code, job.oom_detected) == (JobState.FAILED, 3, True)
    assert [(a.what, a.job, a.attempt, a.fence) for a in host.acks()] == [
        ("started", spec.job, 1, spec.fence),
        ("ended", spec.job, 1, spec.fence),
    ]
    assert host.left() == 0


def test_repeated_and_superseded_reports_are_acknowledged_too(ingest: Ingest, offered: Offered, host: FakeHost) -> None:
    job, spec = offered()
    host.ended(spec)
    host.ended(spec)
    host.ended(replace(spec, fence=spec.fence + 100), 1)
    ingest.turn(100)
    assert state(job) is JobState.COMPLETED
    assert [a.what for a in host.acks()] == ["ended"] * 3


def test_refusal_brings_the_job_back_with_a_new_fence(ingest: Ingest, offered: Offered, host: FakeHost) -> None:
    job, spec = offered()
    host.refused(spec)
    ingest.turn(100)
    assert state(job) is JobState.QUEUED
    dispatch.place(timezone.now())
    (again,) = host.offers()
    assert (again.attempt, again.fence > spec.fence) == (1, True)


def test_log_is_stored_before_the_end_that_came_with_it(ingest: Ingest, offered: Offered, host: FakeHost) -> None:
    job, spec = offered()
    text = b"".join(b"step %d\r" % n for n in range(300))
    for offset in range(0, len(text), 10):
        host.log(spec, text[offset : offset + 10], offset)
    host.ended(spec, log_bytes=len(text))
    ingest.turn(100)
    assert state(job) is JobState.COMPLETED
    assert logs.read(job.pk, 1, 0, 10_000) == text
    while host.left():
        ingest.turn(100)
    assert {a.what: a.offset for a in host.acks()} == {"log": len(text), "ended": 0}


def test_log_acknowledges_what_is_stored_when_chunks_are_missing_or_come_twice(ingest: Ingest, offered: Offered, host: FakeHost) -> None:
    job, spec = offered()
    host.log(spec, b"abc", 0)
    host.log(spec, b"ghi", 6)
    ingest.turn(100)
    host.log(spec, b"abcdef", 0)
    host.log(spec, b"ghi", 6)
    ingest.turn(100)
    assert [(a.what, a.offset) for a in host.acks()] == [("log", 3), ("log", 9)]
    assert logs.read(job.pk, 1, 0, 100) == b"abcdefghi"


def test_end_is_applied_although_its_log_never_came(ingest: Ingest, offered: Offered, host: FakeHost) -> None:
    job, spec = offered()
    host.ended(spec, log_bytes=99)
    ingest.turn(100)
    assert state(job) is JobState.COMPLETED


def test_end_is_applied_although_the_log_cannot_be_stored(
    ingest: Ingest, offered: Offered, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, spec = offered()

    def full(*_: Any, **__: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logs, "append", full)
    host.log(spec, b"abc")
    host.ended(spec, log_bytes=3)
    with pytest.raises(OSError, match="No space"):
        ingest.turn(100)
    assert state(job) is JobState.COMPLETED
    monkeypatch.undo()
    ingest.turn(100)
    assert logs.size(job.pk, 1) == 3


def test_loop_says_a_full_disk_once_in_a_while_and_goes_on(
    offered: Offered, host: FakeHost, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job, spec = offered()

    def full(*_: Any, **__: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logs, "append", full)
    loop = IngestLoop(SimpleNamespace(held=True), SimpleNamespace(wake=lambda: None))  # type: ignore[arg-type]
    loop.halt()  # its waits end at once
    host.log(spec, b"abc")
    host.ended(spec, log_bytes=3)
    for _ in range(3):
        loop.turn()
    assert state(job) is JobState.COMPLETED
    assert [record.message for record in caplog.records if "cannot be stored and wait" in record.message] == [
        "logs cannot be stored and wait on their hosts: [Errno 28] No space left on device"
    ]


def test_log_goes_on_behind_what_its_host_has_cut_out(ingest: Ingest, offered: Offered, host: FakeHost) -> None:
    job, spec = offered()
    host.log(spec, b"head")
    host.log(spec, b"end", offset=1000)  # not said to be a cut: something got lost
    ingest.turn(100)
    assert (logs.size(job.pk, 1), logs.cut_of(job.pk, 1)) == (4, None)
    host.log(spec, b"end", offset=1000, cut_from=4)
    host.ended(spec, log_bytes=1003, log_cut_bytes=996, log_truncated=True)
    ingest.turn(100)
    assert (logs.size(job.pk, 1), logs.cut_of(job.pk, 1)) == (1003, (4, 1000))
    assert [ack.offset for ack in host.acks() if ack.what == "log"] == [4, 1003]
    told = dict(job.events.values_list("type", "message"))
    assert "996 bytes" in told["log_cut"]
    assert "truncated its own log" in told["log_truncated"]


def test_log_that_was_removed_does_not_come_back(ingest: Ingest, offered: Offered, host: FakeHost) -> None:
    job, spec = offered()
    job.attempts.update(log_removed_at=timezone.now())
    host.log(spec, b"late")
    ingest.turn(100)
    assert logs.size(job.pk, 1) == 0
    assert [ack.offset for ack in host.acks()] == [4]


def test_forged_and_unreadable_entries_are_dropped_and_the_next_ones_taken(ingest: Ingest, offered: Offered, host: FakeHost) -> None:
    job, spec = offered()
    thief = protocol.derive_host_key(b"stolen", "gpu-a")
    key = protocol.reports_key("gpu-a")
    body = protocol.Ended(job=spec.job, attempt=1, fence=spec.fence, reason=EndReason.EXITED, exit_code=0, ended_at=1.0).body()
    host.redis.xadd(key, {"e": protocol.seal(protocol.Kind.ENDED, "gpu-a", body, thief)})
    host.redis.xadd(key, {"e": b"\xff\x00"})
    host.redis.xadd(key, {"other": b"1"})
    host.redis.xadd(key, {"e": protocol.seal(protocol.Kind.ENDED, "gpu-a", body | {"fence": "7"}, host.key)})
    host.redis.xadd(key, {"e": protocol.seal(protocol.Kind.ENDED, "gpu-a", body | {"job": "no uuid"}, host.key)})
    host.redis.xadd(key, {"e": protocol.seal(protocol.Kind.ENDED, "gpu-a", body | {"ended_at": 1e30}, host.key)})
    host.redis.xadd(protocol.logs_key("gpu-a"), {"h": b"{", "d": b"x", "m": b"y"})
    host.log(spec, b"forged", key=thief)
    host.started(spec)
    ingest.turn(100)
    assert state(job) is JobState.RUNNING
    assert logs.size(job.pk, 1) == 0
    assert [a.what for a in host.acks()] == ["started"]
    assert host.left() == 0


def test_chunk_of_an_unknown_attempt_is_dropped_and_not_asked_for_again(
    ingest: Ingest, offered: Offered, host: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    _, spec = offered()
    for offset in (5, 8):
        host.log(replace(spec, fence=spec.fence + 1), b"abc", offset)
        ingest.turn(100)
    assert [(a.what, a.offset) for a in host.acks()] == [("log", 8), ("log", 11)]
    assert caplog.text.count("log of gpu-a dropped") == 1


def test_host_cannot_report_for_another(ingest: Ingest, offered: Offered, broker: str) -> None:
    job, spec = offered()
    Host.objects.create(name="gpu-b")
    other = FakeHost(broker, "gpu-b")
    other.ended(spec)
    other.log(spec, b"lies")
    ingest._hosts_at = float("-inf")
    ingest.turn(100)
    assert state(job) is JobState.STARTING
    assert logs.size(job.pk, 1) == 0
    other.close()


def test_report_stays_while_the_database_is_away(ingest: Ingest, offered: Offered, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    job, spec = offered()
    host.ended(spec)

    def locked(*_: Any, **__: Any) -> bool:
        raise OperationalError("database is locked")

    monkeypatch.setattr(lifecycle, "ended", locked)
    with pytest.raises(OperationalError):
        ingest.turn(100)
    assert host.acks() == []
    monkeypatch.undo()
    ingest.turn(100)
    assert state(job) is JobState.COMPLETED
    assert [a.what for a in host.acks()] == ["ended"]


def test_report_stays_while_redis_takes_no_acknowledgement(
    ingest: Ingest, offered: Offered, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, spec = offered()
    host.ended(spec)

    def down(*_: Any, **__: Any) -> None:
        raise redis.ConnectionError

    monkeypatch.setattr(hostlink, "acknowledge", down)
    with pytest.raises(redis.ConnectionError):
        ingest.turn(100)
    assert state(job) is JobState.COMPLETED
    monkeypatch.undo()
    ingest.turn(100)
    assert [a.what for a in host.acks()] == ["ended"]


def test_unclean_device_is_drained_with_the_reason(ingest: Ingest, offered: Offered, host: FakeHost) -> None:
    job, spec = offered()
    (uuid,) = spec.devices
    Device.objects.create(uuid=uuid, host=Host.objects.get(), index=0, updated_at=timezone.now())
    host.ended(spec, unclean={uuid: "pid 77 still holds 3 GiB."})
    ingest.turn(100)
    device = Device.objects.get()
    assert (device.drain, device.drained_by_system, device.drain_reason) == (
        True,
        True,
        f"AutoTrainer: #{job.pk} did not give it back clean (pid 77 still holds 3 GiB.)",
    )
    end, told = job.events.order_by("id").reverse()[:2][::-1]
    assert (end.type, end.data["devices_clean"]) == ("completed", False)
    assert (told.type, told.message.startswith("GPU 0 did not come back clean: pid 77 still holds 3 GiB. ")) == ("device_unclean", True)


def test_report_of_an_unclean_device_that_cannot_be_written_whole_is_taken_again(
    ingest: Ingest, offered: Offered, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the attempt would be closed and the device free."""
    job, spec = offered()
    Device.objects.create(uuid=spec.devices[0], host=Host.objects.get(), index=0, updated_at=timezone.now())

    def down(*_: object, **__: object) -> None:
        raise OperationalError

    monkeypatch.setattr(drains, "drain_unclean", down)
    host.ended(spec, unclean={spec.devices[0]: "pid 77"})
    with pytest.raises(OperationalError):
        ingest.turn(100)
    assert state(job) is JobState.STARTING
    monkeypatch.undo()
    ingest.turn(100)
    assert (state(job), Device.objects.get().drain) == (JobState.COMPLETED, True)


def test_what_cannot_be_ended_is_told_once_and_its_devices_are_drained(ingest: Ingest, offered: Offered, host: FakeHost) -> None:
    job, spec = offered()
    Device.objects.create(uuid=spec.devices[0], host=Host.objects.get(), index=0, updated_at=timezone.now())
    host.started(spec)
    ingest.turn(100)
    lifecycle.cancel(job, actor=job.owner)
    host.acks()
    for _ in range(2):
        host.stuck(spec, "python (pid 77, state D)", "sh (pid 78, state D)")
        ingest.turn(100)
    assert [ack.what for ack in host.acks()] == ["stuck", "stuck"]
    assert state(job) is JobState.STOPPING
    (told,) = job.events.filter(type="stuck")
    assert "python (pid 77, state D), sh (pid 78, state D)" in told.message
    reason = f"AutoTrainer: python (pid 77, state D), sh (pid 78, state D) of #{job.pk} does not end"
    assert (Device.objects.get().drain_reason, Attempt.objects.get().outcome) == (reason, "")
    host.ended(spec, None, reason=EndReason.CANCELLED)
    host.stuck(spec, "python (pid 77, state D)")
    ingest.turn(100)
    assert (state(job), job.events.filter(type="stuck").count()) == (JobState.CANCELLED, 1)


def test_message_with_a_nul_is_stored_without_it(ingest: Ingest, offered: Offered, host: FakeHost) -> None:
    _, spec = offered()
    host.ended(spec, None, reason=EndReason.LAUNCH_FAILED, message="no /da\0ta")
    ingest.turn(100)
    attempt = Attempt.objects.get()
    assert (attempt.outcome, attempt.message) == (Outcome.LAUNCH_FAILED, "no /da\ufffdta")


def test_ring_of_another_process_wakes_the_scheduler(host: FakeHost) -> None:
    knocks: list[int] = []
    ingest = Ingest(on_knock=lambda: knocks.append(1))
    hostlink.ring()
    ingest.turn(100)
    assert knocks == [1]
    assert ingest.turn(1) == 0


def test_new_host_is_noticed(ingest: Ingest, broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest.turn(1)
    Host.objects.create(name="gpu-b")
    ingest._hosts_at -= 2
    ingest.turn(1)
    assert protocol.reports_key("gpu-b").encode() in ingest._hosts
