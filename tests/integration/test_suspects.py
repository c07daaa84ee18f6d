"""Devices and hosts on which everything fails are drained with the evidence, and stay so until an operator resumes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from gpuworker.protocol import EndReason
from jobs import dispatch, drains
from jobs.hosts import Watch
from jobs.ingest import Ingest
from jobs.models import Device, Host, Job, User
from jobs.reconcile import Reconciler
from jobs.states import WaitReason
from tests.integration.fakehost import FakeHost

Submit = Callable[..., Job]


@pytest.fixture
def both(host: FakeHost, broker: str) -> Iterator[tuple[FakeHost, FakeHost]]:
    """gpu-a with one device, which is taken first, and gpu-b with two."""
    Host.objects.create(name="gpu-b")
    other = FakeHost(broker, "gpu-b")
    host.devices = host.devices[:1]
    for fake in (host, other):
        fake.beat()
    Watch().look(timezone.now())
    yield host, other
    other.close()


def ends(job: Job, *hosts: FakeHost, **how: Any) -> FakeHost:
    """The job is placed and ends so; where it ran."""
    dispatch.run_pass(timezone.now())
    found = [(fake, spec) for fake in hosts for spec in fake.offers() if spec.number == job.pk]
    ((fake, spec),) = found
    if how.get("reason") != EndReason.LAUNCH_FAILED:
        fake.started(spec, started_at=time.time() - 3)
    fake.ended(spec, **({"exit_code": 1, "ended_at": time.time()} | how))
    Ingest().turn()
    return fake


def test_device_on_which_three_programs_fail_at_once_is_drained_with_the_evidence(both: Any, submit: Submit, ada: User) -> None:
    numbers = []
    for script in ("train.py", "eval.py", "prep.py"):
        job = submit(command=f"python {script}")
        numbers.append(job.pk)
        assert not Device.objects.filter(drain=True).exists()
        assert ends(job, *both).name == "gpu-a"
    device = Device.objects.get(drain=True)
    assert (device.uuid, device.drained_by_system) == ("GPU-gpu-a-0", False)
    assert device.drain_reason.startswith("AutoTrainer: 3 different jobs in a row failed here within seconds (#")
    for number in numbers:
        assert f"#{number} (exit code 1 after 3 s)" in device.drain_reason
    assert not Host.objects.filter(drain=True).exists()
    reconciler = Reconciler()
    for _ in range(drains.CLEAN_LOOKS + 1):
        both[0].beat()
        reconciler.round(timezone.now())
    assert Device.objects.get(drain=True).uuid == device.uuid  # clean, and not resumed
    assert ends(submit(command="python other.py"), *both).name == "gpu-b"
    drains.resume_device(device.uuid, ada)
    ends(submit(command="python again.py", hosts=["gpu-a"]), *both)
    assert not Device.objects.filter(drain=True).exists()  # one failure after a resume is one failure


def test_success_in_between_and_one_script_in_many_ways_are_no_evidence(both: Any, submit: Submit) -> None:
    for number, exit_code in enumerate([1, 1, 0, 1, 1]):
        ends(submit(command=f"python p{number}.py"), *both, exit_code=exit_code)
    for rate in range(4):
        ends(submit(command=f"python p4.py --lr {rate}"), *both)
    assert not Device.objects.filter(drain=True).exists()
    assert not Host.objects.filter(drain=True).exists()


def test_jobs_that_fail_elsewhere_too_are_to_blame_themselves(both: Any, submit: Submit) -> None:
    for script in ("train.py", "eval.py"):
        ends(submit(command=f"python {script}", hosts=["gpu-b"]), *both)
        ends(submit(command=f"python {script}"), *both)
    ends(submit(command="python prep.py"), *both)
    assert not Device.objects.filter(drain=True).exists()


def test_host_that_can_launch_nothing_is_drained_and_the_queue_goes_elsewhere(database: str, both: Any, submit: Submit) -> None:
    how: dict[str, Any] = {"reason": EndReason.LAUNCH_FAILED, "exit_code": None, "started_at": None, "message": "no space"}
    for script in ("train.py", "eval.py"):
        ends(submit(command=f"python {script}", min_gpus=0, max_gpus=0, hosts=["gpu-a"]), *both, **how, own_fault=False)
    ends(submit(command="python own.py", min_gpus=0, max_gpus=0, hosts=["gpu-a"]), *both, **how, own_fault=True)
    assert not Host.objects.filter(drain=True).exists()
    Job.objects.all().update(not_before=timezone.now() + timedelta(hours=1))
    ends(submit(command="python prep.py", min_gpus=0, max_gpus=0, hosts=["gpu-a"]), *both, **how, own_fault=False)
    drained = Host.objects.get(drain=True)
    assert drained.name == "gpu-a"
    assert "could not be launched" in drained.drain_reason
    left = submit(hosts=["gpu-a"])
    dispatch.run_pass(timezone.now())
    left.refresh_from_db()
    assert left.wait_code == WaitReason.HOST_DOWN
    assert "gpu-a is drained by AutoTrainer: 3 different jobs in a row failed here" in left.wait_message


def test_only_device_of_a_lab_needs_twice_the_evidence(host: FakeHost, submit: Submit) -> None:
    host.devices = host.devices[:1]
    host.beat()
    Watch().look(timezone.now())
    for number in range(6):
        assert not Device.objects.filter(drain=True).exists()
        ends(submit(command=f"python p{number}x.py"), host)
    assert Device.objects.filter(drain=True).exists()
