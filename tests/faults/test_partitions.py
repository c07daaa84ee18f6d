"""Small versions of `python -m tests.faults.partitions`: a host, a web and the network between them."""

from __future__ import annotations

import pytest

from tests.conftest import missing
from tests.faults.namespaces import cable, permitted
from tests.faults.partitions import CONVERGED_S, Wired, partition

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_host_whose_cable_is_pulled_is_unreachable_and_comes_right(pair: Wired) -> None:
    if not permitted():
        missing("the permission to make network namespaces")
    with cable() as far:
        pair.move_away(far, "agent")
        healed = partition(pair, "host from Redis", "blackhole", 3.0, wire=far)
        pair.bring_back("agent")
    print(healed)
    assert healed.converged_s < CONVERGED_S
    assert healed.restarts == 0


def test_web_without_its_database_says_so_and_comes_right(pair: Wired) -> None:
    print(partition(pair, "web from database", "reset", 0.5))
