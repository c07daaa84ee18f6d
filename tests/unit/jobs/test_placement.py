"""Who starts where: a table of hosts, waiting jobs, and what becomes of them."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import replace
from typing import Any

import pytest

from jobs.scheduling.inventory import HostView
from jobs.scheduling.placement import Planner, Request, Waiting
from jobs.states import DeviceState, HostState
from tests.unit.jobs.inventories import GIB, NOON, claimed, device, host, host_of, shared, taken_outside


def job(
    number: int,
    least: int = 1,
    most: int | None = None,
    *,
    priority: int = 0,
    memory: int = 0,
    hosts: tuple[str, ...] = (),
    share: int = 0,
    limit: int | None = None,
    floor: int = 0,
) -> Waiting:
    """`share`: GiB of each device that it shares."""
    most = least if most is None else most
    return Waiting(number, priority, Request(least, most, share * GIB or memory, hosts, bool(share), limit, floor))


def placed(hosts: list[HostView], *jobs: Waiting) -> dict[int, str]:
    """Job -> `host:index,index`, asked in scheduling order."""
    planner = Planner(hosts, NOON, overrun_s=20)
    for each in sorted(jobs, key=lambda j: j.order):
        planner.ask(each)
    return {p.job_id: f"{p.host}:{','.join(str(d.index) for d in p.devices)}" for p in planner.placements()}


def near(*pairs: tuple[int, int], count: int = 4, host: str = "gpu-a") -> HostView:
    """A host whose devices have a good link in these pairs and a bad one in all others."""

    def links(index: int) -> tuple[tuple[str, int], ...]:
        return tuple((f"{host}-{n}", 7 if {(index, n), (n, index)} & set(pairs) else 1) for n in range(count) if n != index)

    return HostView(**{**fields_of(host_of(count, host)), "devices": tuple(device(i, host=host, links=links(i)) for i in range(count))})


def fields_of(view: HostView) -> dict[str, Any]:
    return {f.name: getattr(view, f.name) for f in dataclasses.fields(view)}


def slices(*gib: int) -> HostView:
    """A card that is cut into MIG slices of these sizes."""
    cut = [
        device(0, uuid=f"MIG-{n}", memory_total_mib=size * GIB, free_memory_mib=size * GIB, memory_used_mib=0) for n, size in enumerate(gib)
    ]
    return host(device(0, uuid="GPU-0", allocatable=False), *cut)


A2, A4, B1 = host_of(2), host_of(4), host_of(1, "gpu-b")
SHARED_B = host(shared(0, 4, host="gpu-b"), name="gpu-b")
ONE_FOR_600_S = host(claimed(0, ends_in_s=600), device(1))
BIG = {"memory_total_mib": 48 * GIB}
LARGE = device(1, **BIG)
LARGE_B = host(device(1, host="gpu-b", **BIG), name="gpu-b")
LARGE_AWAY = host(device(1, host="gpu-b", **BIG), name="gpu-b", state=HostState.UNREACHABLE)
LARGE_DRAINED = device(1, DeviceState.DRAINED, drained=True, **BIG)
LARGE_USED = replace(taken_outside(1), free_memory_mib=40 * GIB)
FULL_B = (claimed(0, host="gpu-b"), claimed(1, host="gpu-b"))

TABLE: dict[str, tuple[list[HostView], list[Waiting], dict[int, str]]] = {
    "index order": ([A4], [job(1), job(2, 2)], {1: "gpu-a:0", 2: "gpu-a:1,2"}),
    "first come": ([A2], [job(2), job(1), job(3)], {1: "gpu-a:0", 2: "gpu-a:1"}),
    "priority before age": ([B1], [job(1), job(2, priority=1), job(3, priority=-1)], {2: "gpu-b:0"}),
    "tightest fit": ([A4, B1], [job(1)], {1: "gpu-b:0"}),
    "big gaps stay": ([A4, B1], [job(1), job(2, 4)], {1: "gpu-b:0", 2: "gpu-a:0,1,2,3"}),
    "allowed hosts only": ([A4, B1], [job(1, hosts=("gpu-a",)), job(2, hosts=("gpu-z",))], {1: "gpu-a:0"}),
    "more where nobody waits": ([A4], [job(1, 1, 3)], {1: "gpu-a:0,1,2"}),
    "no more where somebody waits": ([A4], [job(1, 1, 4), job(2, 4)], {1: "gpu-a:0"}),
    "more of what is left": ([A4], [job(1, 1, 4), job(2, 1, 4)], {1: "gpu-a:0,2,3", 2: "gpu-a:1"}),
    "zero to one takes one": ([A2], [job(1, 0, 1)], {1: "gpu-a:0"}),
    "no GPU": ([A2, B1], [job(1, 0)], {1: "gpu-a:"}),
    "no GPU, all GPUs in use": ([host(claimed(0))], [job(1), job(2, 0)], {2: "gpu-a:"}),
    "no slot": ([host_of(2, job_slots=1)], [job(1), job(2), job(3, 0)], {1: "gpu-a:0"}),
    "a big job is not starved": ([host(claimed(0), device(1))], [job(1, 2), job(2)], {}),
    "other hosts go on": ([host(claimed(0), device(1)), B1], [job(1, 2), job(2), job(3)], {2: "gpu-b:0"}),
    "nothing is kept where it never fits": ([host(device(0)), host(*FULL_B, name="gpu-b")], [job(1, 2), job(2)], {2: "gpu-a:0"}),
    "nothing is kept for what strangers use": ([host(taken_outside(0), device(1))], [job(1, 2), job(2)], {2: "gpu-a:1"}),
    "nothing is kept for a drained device": ([host(claimed(0, drained=True), device(1))], [job(1, 2), job(2)], {2: "gpu-a:1"}),
    "nothing is kept that is too small": (
        [host(claimed(0), device(1, memory_total_mib=8 * GIB))],
        [job(1, memory=20 * GIB), job(2)],
        {2: "gpu-a:1"},
    ),
    "enough memory": ([host(device(0, memory_total_mib=8 * GIB), device(1))], [job(1, memory=20 * GIB)], {1: "gpu-a:1"}),
    "memory that others hold": ([host(device(0, free_memory_mib=10 * GIB))], [job(1, memory=20 * GIB), job(2)], {2: "gpu-a:0"}),
    "unknown memory is no memory": ([host(device(0, free_memory_mib=None))], [job(1, memory=1)], {}),
    "unknown memory does where none is asked": ([host(device(0, free_memory_mib=None))], [job(1)], {1: "gpu-a:0"}),
    "unknown, drained and sliced devices": (
        [host(device(0, DeviceState.UNKNOWN), device(1, DeviceState.DRAINED), device(2, allocatable=False))],
        [job(1)],
        {},
    ),
    "the smallest device that will do": (
        [host(device(0), device(1, memory_total_mib=8 * GIB), device(2, memory_total_mib=48 * GIB))],
        [job(1), job(2, memory=20 * GIB)],
        {1: "gpu-a:1", 2: "gpu-a:0"},
    ),
    "more than it ran out of": ([host(device(0), LARGE)], [job(1, floor=25 * GIB), job(2)], {1: "gpu-a:1", 2: "gpu-a:0"}),
    "more than it ran out of, on another host": ([A2, LARGE_B], [job(1, floor=25 * GIB)], {1: "gpu-b:1"}),
    "waits for more than it ran out of": ([host(device(0), claimed(1, **BIG))], [job(1, floor=25 * GIB), job(2)], {2: "gpu-a:0"}),
    "nobody has more": ([A2], [job(1, floor=25 * GIB)], {1: "gpu-a:0"}),
    "more only where it may not go": ([A2, LARGE_B], [job(1, floor=25 * GIB, hosts=("gpu-a",))], {1: "gpu-a:0"}),
    "too few have more": ([host(device(0), device(1), LARGE)], [job(1, 2, floor=25 * GIB)], {1: "gpu-a:0,1"}),
    "more only on what is drained": ([host(device(0), LARGE_DRAINED)], [job(1, floor=25 * GIB)], {1: "gpu-a:0"}),
    "more only where strangers are": ([host(device(0), LARGE_USED)], [job(1, floor=25 * GIB)], {1: "gpu-a:0"}),
    "more only on a host that is away": ([A2, LARGE_AWAY], [job(1, floor=25 * GIB)], {1: "gpu-a:0"}),
    "all of its GPUs have more": ([host(device(0), LARGE, device(2, **BIG))], [job(1, 1, 3, floor=25 * GIB)], {1: "gpu-a:1,2"}),
    "near devices together": ([near((0, 3), (1, 2))], [job(1, 2), job(2, 2)], {1: "gpu-a:0,3", 2: "gpu-a:1,2"}),
    "one device leaves a near pair whole": ([near((0, 1), count=3)], [job(1), job(2, 2)], {1: "gpu-a:2", 2: "gpu-a:0,1"}),
    "three of two pairs": ([near((0, 1), (2, 3))], [job(1, 3)], {1: "gpu-a:0,1,2"}),
    "sharers on one device": ([A2], [job(1, share=8), job(2, share=8), job(3, share=8)], {1: "gpu-a:0", 2: "gpu-a:0", 3: "gpu-a:0"}),
    "sharers within its memory": ([A2], [job(1, share=14), job(2, share=14), job(3, share=10)], {1: "gpu-a:0", 2: "gpu-a:1", 3: "gpu-a:0"}),
    "sharers leave whole devices to others": ([A2], [job(1, share=8), job(2), job(3, share=8)], {1: "gpu-a:0", 2: "gpu-a:1", 3: "gpu-a:0"}),
    "sharer beside one that runs": ([host(shared(0, 10), device(1))], [job(1, share=14)], {1: "gpu-a:0"}),
    "sharer beside too much": ([host(shared(0, 10))], [job(1, share=15)], {}),
    "sharer on the fullest that will do": ([host(shared(0, 4), shared(1, 12), shared(2, 20))], [job(1, share=8)], {1: "gpu-a:1"}),
    "sharer on another host rather than on a free device": ([A2, SHARED_B], [job(1, share=8)], {1: "gpu-b:0"}),
    "sharers of two devices each": ([A2], [job(n, 2, share=10) for n in (1, 2, 3)], {1: "gpu-a:0,1", 2: "gpu-a:0,1"}),
    "sharer is not on one device twice": ([host_of(1)], [job(1, 1, 2, share=4)], {1: "gpu-a:0"}),
    "sharer never beside one that does not share": ([host(claimed(0))], [job(1, share=1)], {}),
    "one that does not share never beside a sharer": ([host(shared(0, 1))], [job(1), job(2, memory=GIB)], {}),
    "sharer not where a drain or strangers are": ([host(shared(0, 1, shared_left_mib=None))], [job(1, share=1)], {}),
    "a job that waits for a shared device is not starved by sharers": ([host(shared(0, 4))], [job(1), job(2, share=4)], {}),
    "a big sharer is not starved by small ones": ([host(shared(0, 8))], [job(1, share=20), job(2, share=4)], {}),
    "sharers go on where nobody waits": (
        [host(shared(0, 4), shared(1, 4, 4))],
        [job(1), job(2, share=4)],
        {2: "gpu-a:1"},
    ),
    "slices as devices, the smallest that will do": (
        [slices(20, 10, 5)],
        [job(1, memory=4 * GIB), job(2, memory=10 * GIB), job(3), job(4)],
        {1: "gpu-a:0", 2: "gpu-a:0", 3: "gpu-a:0"},
    ),
    "past one that waits, if it ends before": ([ONE_FOR_600_S], [job(1, 2), job(2, limit=500)], {2: "gpu-a:1"}),
    "not past one that waits, with no limit": ([ONE_FOR_600_S], [job(1, 2), job(2)], {}),
    "not past one that waits, for too long": ([ONE_FOR_600_S], [job(1, 2), job(2, limit=590)], {}),
    "not past one that waits for nobody knows how long": ([host(claimed(0), device(1))], [job(1, 2), job(2, limit=1)], {}),
    "past by the end that counts": (
        [host(claimed(0, ends_in_s=600), claimed(1, ends_in_s=60), claimed(2), device(3))],
        [job(1, 3), job(2, limit=500)],
        {2: "gpu-a:3"},
    ),
    "not past where an unknown end counts": (
        [host(claimed(0, ends_in_s=600), claimed(1), device(2))],
        [job(1, 3), job(2, limit=10)],
        {},
    ),
    "several past, one after the other in line": (
        [host(claimed(0, ends_in_s=600), device(1), device(2))],
        [job(1, 3), job(2, 2), job(3, limit=100), job(4, limit=100), job(5, limit=100)],
        {3: "gpu-a:1", 4: "gpu-a:2"},
    ),
    "past on a shared device": ([host(shared(0, 4, ends_in_s=600))], [job(1), job(2, share=4, limit=500), job(3, share=4)], {2: "gpu-a:0"}),
    "no extras from what is kept": (
        [host(claimed(0, ends_in_s=600), device(1), device(2))],
        [job(1, 3), job(2, 1, 2, limit=100)],
        {2: "gpu-a:1"},
    ),
    "silent host": ([host_of(2, stale=True), host_of(2, "gpu-b", state=HostState.UNREACHABLE)], [job(1), job(2, 0)], {}),
    "host with a full disk": (
        [host_of(2, disk_free_bytes=9, disk_least_bytes=10), host_of(1, "gpu-b", disk_free_bytes=10, disk_least_bytes=10)],
        [job(1), job(2, 0)],
        {1: "gpu-b:0", 2: "gpu-b:"},
    ),
    "drained host": ([host_of(2, state=HostState.DRAINING)], [job(1)], {}),
    "nothing at all": ([], [job(1), job(2, 0)], {}),
}  # fmt: skip


@pytest.mark.parametrize(("hosts", "jobs", "expected"), TABLE.values(), ids=TABLE)
def test_placement_follows_the_table(hosts: list[HostView], jobs: list[Waiting], expected: dict[int, str]) -> None:
    assert placed(hosts, *jobs) == expected


def test_planner_names_who_goes_first_where_a_job_waits() -> None:
    planner = Planner([host(claimed(0), device(1)), host(claimed(0, host="gpu-b"), name="gpu-b")])
    big, small, only_b, twin = job(1, 2, priority=3), job(2), job(3, hosts=("gpu-b",)), job(4)
    assert [planner.ask(each) for each in (big, small, only_b, twin)] == [False] * 4
    assert planner.ahead_of(big) is None
    assert planner.ahead_of(small) is None  # on gpu-b nobody is before it
    assert planner.ahead_of(only_b) == small
    assert planner.ahead_of(twin) == small


def test_planner_asks_a_request_that_did_not_fit_only_once() -> None:
    """10,000 twins are one question: this would take many seconds if each of them were looked at."""
    hosts = [host(*[claimed(i, host=f"gpu-{n}") for i in range(8)], name=f"gpu-{n}") for n in range(64)]
    planner = Planner(hosts)
    planner.ask(job(0))
    began = time.perf_counter()
    for number in range(10_000):
        assert not planner.ask(job(number + 1))
    assert time.perf_counter() - began < 2


def test_planner_says_within_what_time_a_job_may_slip_past() -> None:
    planner = Planner([host(claimed(0, ends_in_s=600), device(1))], NOON, overrun_s=20)
    big, small, two = job(1, 2), job(2), job(3, 2)
    assert not any(planner.ask(each) for each in (big, small, two))
    assert planner.slips_past_s(small) == 580
    assert planner.slips_past_s(two) is None
    unknown = Planner([host(claimed(0), device(1))], NOON)
    assert not any(unknown.ask(each) for each in (big, small))
    assert unknown.slips_past_s(small) is None
