"""Whole placements on cards that the real pynvml reads from a driver of our own: scheduler, queue, agent, shim and training."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.models import Device, Job, User
from jobs.states import JobState, WaitReason
from tests.integration.stack import Stack, running_stack
from tests.nvml_stub import GIB, Driver
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

CARDS = [f"GPU-{index:08x}-0000-4000-8000-000000000000" for index in range(2)]
SLICE = "MIG-00000000-1111-5222-8333-444444444444"


@pytest.fixture
def stack(ada: User, broker: str, driver: Driver, library: Path, tmp_path: Path) -> Iterator[Stack]:
    """A host with the driver's two idle cards."""
    variables = {"LD_LIBRARY_PATH": str(library.parent), "NVML_STUB_STATE": str(driver.path)}
    with running_stack(broker, tmp_path, ada, devices="nvml", variables=variables) as stack:
        wait_until(lambda: Device.objects.count() == 2, 30, "both cards are known")
        yield stack
        driver.tell(drop=("hang",))


@pytest.fixture
def stranger() -> Iterator[int]:
    """The pid of a process outside the queue."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def placed(job: Job) -> str:
    """The card on which it runs, by its own row; empty while it waits."""
    job.refresh_from_db()
    attempt = job.attempts.order_by("number").last()
    return attempt.devices[0]["uuid"] if attempt and job.state == JobState.RUNNING else ""


def runs_on(job: Job) -> str:
    return str(wait_until(lambda: placed(job), 30, f"job {job.pk} runs"))


def waits(job: Job, code: WaitReason) -> str:
    """Why it waits, once it is told so."""

    def told() -> str:
        job.refresh_from_db()
        return job.wait_message if (job.state, job.wait_code) == (JobState.QUEUED, code) else ""

    return str(wait_until(told, 30, f"job {job.pk} waits with {code}"))


def mask(stack: Stack, job: Job) -> str:
    return str(wait_until(lambda: file.read_text() if (file := stack.root / f"mask-{job.pk}").exists() else "", 30, "its mask")).strip()


SHOW = "echo $CUDA_VISIBLE_DEVICES > mask-$AUTOTRAINER_JOB_ID.new; mv mask-$AUTOTRAINER_JOB_ID.new mask-$AUTOTRAINER_JOB_ID; sleep 60"


def test_card_with_a_foreign_training_is_left_out_until_it_has_ended(stack: Stack, driver: Driver, stranger: int) -> None:
    driver.card(0, compute=f"{stranger}:{6 * GIB}", memory="40960 600 6144")
    wait_until(lambda: (beat := stack.agent.beat()) and beat.devices[0].in_use_outside, 10, "the agent sees it")
    first, second = stack.submit(SHOW), stack.submit(SHOW)
    assert (runs_on(first), mask(stack, first)) == (CARDS[1], "1")
    why = waits(second, WaitReason.RESOURCES)
    assert f"GPU 0 is used by {pwd.getpwuid(os.getuid()).pw_name}'s" in why
    assert f"(pid {stranger}) outside the queue" in why
    assert f"GPU 1 runs #{first.pk} of ada" in why
    driver.card(0)
    assert runs_on(second) == CARDS[0]


def test_starts_of_the_same_second_get_different_cards_although_no_memory_shows_yet(stack: Stack) -> None:
    jobs = [stack.submit(SHOW, gpu_memory_mib=30_000) for _ in range(3)]
    assert {runs_on(jobs[0]), runs_on(jobs[1])} == set(CARDS)
    assert "GPU 0 runs" in waits(jobs[2], WaitReason.RESOURCES)


def test_desktop_keeps_no_card_from_jobs(stack: Stack, driver: Driver, stranger: int) -> None:
    for index in range(2):
        driver.card(index, graphics=f"{stranger}:{2 * GIB}", memory="40960 600 2048")
    wait_until(lambda: (beat := stack.agent.beat()) and all(d.processes for d in beat.devices), 10, "the agent sees it")
    assert {runs_on(stack.submit(SHOW)), runs_on(stack.submit(SHOW))} == set(CARDS)


def test_card_that_falls_off_the_bus_is_left_out_and_said(stack: Stack, driver: Driver) -> None:
    first = stack.submit(SHOW, gpu_memory_mib=1000)
    lost = CARDS.index(runs_on(first))
    driver.card(1 - lost, lost="!15")
    wait_until(lambda: (beat := stack.agent.beat()) and beat.devices[1 - lost].error, 10, "the agent sees it")
    why = waits(stack.submit(SHOW), WaitReason.RESOURCES)
    assert f"GPU {1 - lost} cannot be read: NVML: GPU is lost" in why
    assert ".." not in why


def test_nothing_starts_while_a_call_of_the_driver_hangs(stack: Stack, driver: Driver) -> None:
    driver.tell(hang="nvmlDeviceGetMemoryInfo")
    wait_until(lambda: (beat := stack.agent.beat()) and beat.device_error, 30, "the agent says so")
    job = stack.submit(SHOW)
    why = waits(job, WaitReason.RESOURCES)
    assert "GPU 0 and 1 cannot be read: NVML has not answered for" in why
    assert why.endswith("the driver hangs.")
    assert not why.endswith("..")
    driver.tell(drop=("hang",))
    assert runs_on(job) in CARDS


def test_slices_are_handed_out_by_their_own_names(stack: Stack, driver: Driver) -> None:
    driver.card(0, mig=1, places=1, util="!3")
    driver.tell(_0__0__uuid=SLICE, _0__0__name="NVIDIA A100 MIG 2g.10gb", _0__0__memory="9856 10 1", _0__0__compute="")
    wait_until(lambda: Device.objects.filter(pk__isnull=False, uuid=SLICE).exists(), 30, "the slice is known")
    small, large = stack.submit(SHOW, gpu_memory_mib=5000), stack.submit(SHOW, gpu_memory_mib=30_000)
    assert {runs_on(small), runs_on(large)} == {SLICE, CARDS[1]}
    assert mask(stack, small) == SLICE
