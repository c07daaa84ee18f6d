"""Attempts that a host runs and the database does not know: shown, left alone, in nobody's way, ended by a person only."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from gpuworker.protocol import AttemptReading, attempt_key
from jobs import capacity, dispatch, hostlink, orphans
from jobs.api.representation import host_body
from jobs.hosts import Watch
from jobs.models import Attempt, Job, User
from jobs.reconcile import Reconciler
from jobs.states import DeviceState, JobState, WaitReason
from tests.integration.fakehost import FakeHost
from tests.integration.host import CLUSTER_KEY
from tests.integration.stack import running_stack
from tests.waiting import wait_until

Submit = Callable[..., Job]
UID = str(uuid.UUID(int=7))


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The attempt keys that were told to stop."""
    sent: list[str] = []
    monkeypatch.setattr(
        hostlink, "stop_on", lambda host, *, job, attempt, fence, **_: sent.append(f"{host} {attempt_key(job, attempt, fence)}") or True
    )
    return sent


def orphan(job: str = UID, fence: int = 57, *, devices: tuple[str, ...] = ("GPU-gpu-a-0",)) -> AttemptReading:
    return AttemptReading(job=job, attempt=2, fence=fence, running=True, name="bert", devices=devices)


def listed() -> str:
    out = StringIO()
    call_command("orphans", stdout=out, stderr=out)
    return out.getvalue()


def test_orphan_is_shown_its_device_is_busy_and_nobody_ends_it(
    submit: Submit, host: FakeHost, stops: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    host.beat(attempts=(orphan(),))
    watch = Watch()
    for _ in range(3):
        watch.look(timezone.now())
        Reconciler().round(timezone.now())
    assert stops == []
    (view,) = capacity.hosts_now()
    words = f"bert ({UID}, attempt 2), which the database does not know"
    assert (view.reason, view.used_slots) == (f"runs {words}", 1)
    assert [(d.state, d.reason) for d in view.devices] == [(DeviceState.BUSY_EXTERNAL, f"Runs {words}."), (DeviceState.FREE, "")]
    assert host_body(view)["orphans"] == [{"key": f"{UID}.2.57", "job": UID, "attempt": 2, "name": "bert", "devices": ["GPU-gpu-a-0"]}]
    assert caplog.text.count(f"gpu-a runs {words}: left alone") == 1
    assert f"{UID}.2.57\tgpu-a\t{words}\tGPU-gpu-a-0" in listed()
    job = submit(min_gpus=2)
    dispatch.run_pass(timezone.now())
    job.refresh_from_db()
    assert (job.state, job.wait_code) == (JobState.QUEUED, WaitReason.RESOURCES)
    assert f"GPU 0 runs {words}" in job.wait_message
    host.beat()
    watch.look(timezone.now())
    assert "No host that is heard runs anything" in listed()


def test_page_tells_of_an_orphan(host: FakeHost, ada: User, client: Client) -> None:
    host.beat(attempts=(orphan(),))
    client.force_login(ada)
    assert f"gpu-a runs bert ({UID}, attempt 2), which the database does not know." in client.get("/").content.decode()


def test_orphan_is_ended_by_whom_a_person_asks(host: FakeHost, stops: list[str]) -> None:
    host.beat(attempts=(orphan(),))
    with pytest.raises(SystemExit):
        call_command("orphans", "--end", f"{UID}.2.58")
    call_command("orphans", "--end", f"{UID}.2.57", stdout=StringIO())
    assert stops == [f"gpu-a {UID}.2.57"]


def test_job_of_an_orphan_does_not_start_a_second_time(submit: Submit, host: FakeHost, stops: list[str]) -> None:
    job, other = submit(), submit()
    host.beat(attempts=(orphan(str(job.uid), devices=()),))
    dispatch.place(timezone.now())
    assert [spec.job for spec in host.offers()] == [str(other.uid)]
    Reconciler().round(timezone.now())
    job.refresh_from_db()
    assert (job.state, job.wait_code) == (JobState.HELD, WaitReason.HELD)
    assert "gpu-a runs an attempt of it that the database does not know" in job.wait_message
    assert stops == []


def test_orphan_with_the_fence_of_another_job_is_not_taken_for_it(submit: Submit, host: FakeHost, stops: list[str]) -> None:
    """After a restored backup fences repeat."""
    job = submit()
    dispatch.place(timezone.now())
    (spec,) = host.offers()
    stranger = orphan(fence=spec.fence, devices=("GPU-gpu-a-1",))
    host.beat(attempts=(stranger,))
    (view,) = capacity.hosts_now()
    assert [o.key for o in view.orphans] == [f"{UID}.2.{spec.fence}"]
    Reconciler().round(timezone.now() + timedelta(seconds=31))
    assert [s.fence for s in host.offers()] == [spec.fence]  # it is not listed, so it is offered again
    Attempt.objects.update(outcome="failed", ended_at=timezone.now())
    host.beat(attempts=(stranger, replace(stranger, job=str(job.uid))), at=timezone.now().timestamp() + 60)
    Reconciler().round(timezone.now())
    assert stops == []  # neither is (job, attempt 1, fence): nothing of ours is over and runs on


def test_training_whose_row_is_gone_goes_on_until_a_person_ends_it(ada: User, broker: str, tmp_path: Path, settings: Any) -> None:
    settings.CLUSTER_KEY = CLUSTER_KEY
    with running_stack(broker, tmp_path, ada) as stack:
        job = stack.submit("sleep 100")
        wait_until(lambda: Job.objects.get().state == JobState.RUNNING, 30, "it runs")
        pid = Attempt.objects.get().pid
        Job.objects.all().delete()
        (key,) = wait_until(lambda: orphans.all_of(capacity.hosts_now()), 10, "the orphan")
        assert key.startswith(str(job.uid))
        wait_until(lambda: "left alone" in (tmp_path / "control.log").read_text(), 10, "the leader tells of it")
        assert Path(f"/proc/{pid}").exists()
        assert orphans.end(key) == "gpu-a"
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), 20, "it has ended")
        wait_until(lambda: not orphans.all_of(capacity.hosts_now()), 20, "no orphan is left")
        assert not stack.agent.claims()
