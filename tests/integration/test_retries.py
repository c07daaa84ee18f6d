"""N retries are N+1 starts, whoever is killed when; and whatever Redis forgets, each job is started, and once."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuworker import protocol
from jobs import hostlink
from jobs.models import Job, User
from jobs.states import TERMINAL, JobState, Outcome
from tests.integration.stack import Stack, running_stack
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(240)
RETRIES = 2


@pytest.fixture
def stack(ada: User, broker: str, tmp_path: Path) -> Iterator[Stack]:
    with running_stack(broker, tmp_path, ada) as stack:
        yield stack


def all_over() -> bool:
    return not Job.objects.exclude(state__in=TERMINAL).exists()


def test_starts_are_retries_and_one_more_although_agents_and_control_workers_are_killed_at_each_retry(stack: Stack) -> None:
    jobs = [stack.submit("sleep 0.3; exit 1", max_retries=RETRIES, retry_delay_s=0.2, min_gpus=gpus) for gpus in (1, 1, 0)]
    rng, whom = random.Random(4), 0
    while not all_over():
        seen = len(stack.starts())
        wait_until(lambda seen=seen: len(stack.starts()) > seen or all_over(), 60, "a start")  # type: ignore[misc]
        wait_until(_moment(0.3 + rng.random() * 0.4), 5)  # about when it ends, is told, and is tried again
        for job in jobs:
            hostlink.knock(job)  # Celery's own retry knocks too, and late
        whom += 1
        if whom % 2:
            stack.agent.kill()
            stack.agent.start()
        else:
            stack.kill_control()
            stack.start_control()
    assert whom >= RETRIES
    for job in jobs:
        job.refresh_from_db()
        assert (job.state, job.retries_spent, job.faults) == (JobState.FAILED, RETRIES, 0)
        assert [a.outcome for a in job.attempts.all()] == [Outcome.FAILED] * (RETRIES + 1)
        assert [attempt for number, attempt in stack.starts() if number == job.pk] == list(range(1, RETRIES + 2))


def test_emptied_redis_fills_again_and_each_job_starts_once(stack: Stack) -> None:
    client, rng = stack.agent.client, random.Random(5)
    jobs = [stack.submit(f"sleep {rng.random():.2f}", min_gpus=number % 3) for number in range(12)]
    for _ in range(8):
        wait_until(_moment(rng.random() * 0.7), 5)
        client.flushall()
    long = stack.submit("sleep 60", min_gpus=2)
    wait_until(lambda: Job.objects.exclude(pk=long.pk).exclude(state__in=TERMINAL).count() == 0, 90, "all the short ones are over")
    wait_until(lambda: Job.objects.get(pk=long.pk).state == JobState.RUNNING, 30, "the long one runs")
    client.flushall()
    wait_until(lambda: len(stack.agent.claims()) == 2 and stack.agent.beat(), 10, "claims and a heartbeat again")
    assert {(job.state, job.faults) for job in Job.objects.exclude(pk=long.pk)} == {(JobState.COMPLETED, 0)}
    assert sorted(stack.starts()) == [(job.pk, 1) for job in [*jobs, long]]
    # A report whose acknowledgement was emptied away is said again, and taken in a moment later.
    wait_until(lambda: client.xlen(protocol.reports_key("gpu-a")) == 0, 10, "every report is taken in")


def _moment(seconds: float):  # type: ignore[no-untyped-def]
    """True after that time."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until
