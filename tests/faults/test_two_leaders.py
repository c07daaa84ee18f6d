"""Two webs and two control workers on one PostgreSQL: who leads stands still, dies, or is replaced by an upgrade."""

from __future__ import annotations

import random
import signal
import time

import pytest

from tests.faults.kill import storm
from tests.faults.nemesis import Nemesis
from tests.faults.partitions import Wired
from tests.faults.stack import SECOND
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

TAKEN_WITHIN_S = 10.0
SLOW_MACHINE_S = 10.0
"""What the tests give up after is later than what is promised, and printed."""


@pytest.fixture
def stack(pair: Wired) -> Wired:
    return pair


def term(stack: Wired) -> int:
    ((number,),) = stack.rows("SELECT term FROM jobs_leader")
    return int(number)


def leader(stack: Wired) -> str:
    ((holder,),) = stack.rows("SELECT holder FROM jobs_leader")
    pids = {str(stack.services[name].pid): name for name in ("control", SECOND)}
    return pids[holder.split()[1]]


def log_of(stack: Wired, name: str) -> str:
    return (stack.home / f"{name}.log").read_text(errors="replace")


def taken_over(stack: Wired, before: int) -> None:
    began = time.monotonic()
    wait_until(lambda: term(stack) == before + 1, TAKEN_WITHIN_S + SLOW_MACHINE_S, "the other one leads")
    print(f"taken over after {time.monotonic() - began:.1f} s of {TAKEN_WITHIN_S:.0f} s")


def test_leader_that_stood_still_inside_a_write_changes_nothing_when_it_wakes_up(stack: Wired) -> None:
    before, first = term(stack), leader(stack)
    gate = stack.gate()
    running = [stack.submit_surely(stack.witness(gate=gate), min_gpus=2, max_gpus=2) for _ in range(2)]
    wait_until(lambda: all(stack.began(job) for job in running), 30, "two trainings run")
    waiting = [stack.submit_surely(stack.witness(3, 0, seconds=0.1), max_retries=1, retry_delay_s=0.5) for _ in range(4)]

    stack.arm("scheduler.uncommitted:stop")
    gate.touch()
    wait_until(lambda: stack.is_stopped(first), 30, "the leader stands still, its transaction open")
    taken_over(stack, before)
    wait_until(lambda: any(stack.began(job) for job in waiting), 30, "the other one starts what waits")

    stack.kill(first, number=signal.SIGCONT)
    wait_until(lambda: f"leads no longer (term {before})" in log_of(stack, first), 30, "the first has seen it")
    stack.settle()
    assert term(stack) == before + 1
    assert [len(job.attempts) for job in stack.jobs() if job.id in {*running, *waiting}] == [1, 1, 2, 2, 2, 2]


def test_leader_that_is_killed_is_replaced_and_what_waits_starts(stack: Wired) -> None:
    before, first = term(stack), leader(stack)
    stack.kill(first)
    taken_over(stack, before)
    assert leader(stack) != first
    stack.submit_surely(stack.witness())
    stack.settle()


def test_leader_that_is_cut_off_from_redis_is_replaced_and_what_waits_starts(stack: Wired) -> None:
    before, first = term(stack), leader(stack)
    stack.wires[first, "redis"].reset()
    try:
        taken_over(stack, before)
        job = stack.submit_surely(stack.witness())
        wait_until(lambda: stack.began(job), 30, "the other one starts what comes")
    finally:
        stack.wires[first, "redis"].mend()
    stack.settle()
    assert term(stack) == before + 1


def test_rolling_restart_of_everything_loses_nothing(stack: Wired) -> None:
    nemesis = Nemesis(stack, random.Random(), pause_s=0.2)
    assert storm(stack, nemesis, whom="rolling", kills=1, trainings=6, devices=4) == []
    assert nemesis.met > 0, "nothing ran meanwhile, so nothing was tried"
