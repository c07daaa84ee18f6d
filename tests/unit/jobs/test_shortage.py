"""What an attempt had that ran out of GPU memory, and what there is for the next one."""

from __future__ import annotations

import pytest

from gpuworker.protocol import ProcessReading
from jobs.scheduling.request import Request
from jobs.scheduling.shortage import Shortage, shortage
from tests.unit.jobs.inventories import GIB, claimed, device, host, host_of, shared

ONE = Request(1, 1)
LARGE_B = host(device(0, host="gpu-b", memory_total_mib=48 * GIB), name="gpu-b")
BESIDE = ProcessReading(pid=4711, user="alice", memory_mib=4 * GIB, graphics=True)


def found(request: Request, *hosts: object, uuids: tuple[str, ...] = ("gpu-a-0",), peak: int | None = 23 * GIB) -> Shortage:
    short = shortage(request, uuids, peak_mib=peak, hosts=list(hosts))  # type: ignore[arg-type]
    assert short
    return short


def test_attempt_that_had_a_device_alone_had_all_that_was_free() -> None:
    short = found(ONE, host(claimed(0, free_memory_mib=20 * GIB)), LARGE_B)
    assert (short.had_mib, short.elsewhere) == (20 * GIB, "gpu-b")
    assert short.floor_mib == 20 * GIB + 20 * GIB // 16 + 1
    assert short.numbers == "It held 23 GiB at its peak; GPU 0 of gpu-a had 20 GiB for it."
    assert short.change(2) == "Attempt 2 waits for a GPU with at least 21.3 GiB free, as gpu-b has: more than it had."


def test_attempt_that_had_several_had_what_the_smallest_has() -> None:
    short = found(Request(2, 2), host(claimed(0), claimed(1, free_memory_mib=16 * GIB)), uuids=("gpu-a-0", "gpu-a-1"))
    assert short.numbers == "It held 23 GiB at its peak; GPU 0, 1 of gpu-a had 16 GiB each for it."
    assert short.change(2) == "No GPU that it may use has more, so that attempt 2 meets the same."


@pytest.mark.parametrize("a_little_more", [24 * GIB, 24 * GIB + 12, 25 * GIB])
def test_a_little_more_is_not_more(a_little_more: int) -> None:
    assert found(ONE, host(claimed(0), device(1, memory_total_mib=a_little_more))).elsewhere == ""


def test_same_card_is_more_where_nobody_else_is_on_it() -> None:
    short = found(ONE, host(claimed(0, free_memory_mib=20 * GIB, processes=(BESIDE,)), device(1)))
    assert (short.elsewhere, short.columns(None)) == ("gpu-a", {"oom_floor_mib": short.floor_mib})


def test_sharer_had_what_it_asked_for_or_was_seen_to_hold() -> None:
    sharer = Request(1, 1, 8 * GIB, shared=True)
    assert found(sharer, host(shared(0, 8, 8)), peak=None).had_mib == 8 * GIB
    short = found(sharer, host(shared(0, 8, 8)), peak=10 * GIB)
    assert (short.had_mib, short.elsewhere) == (10 * GIB, "gpu-a")
    assert short.change(2) == "Attempt 2 gets a GPU with at least 10.6 GiB free that it does not share: others may have used the memory."
    assert short.columns(None) == {"shared": False, "oom_floor_mib": short.floor_mib}


def test_what_is_not_known_is_not_made_up() -> None:
    short = found(ONE, host(claimed(0, free_memory_mib=None, memory_total_mib=None)), LARGE_B, peak=None)
    assert (short.had_mib, short.floor_mib, short.numbers, short.columns(7)) == (None, None, "", {})
    assert short.change(2) == "How much memory it had is not known, so that attempt 2 may meet the same."
    assert shortage(ONE, ["gpu-z-0"], peak_mib=None, hosts=[host_of(2)]) is None


def test_request_with_a_floor_is_another_question_and_one_without_keeps_its_key() -> None:
    assert ONE.key == Request(1, 1, floor_mib=0).key == 1645345413294919909
    assert Request(1, 1, floor_mib=1).key != ONE.key
