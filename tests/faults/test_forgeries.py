"""`python -m tests.faults.forgeries` once, with a seed of its own, against the real services."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.attacker import ACTS
from tests.faults.forgeries import Forgeries
from tests.faults.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(200)]

MESSAGES = 1000


def test_whoever_writes_into_redis_starts_ends_and_forges_nothing(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    with Stack(tmp_path) as stack:
        forgeries = Forgeries(stack, random.Random(seed))
        try:
            forgeries.storm(MESSAGES)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{stack.told(6000)}\nTry again with: python -m tests.faults.forgeries --seed {seed}") from None
    assert forgeries.counts.total() == MESSAGES
    assert len(forgeries.counts) > 0.9 * len(set(ACTS))
