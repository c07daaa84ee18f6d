"""Why a job waits, in words."""

from __future__ import annotations

from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest

from jobs.scheduling import reasons, words
from jobs.scheduling.inventory import HostView
from jobs.scheduling.placement import Request, Waiting
from jobs.scheduling.reasons import LastEnd, Parent
from jobs.states import DeviceState, HostState, WaitReason
from tests.unit.jobs.inventories import GIB, NOON, claimed, device, host, host_of, shared, taken_outside

SHANGHAI = ZoneInfo("Asia/Shanghai")
R, D, N = WaitReason.RESOURCES, WaitReason.HOST_DOWN, WaitReason.NEVER_FITS
ONE, TWO = Request(1, 1), Request(2, 2)

NO_ROOM: dict[str, tuple[Request, list[HostView], WaitReason, str]] = {
    "who has what": (
        Request(2, 2, 20 * GIB),
        [host(claimed(0), device(1), device(2, DeviceState.DRAINED, detail="ada: fan"), taken_outside(3))],
        R,
        "Needs 2 GPUs with 20 GiB free; gpu-a has 1 of 4: GPU 0 runs #412 of lin, GPU 2 is drained by ada: fan, "
        "GPU 3 is used by alice's python3 (pid 4711) outside the queue.",
    ),
    "like ones together": (
        ONE,
        [host(claimed(0), claimed(1), claimed(2, job=7))],
        R,
        "Needs 1 GPU; gpu-a has 0 of 3: GPU 0 and 1 run #412 of lin, GPU 2 runs #7 of lin.",
    ),
    "too little memory": (
        Request(1, 1, 20 * GIB),
        [host(device(0, free_memory_mib=3 * GIB), device(1, free_memory_mib=None))],
        R,
        "Needs 1 GPU with 20 GiB free; gpu-a has 0 of 2: GPU 0 has 3 GiB free, GPU 1 has unknown free memory.",
    ),
    "shared": (
        Request(1, 1, 10 * GIB, shared=True),
        [host(shared(0, 8, 8), shared(1, 20), claimed(2))],
        R,
        "Needs 1 GPU with 10 GiB free to share; gpu-a has 0 of 3: GPU 0 runs #501 of mia, #502 of mia, which leave 8 GiB to share, "
        "GPU 1 runs #501 of mia, which leaves 4 GiB to share, GPU 2 runs #412 of lin.",
    ),
    "cannot be read": (
        ONE,
        [host(device(0, DeviceState.UNKNOWN, detail="cannot be read: XID 79"))],
        R,
        "Needs 1 GPU; gpu-a has 0 of 1: GPU 0 cannot be read: XID 79.",
    ),
    "several hosts, the best first": (
        TWO,
        [host(claimed(0), claimed(1)), host(device(0, host="gpu-b"), claimed(1, host="gpu-b"), name="gpu-b")],
        R,
        "Needs 2 GPUs; gpu-b has 1 of 2: GPU 1 runs #412 of lin; gpu-a has 0 of 2: GPU 0 and 1 run #412 of lin.",
    ),
    "many hosts": (
        ONE,
        [host(claimed(0, host=f"g{n}"), name=f"g{n}") for n in range(9)],
        R,
        "Needs 1 GPU; " + "; ".join(f"g{n} has 0 of 1: GPU 0 runs #412 of lin" for n in range(4)) + "; and 5 more.",
    ),
    "a full disk": (
        ONE,
        [host(device(0), disk_free_bytes=2**29, disk_least_bytes=2**30)],
        WaitReason.LOW_DISK,
        "Waits for room on a disk: gpu-a has 512 MiB of disk free, and starts nothing new with less than 1 GiB.",
    ),
    "a full disk here and a job there": (
        ONE,
        [
            host(device(0), disk_free_bytes=2**29, disk_least_bytes=2**30),
            host(claimed(0, host="gpu-b"), name="gpu-b", disk_free_bytes=2**40, disk_least_bytes=2**30),
        ],
        R,
        "Needs 1 GPU; gpu-b has 0 of 1: GPU 0 runs #412 of lin; "
        "gpu-a has 512 MiB of disk free, and starts nothing new with less than 1 GiB.",
    ),
    "a full disk on a host that is silent": (
        ONE,
        [host(device(0), stale=True, disk_free_bytes=0, disk_least_bytes=2**30)],
        D,
        "No host can take it now: gpu-a has not been heard from since 20:00:00.",
    ),
    "no slot": (Request(0, 0), [host_of(1, job_slots=3, used_slots=3)], R, "Needs a job slot; gpu-a runs 3 jobs, as many as it may."),
    "hosts that cannot are not told": (
        TWO,
        [host_of(1, "tiny"), host(claimed(0), claimed(1))],
        R,
        "Needs 2 GPUs; gpu-a has 0 of 2: GPU 0 and 1 run #412 of lin.",
    ),
    "never": (Request(3, 3), [host_of(2), host_of(1, "gpu-b")], N, "Needs 3 GPUs on one host; the best of 2 hosts, gpu-a, has 2."),
    "never that much memory": (
        Request(1, 1, 90 * GIB),
        [host_of(2)],
        N,
        "Needs 1 GPU of at least 90 GiB on one host; the only host that it may use, gpu-a, has 0.",
    ),
    "not known to be too much": (
        Request(3, 3),
        [host_of(0, inventory_known=False)],
        D,
        "No host can take it now: gpu-a cannot read its GPUs yet.",
    ),
    "driver down": (
        ONE,
        [host_of(0, inventory_known=False, device_error="driver not loaded")],
        D,
        "No host can take it now: gpu-a cannot read its GPUs (driver not loaded).",
    ),
    "silent": (ONE, [host_of(1, stale=True)], D, "No host can take it now: gpu-a has not been heard from since 20:00:00."),
    "unreachable": (
        ONE,
        [host_of(1, state=HostState.UNREACHABLE, last_seen_at=NOON - timedelta(hours=2), stale=True)],
        D,
        "No host can take it now: gpu-a has not been heard from since 18:00.",
    ),
    "never heard": (
        ONE,
        [host_of(1, state=HostState.UNREACHABLE, last_seen_at=None, stale=True)],
        D,
        "No host can take it now: gpu-a has not been heard from yet.",
    ),
    "drained": (
        ONE,
        [host_of(1, state=HostState.DRAINED, reason="is drained by ada: fans")],
        D,
        "No host can take it now: gpu-a is drained by ada: fans.",
    ),
    "lost": (ONE, [host_of(1, state=HostState.LOST)], D, "No host can take it now: gpu-a was declared lost."),
    "no host": (ONE, [], D, "No host has joined yet."),
    "unknown host": (
        Request(1, 1, 0, ("gpu-y", "gpu-z")),
        [host_of(1)],
        D,
        "It may only run on gpu-y or gpu-z, and no host of that name has joined.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("request_", "hosts", "code", "message"), NO_ROOM.values(), ids=NO_ROOM)
def test_reason_names_hosts_devices_jobs_and_people(request_: Request, hosts: list[HostView], code: WaitReason, message: str) -> None:
    reason = reasons.no_room(request_, hosts, now=NOON, zone=SHANGHAI)
    assert (reason.code, reason.message) == (code, message)


def test_reason_of_a_job_that_waits_for_a_moment_tells_it_in_the_labs_zone() -> None:
    in_time = NOON + timedelta(hours=3, minutes=7)
    assert reasons.begin_time(in_time, now=NOON, zone=SHANGHAI).message == "Begins at 23:07, in 3 h 7 m, as its owner asked."
    told = reasons.backoff(NOON + timedelta(seconds=272), retry=1, max_retries=2, attempt=2, now=NOON, zone=SHANGHAI)
    assert told.message == "Retry 1 of 2 starts at 20:04:32, in 5 m; attempt 1 failed."
    ends = {
        "failed with exit code 3": LastEnd(exit_code=3),
        "failed with exit code 1 after running out of GPU memory": LastEnd(exit_code=1, out_of_memory=True),
        "was killed by signal 9": LastEnd(signal=9),
    }
    for words_, last in ends.items():
        told = reasons.backoff(NOON + timedelta(seconds=272), retry=1, max_retries=2, attempt=2, last=last, now=NOON, zone=SHANGHAI)
        assert told.message == f"Retry 1 of 2 starts at 20:04:32, in 5 m; attempt 1 {words_}."
    told = reasons.backoff(NOON + timedelta(seconds=5), retry=0, max_retries=2, attempt=3, now=NOON, zone=SHANGHAI)
    assert told.message == "Attempt 3 starts at 20:00:05, in 10 s: the one before was ended by no fault of the job."


def test_reason_of_a_child_names_its_parents_and_what_they_do() -> None:
    reason = reasons.dependency([Parent(12, "prep", "running"), Parent(13, "eval", "stopping")])
    assert reason == reasons.Reason(WaitReason.DEPENDENCY, "Waits for #12 prep, which is running; #13 eval, which is being stopped.")


def test_reason_behind_another_job_says_why_that_goes_first() -> None:
    first, mine = Waiting(12, 5, TWO, "ada"), Waiting(9, 1, ONE, "lin")
    assert reasons.behind(first, mine).message == "#12 of ada goes first (priority 5, this job has 1); it needs 2 GPUs."
    assert reasons.behind(Waiting(3, 1, ONE, "ada"), mine).message == "#3 of ada goes first (submitted earlier); it needs 1 GPU."


def test_reason_behind_somebody_who_has_used_less_tells_how_much() -> None:
    mine = Waiting(9, 0, ONE, "ada", used=400)
    told = reasons.behind(Waiting(12, 0, ONE, "lin", used=21), mine, before=3).message
    assert told == ("Behind 3 jobs of lin, who has used less lately (2.1 GPU-hours against 40 of ada); #12 is the first, it needs 1 GPU.")
    in_turn = reasons.behind(Waiting(12, 0, ONE, "lin", used=400), mine).message
    assert in_turn.startswith("Behind 1 job of lin, who has fewer jobs that run or wait before it: people take turns; #12")


def test_reason_behind_another_job_says_what_may_start_before_it() -> None:
    until = NOON + timedelta(hours=2, seconds=59)
    told = reasons.behind(Waiting(3, 1, TWO, "ada"), Waiting(9, 1, ONE, "lin"), until=until, now=NOON, zone=SHANGHAI).message
    assert told.endswith("it needs 2 GPUs. What ends before 22:00 may start before it.")
    tomorrow = reasons.behind(Waiting(3, 1, TWO), Waiting(9, 1, ONE), until=NOON + timedelta(hours=5), now=NOON, zone=SHANGHAI)
    assert "before 2026-03-10 01:00 may" in tomorrow.message


def test_reason_far_behind_does_not_change_with_every_start() -> None:
    assert reasons.far_behind(Request(1, 1), 200, ["ada"]).message.startswith("At least 200 jobs of ada go first (by")
    assert reasons.far_behind(Request(1, 1), 200, ["ada"], others=True).message.startswith("At least 200 jobs of ada and others go first")
    assert reasons.far_behind(Request(1, 1), 200, ["a", "b"], others=True).message.startswith("At least 200 jobs of a, b and others go")
    assert reasons.far_behind(Request(1, 1, 8 * GIB, shared=True), 200).message == (
        "At least 200 jobs go first (by priority, then by who has used least lately, then by age). It needs 1 GPU with 8 GiB free to share."
    )


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "10 s"), (44, "40 s"), (89, "90 s"), (95, "2 m"), (3570, "1 h 0 m"), (11220, "3 h 7 m"), (200_000, "2 d 7 h")],
)
def test_span_is_as_coarse_as_it_is_long(seconds: float, told: str) -> None:
    assert words.span(seconds) == told


@pytest.mark.parametrize(("seconds", "told"), [(0.4, "0 s"), (7, "7 s"), (89.4, "89 s"), (95, "2 m"), (3454, "58 m"), (90_000, "25 h 0 m")])
def test_delay_is_told_to_the_second_while_it_is_short(seconds: float, told: str) -> None:
    assert words.delay(seconds) == told


@pytest.mark.parametrize(
    ("hours", "told"),
    [
        (0, "at 20:00:00"),
        (3, "at 23:00"),
        (5, "tomorrow at 01:00"),
        (30, "on 2026-03-11 at 02:00"),
        (-24, "on 2026-03-08 at 20:00"),
    ],
)
def test_clock_names_the_day_where_it_is_another_one(hours: int, told: str) -> None:
    assert words.clock(NOON + timedelta(hours=hours), now=NOON, zone=SHANGHAI) == told
