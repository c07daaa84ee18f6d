"""Two control workers: the one that leads stands still for longer than its lease, and wakes up when the other one leads."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from jobs.leader import LEASE_S
from tests.faults.stack import SECOND, Stack
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

TAKEN_WITHIN_S = LEASE_S + 15.0
"""What the test gives up after; the promise is the lease and the second that lies between two looks."""


def term(stack: Stack) -> int:
    ((number,),) = stack.rows("SELECT term FROM jobs_leader")
    return int(number)


def log_of(stack: Stack, name: str) -> str:
    return (stack.home / f"{name}.log").read_text(errors="replace")


def test_leader_that_stood_still_changes_nothing_when_it_wakes_up(tmp_path: Path) -> None:
    with Stack(tmp_path, devices="sim:2x8GiB") as stack:
        before = term(stack)
        stack.launch(SECOND)
        wait_until(lambda: "ready." in log_of(stack, SECOND), 60, "the second control worker is ready")
        assert term(stack) == before
        gate = stack.gate()
        running = [stack.submit_surely(stack.witness(gate=gate)) for _ in range(2)]
        wait_until(lambda: all(stack.began(job) for job in running), 30, "two trainings run")
        waiting = [stack.submit_surely(stack.witness(3, 0, seconds=0.1), max_retries=1, retry_delay_s=1) for _ in range(4)]

        stack.kill("control", number=signal.SIGSTOP)
        began = time.monotonic()
        gate.touch()
        wait_until(lambda: term(stack) == before + 1, TAKEN_WITHIN_S, "the second leads")
        print(f"taken over after {time.monotonic() - began:.1f} s")
        wait_until(lambda: any(stack.began(job) for job in waiting), 30, "the second starts what waits")

        stack.kill("control", number=signal.SIGCONT)
        wait_until(lambda: f"leads no longer (term {before})" in log_of(stack, "control"), 30, "the first has seen it")
        stack.settle()
        assert term(stack) == before + 1
        assert [len(job.attempts) for job in stack.jobs()] == [1, 1, 2, 2, 2, 2]
