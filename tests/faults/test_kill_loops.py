"""Small versions of `python -m tests.faults.kill` and `tests.faults.sweep`: a few blows of each kind under load."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.kill import KINDS, storm
from tests.faults.nemesis import Nemesis
from tests.faults.stack import Stack
from tests.faults.sweep import Sweep

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("kill"), devices="sim:8x8GiB") as started:
        yield started


@pytest.mark.parametrize("whom", sorted(KINDS))
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
