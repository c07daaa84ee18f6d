"""Cards of devices: shares of their memory, who is on them, and when words are needed."""

from __future__ import annotations

from typing import Any

import pytest

from gpuworker.protocol import ProcessReading
from jobs.states import DeviceState, HostState
from jobs.web.cards import blocks, card
from tests.unit.jobs.inventories import GIB, NOON, claimed, device, host, shared, taken_outside


def process(memory_mib: int | None, *, ours: bool = False, pid: int = 1) -> ProcessReading:
    return ProcessReading(pid=pid, user="alice", command="python", memory_mib=memory_mib, ours=ours)


def test_shares_tell_ours_from_others_and_from_what_nobody_accounts_for() -> None:
    taken = device(0, memory_used_mib=12 * GIB, processes=(process(6 * GIB, ours=True), process(3 * GIB)))
    shares = card(taken).shares
    assert (shares.ours, shares.external, shares.rest) == (25.0, 12.5, 12.5)
    assert shares.label == "12 of 24 GiB used"


@pytest.mark.parametrize("unknown", [{"memory_total_mib": None}, {"memory_used_mib": None}, {"memory_total_mib": 0}])
def test_shares_are_nothing_when_memory_is_not_known(unknown: dict[str, Any]) -> None:
    shares = card(device(0, processes=(process(GIB),), **unknown)).shares
    assert (shares.ours, shares.external, shares.rest, shares.label) == (0, 0, 0, "memory not known")


def test_shares_have_no_rest_below_nothing_when_processes_say_more_than_the_driver() -> None:
    assert card(device(0, memory_used_mib=GIB, processes=(process(2 * GIB), process(None)))).shares.rest == 0


def test_card_names_the_largest_processes_outside_and_counts_the_rest() -> None:
    sizes = [1, None, 5, 3, 4]
    many = card(device(0, processes=(*(process(size, pid=n) for n, size in enumerate(sizes)), process(9, ours=True))))
    assert [p.memory_mib for p in many.outside] == [5, 4, 3]
    assert many.more == 2


@pytest.mark.parametrize(
    ("shown", "explains"),
    [
        (device(0), False),
        (claimed(0), False),
        (taken_outside(0), False),
        (device(0, DeviceState.BUSY_EXTERNAL), True),
        (device(0, DeviceState.DRAINED), True),
        (device(0, DeviceState.UNKNOWN), True),
        (device(0, kept_for="lin"), True),
    ],
)
def test_card_needs_words_when_nothing_else_on_it_says_why(shown: Any, explains: bool) -> None:
    assert card(shown).explains is explains


def test_block_names_the_model_once_when_all_are_the_same() -> None:
    same, mixed, none = blocks([host(device(0), device(1)), host(device(0), device(1, name="Other")), host()], {})
    assert (same.model, mixed.model, none.model) == ("Fake", "", "")


def test_block_says_since_when_the_job_on_a_card_runs() -> None:
    (block,) = blocks([host(claimed(0, job=412), claimed(1, job=413), device(2))], {412: NOON})
    assert [[on_it.started_at for on_it in each.holders] for each in block.cards] == [[NOON], [None], []]


def test_card_names_those_who_share_a_device_and_counts_the_rest() -> None:
    few, many = card(shared(0, 4, 4)), card(shared(0, 4, 4, 4, 4, 4))
    assert ([on_it.job for on_it in few.holders], few.more_holders) == ([501, 502], 0)
    assert ([on_it.job for on_it in many.holders], many.more_holders) == ([501, 502, 503], 2)


def test_block_counts_what_can_be_given_out_and_knows_silence_and_simulation() -> None:
    (block,) = blocks([host(device(0), device(1, allocatable=False), state=HostState.LOST)], {})
    assert (block.usable, block.silent, block.simulated) == (1, True, True)
    real, empty = blocks([host(device(0), device(1, simulated=False)), host()], {})
    assert (real.silent, real.simulated, empty.simulated) == (False, False, False)
