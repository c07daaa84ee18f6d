"""A backup is restored among living hosts: nothing is lost, and nothing runs twice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.product import CHECKOUT
from tests.faults.stack import Stack
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path, devices="sim:3x8GiB") as started:
        yield started


def manage(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "manage.py", *arguments]
    return subprocess.run(command, cwd=CHECKOUT, env=stack.environ, capture_output=True, text=True, check=False, timeout=60)


def state(stack: Stack, job: int) -> str:
    found = stack.rows(f"SELECT state FROM jobs_job WHERE id = {job}")
    return str(found[0][0]) if found else ""


def over(stack: Stack, job: int) -> bool:
    return any(run.job == job and run.stopped is not None for run in stack.runs())


def test_restored_database_neither_loses_nor_doubles_a_training(stack: Stack, tmp_path: Path) -> None:
    backup, gates = tmp_path / "kept" / "backup.tar.gz", [stack.gate() for _ in range(4)]
    done = stack.submit_surely(stack.witness(0))
    wait_until(lambda: state(stack, done) == "completed", 90, "one is over", every_s=0.05)
    ends_between = stack.submit_surely(stack.witness(0, gate=gates[0]))
    goes_on = stack.submit_surely(stack.witness(3, gate=gates[1]))
    blocks = stack.submit_surely(stack.witness(0, gate=gates[2]))
    starts_between = stack.submit_surely(stack.witness(0))
    wait_until(lambda: all(stack.began(job) for job in (ends_between, goes_on, blocks)), 90, "three run", every_s=0.05)
    wait_until(lambda: state(stack, blocks) == "running", 90, "and are known to", every_s=0.05)

    made = manage(stack, "backup", "--out", str(backup))
    assert made.returncode == 0, made.stderr
    assert backup.stat().st_mode & 0o077 == 0
    refused = manage(stack, "restore", str(backup))
    assert refused.returncode == 1
    assert "stop it first" in refused.stderr

    for gate in (gates[0], gates[2]):
        gate.touch()
    wait_until(lambda: state(stack, starts_between) == "completed", 90, "it has run meanwhile", every_s=0.05)
    unknown = stack.submit_surely(stack.witness(0, gate=gates[3]))
    wait_until(lambda: state(stack, unknown) == "running", 90, "one that the backup does not know", every_s=0.05)
    before = stack.runs()

    for name in ("web", "control"):
        stack.kill(name, number=15)
        stack.services[name].wait(20)
    restored = manage(stack, "restore", str(backup))
    assert restored.returncode == 0, restored.stderr
    assert "1 waiting jobs are held" in restored.stdout
    assert "3 jobs ran then" in restored.stdout
    stack.revive()

    asked = (ends_between, blocks)
    wait_until(lambda: {state(stack, job) for job in asked} == {"completed"}, 120, "the host is asked how they ended", every_s=0.1)
    assert [state(stack, job) for job in (done, goes_on, starts_between, unknown)] == ["completed", "running", "held", ""]
    assert "may have run since" in str(stack.rows(f"SELECT wait_message FROM jobs_job WHERE id = {starts_between}"))
    assert stack.runs() == before, "something started again"
    gates[1].touch()
    wait_until(lambda: state(stack, goes_on) == "failed", 90, "its end is its own", every_s=0.05)
    wait_until(lambda: len(stack.wrong_logs()) == 2, 90, "all logs are whole, but for the two that the backup did not know", every_s=0.1)
    later = stack.submit_surely(stack.witness(0))
    assert later >= unknown + 900
    wait_until(lambda: state(stack, later) == "completed", 90, "the queue goes on", every_s=0.05)
    assert not over(stack, unknown)
    gates[3].touch()
    wait_until(lambda: over(stack, unknown), 90, "an orphan is left to end by itself", every_s=0.05)
    begun = [(run.job, run.attempt) for run in stack.runs()]
    assert len(begun) == len(set(begun)), "an attempt began twice"
