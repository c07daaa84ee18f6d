"""Each failpoint once: the process that comes there is killed, started again, and the oracle finds nothing wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from gpuworker.failpoints import FAILPOINTS
from tests.faults.scenarios import SCENARIOS, try_failpoint
from tests.faults.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


class Stacks:
    """One stack for many failpoints; a fresh one after a failure, so that the next test is not blamed for it."""

    def __init__(self, factory: pytest.TempPathFactory, kept: ExitStack) -> None:
        self._factory, self._kept = factory, kept
        self._present: Stack | None = None

    def get(self) -> Stack:
        if self._present is None:
            self._present = self._kept.enter_context(Stack(self._factory.mktemp("faults")))
        return self._present

    def drop(self) -> None:
        self._present = None
        self._kept.close()


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stacks]:
    with ExitStack() as kept:
        yield Stacks(tmp_path_factory, kept)


@pytest.mark.parametrize("point", FAILPOINTS)
def test_nothing_is_lost_doubled_or_left_when_a_process_dies_at(point: str, stacks: Stacks) -> None:
    stack = stacks.get()
    try:
        try_failpoint(stack, point)
    except BaseException:
        print(stack.told(6000))
        stacks.drop()
        raise


def test_scenarios_are_for_failpoints_that_exist() -> None:
    assert sorted(set(SCENARIOS) - set(FAILPOINTS)) == []
