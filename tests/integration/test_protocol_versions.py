"""A host that is upgraded after the control plane: it ends what it has, gets nothing new meanwhile, and goes on once it is upgraded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from gpuworker import envelope, protocol
from gpuworker.envelope import BadEnvelope, OtherVersion
from gpuworker.protocol import Ended, EndReason, Kind, Started
from jobs import capacity, dispatch, hostkeys, hostlink
from jobs.models import Attempt, Job
from jobs.models import Host as Row
from jobs.scheduling.inventory import HostView
from jobs.states import WaitReason
from tests.integration.host import CLUSTER_KEY, HOST, KEY, Host, running_host
from tests.integration.rest import make_job, person
from tests.waiting import wait_until

OLDER = (str(Path(__file__).resolve().parent.parent / "programs" / "older_worker.py"),)
KINDS = ("started", "log", "ended")
BEFORE = envelope.PROTOCOL_VERSION - 1


@pytest.fixture(autouse=True)
def control(settings: Any, broker: str, transactional_db: None) -> None:
    settings.CLUSTER_KEY, settings.CLUSTER_KEY_PREVIOUS = CLUSTER_KEY, b""
    hostlink.forget_heartbeats()
    Row.objects.create(name=HOST)


@pytest.fixture
def older(broker: str, tmp_path: Path) -> Iterator[Host]:
    with running_host(broker, tmp_path, program=OLDER) as host:
        host.acknowledges = False  # the control plane itself does, here
        yield host


def seen() -> HostView:
    (view,) = capacity.hosts_now()
    return view


def test_older_host_ends_what_it_runs_and_gets_nothing_new_until_it_is_upgraded(older: Host, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    spec = older.spec(f"while [ ! -e {gate} ]; do sleep 0.05; done; echo done")
    older.offer(spec, sealed=protocol.seal(Kind.SPEC, HOST, spec.body(), KEY, version=BEFORE))
    older.report(Started, spec)
    wait_until(lambda: not seen().stale, 10, "it is heard")
    assert (seen().version, seen().outdated, seen().accepts) == (BEFORE, True, False)
    assert f"speaks version {BEFORE} of the protocol, the control plane {envelope.PROTOCOL_VERSION}: upgrade it" in seen().reason

    job = make_job(person("ann"), min_gpus=1, max_gpus=1)
    dispatch.run_pass(timezone.now())
    assert not Attempt.objects.filter(job=job).exists()
    told = Job.objects.get(pk=job.pk)
    assert (told.wait_code, "upgrade it" in told.wait_message) == (WaitReason.HOST_DOWN, True)

    gate.touch()
    ended = older.report(Ended, spec)
    assert (ended.reason, ended.exit_code) == (EndReason.EXITED, 0)
    assert older.log(spec).endswith(b"done\n")
    hostlink.acknowledge(HOST, [protocol.Ack(job=spec.job, attempt=1, fence=spec.fence, what=what, offset=5) for what in KINDS])
    wait_until(lambda: (older.folder(spec) / "ack-ended").exists(), 10, "it has understood that its end is known")

    later = replace(older.spec("sleep 600"), job=spec.job, attempt=2, fence=101)
    older.offer(later, sealed=protocol.seal(Kind.SPEC, HOST, later.body(), KEY, version=BEFORE))
    older.report(Started, later)
    older.kill()
    older.program = Host.program
    older.start()
    wait_until(lambda: seen().version == envelope.PROTOCOL_VERSION and seen().accepts, 15, "the upgraded one is heard")
    assert older.report(Started, later).attempt == 2
    assert hostlink.stop_on(HOST, job=later.job, attempt=2, fence=101, kill_grace_s=0.2)
    assert older.report(Ended, later).reason is EndReason.CANCELLED
    dispatch.run_pass(timezone.now())
    assert Attempt.objects.filter(job=job).exists()


def test_older_host_is_stopped_and_asked_in_its_own_words(older: Host) -> None:
    spec = older.spec("sleep 600")
    older.offer(spec, sealed=protocol.seal(Kind.SPEC, HOST, spec.body(), KEY, version=BEFORE))
    older.report(Started, spec)
    assert hostlink.stop_on(HOST, job=spec.job, attempt=1, fence=spec.fence, kill_grace_s=0.2)
    assert older.report(Ended, spec).reason is EndReason.CANCELLED


def _version(text: str) -> int:
    return envelope.opened(Kind.ACK, "gpu-z", text, hostkeys.valid("gpu-z"))[1].version


def test_host_that_was_never_heard_is_spoken_to_in_our_own_version() -> None:
    assert _version(hostlink.sealed(Kind.ACK, "gpu-z", protocol.Ack(job="j", attempt=1, fence=1, what="log"))) == envelope.PROTOCOL_VERSION


@pytest.mark.parametrize("version", [envelope.OLDEST_READABLE_VERSION - 1, envelope.PROTOCOL_VERSION + 1, 0, -1])
def test_versions_that_are_too_old_or_too_new_are_named(version: int) -> None:
    text = protocol.seal(Kind.ACK, HOST, {}, KEY, version=version)
    with pytest.raises(OtherVersion, match=f"this side reads {envelope.OLDEST_READABLE_VERSION} to {envelope.PROTOCOL_VERSION}"):
        protocol.unseal(Kind.ACK, HOST, text, [KEY])


def test_version_is_part_of_what_is_sealed() -> None:
    text = protocol.seal(Kind.ACK, HOST, {}, KEY, version=BEFORE)
    with pytest.raises(BadEnvelope, match="signature"):
        protocol.unseal(Kind.ACK, HOST, text.replace(f'"v": {BEFORE}', f'"v": {envelope.PROTOCOL_VERSION}'), [KEY])
