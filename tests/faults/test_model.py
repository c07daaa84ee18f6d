"""The model of claim and start keeps its promises whatever happens in whatever order; without any one guard it does not."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.faults.model import Guards, Violation, World

WHOLE = Guards()
HURRIED, STORMY = "ppppppffe", "pppppppppfff"
"""What happens how often: steps of the product, faults, trainings that end. In a storm none ends: that is when two can meet."""
STEPS = 120


def happen(world: World, kind: str, choice: int) -> None:
    steps = {"p": world.progress, "f": world.faults, "e": world.endings}[kind]
    if possible := list(steps()):
        possible[choice % len(possible)][1]()
        world.check()


def walk(guards: Guards, seed: int, kinds: str) -> World:
    """A world to which a long row of random things has happened. Raises Violation."""
    rng, world = random.Random(seed), World(guards)
    for _ in range(STEPS):
        happen(world, rng.choice(kinds), rng.getrandbits(16))
    return world


def walks(guards: Guards, count: int) -> None:
    for seed in range(count):
        walk(guards, seed, STORMY)


@pytest.mark.parametrize("kinds", [HURRIED, STORMY])
def test_model_keeps_its_promises_and_every_job_comes_to_its_end(kinds: str) -> None:
    for seed in range(400):
        try:
            walk(WHOLE, seed, kinds).settle()
        except Violation as exc:
            raise AssertionError(f"seed {seed}: {exc}") from exc


@pytest.mark.parametrize("guard", sorted(WHOLE.__dataclass_fields__))
def test_model_breaks_without(guard: str) -> None:
    """The naive design: were it to pass, the model would not look at what this guard is for."""
    naive = replace(WHOLE, **{guard: False})
    with pytest.raises(Violation, match=r"is used by|runs twice|runs on"):
        walks(naive, 3000)


class Shrinking(RuleBasedStateMachine):
    """The same once more, by who can make a long row of events short when it finds one that breaks a promise."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(WHOLE)

    @rule(kind=st.sampled_from(HURRIED), choice=st.integers(0, 2**16))
    def step(self, kind: str, choice: int) -> None:
        happen(self.world, kind, choice)

    @invariant()
    def promises(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.settle()


TestShrinking = Shrinking.TestCase
TestShrinking.settings = settings(
    max_examples=60, stateful_step_count=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
