"""Small versions of `python -m tests.faults.partitions`: a host, a web and the network between them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import missing
from tests.e2e.product import CHECKOUT
from tests.faults.namespaces import cable, permitted
from tests.faults.partitions import CONVERGED_S, Wired, partition
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_host_whose_cable_is_pulled_is_unreachable_and_comes_right(pair: Wired) -> None:
    if not permitted():
        missing("the permission to make network namespaces")
    with cable() as far:
        try:
            pair.move_away(far, "agent")
            healed = partition(pair, "host from Redis", "blackhole", 3.0, wire=far)
        finally:
            pair.bring_back("agent")
    print(healed)
    assert healed.converged_s < CONVERGED_S
    assert healed.restarts == 0


def test_lab_of_three_machines_goes_on_while_a_cable_is_out() -> None:
    if not permitted():
        missing("the permission to make network namespaces")
    walked = subprocess.run(
        [sys.executable, "-m", "tests.faults.walk", "--seconds", "10"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert walked.returncode == 0, walked.stdout[-8000:] + walked.stderr[-2000:]


def test_web_without_its_database_says_so_and_comes_right(pair: Wired) -> None:
    print(partition(pair, "web from database", "reset", 0.5))


def test_job_starts_elsewhere_when_its_host_is_lost_and_never_lives_twice(pair: Wired) -> None:
    """First the host is cut off, and ends the one that may go elsewhere by its own clock; then it dies, and an operator says so."""
    gate, wire = pair.gate(), pair.wires["agent", "redis"]
    moves, stays = (pair.submit_surely(pair.witness(gate=gate), on_host_loss=how) for how in ("requeue", "wait"))
    wait_until(lambda: pair.began(moves) and pair.began(stays), 30, "both run on the first host")
    pair.hosts_lost |= {moves, stays}
    pair.add_host()
    try:
        wire.cut()
        wait_until(lambda: attempts_of(pair, moves) == 2, 30, "it has begun again on the second host")
        wire.mend()
        wait_until(lambda: pair.host_state() == "up", 30, "the first host is heard again")
        assert attempts_of(pair, stays) == 1

        pair.power_off()
        wait_until(lambda: pair.host_state() == "unreachable", 30, "the first host is unreachable")
        pair.api("POST", "hosts/lab/lost/", {})
        wait_until(lambda: attempts_of(pair, stays) == 2, 30, "the other one too has begun on the second host")
        gate.touch()
        wait_until(lambda: not pair.unsettled(), 30, "both are over")
    finally:
        wire.mend()
        pair.remove_host()
    pair.settle()
    assert [len(job.attempts) for job in pair.jobs() if job.id in (moves, stays)] == [2, 2]


def attempts_of(pair: Wired, job: int) -> int:
    return len({run.attempt for run in pair.runs() if run.job == job})
