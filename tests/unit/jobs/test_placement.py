"""Who starts where: a table of hosts, waiting jobs, and what becomes of them."""

from __future__ import annotations

import time

import pytest

from jobs.scheduling.inventory import HostView
from jobs.scheduling.placement import Planner, Request, Waiting
from jobs.states import DeviceState, HostState
from tests.unit.jobs.inventories import GIB, claimed, device, host, host_of, taken_outside


def job(
    number: int, least: int = 1, most: int | None = None, *, priority: int = 0, memory: int = 0, hosts: tuple[str, ...] = ()
) -> Waiting:
    return Waiting(number, priority, Request(least, least if most is None else most, memory, hosts))


def placed(hosts: list[HostView], *jobs: Waiting) -> dict[int, str]:
    """Job -> `host:index,index`, asked in scheduling order."""
    planner = Planner(hosts)
    for each in sorted(jobs, key=lambda j: j.order):
        planner.ask(each)
    return {p.job_id: f"{p.host}:{','.join(str(d.index) for d in p.devices)}" for p in planner.placements()}


A2, A4, B1 = host_of(2), host_of(4), host_of(1, "gpu-b")
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
