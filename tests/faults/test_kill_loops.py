"""Small versions of `python -m tests.faults.kill` and `tests.faults.sweep`: a few blows of each kind under load."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.kill import KINDS, storm
from tests.faults.nemesis import Nemesis
from tests.faults.stack import Stack
from tests.faults.sweep import Sweep
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("kill"), devices="sim:8x8GiB") as started:
        yield started


@pytest.mark.parametrize("whom", sorted(KINDS.keys() - {"rolling"}))  # that one: test_two_leaders.py
def test_trainings_run_once_and_to_their_end_while_somebody_is_killed(whom: str, stack: Stack) -> None:
    nemesis = Nemesis(stack, random.Random(), pause_s=0.5, redis_stop_s=1.5)
    try:
        assert storm(stack, nemesis, whom=whom, kills=3, trainings=8, devices=8) == []
    except AssertionError:
        print(stack.told(6000))
        raise
    assert nemesis.met > 0, "no blow fell while a training ran, so nothing was tried"


def test_random_faults_of_all_kinds_leave_nothing_wrong(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    with Stack(tmp_path) as stack:
        sweep = Sweep(stack, random.Random(seed))
        try:
            sweep.round(6)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{stack.told(6000)}\nTry again with: python -m tests.faults.sweep --seed {seed}") from None


@pytest.mark.parametrize("when", ["while it runs", "when it is over", "when the next agent has it"])
def test_offer_that_comes_twice_starts_nothing(when: str, stack: Stack) -> None:
    gate = stack.gate()
    job = stack.submit_surely(stack.witness(gate=gate))
    wait_until(lambda: stack.began(job), 30, "the training runs")
    (attempt,) = [path for path in stack.offered() if json.loads((path / "spec.json").read_text())["body"]["number"] == job]
    if when == "when the next agent has it":
        stack.kill("agent")
        stack.revive()
    if when == "when it is over":
        gate.touch()
        stack.settle()
    said = stack.told(10**6).count("received")
    stack.offer_again(attempt)
    wait_until(lambda: stack.told(10**6).count("received") > said, 30, "the message is taken")
    gate.touch()
    stack.submit_surely(stack.witness())  # Until this one is over, a second start of the other would have shown itself.
    stack.settle()
