"""What becomes of a job whose attempt is over."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from gpuworker.protocol import Ended, EndReason
from jobs.scheduling.shortage import Shortage
from jobs.settlement import FAULT_BUDGET, describe_end, settle
from jobs.states import JobState, WaitReason

NOW = datetime(2026, 3, 9, 12, 0, tzinfo=UTC)
OK = Ended(job="u", attempt=2, fence=7, reason=EndReason.EXITED, exit_code=0, ended_at=NOW.timestamp())
BAD = replace(OK, exit_code=1)
OOM = replace(BAD, oom_detected=True)
KILLED = replace(OK, exit_code=None, signal=9)
LATE = replace(OK, reason=EndReason.TIMED_OUT, exit_code=None)
CANCELLED = replace(OK, reason=EndReason.CANCELLED, exit_code=143)
LOST = replace(OK, reason=EndReason.HOST_LOST, exit_code=None, own_fault=False)
GONE = replace(OK, reason=EndReason.EXIT_LOST, exit_code=None)
NO_FOLDER = replace(OK, reason=EndReason.LAUNCH_FAILED, exit_code=None, message="/data is not there")
NO_FORK = replace(NO_FOLDER, own_fault=False)


@dataclass
class FakeJob:
    max_retries: int = 0
    retries_spent: int = 0
    retry_delay_s: float = 10.0
    retry_on_oom: bool = True
    faults: int = 0
    cancel_requested_at: datetime | None = None
    started_at: datetime | None = NOW
    progress: float | None = None
    shared: bool = False
    oom_floor_mib: int | None = None
    uid: uuid.UUID = field(default_factory=lambda: uuid.UUID(int=1))


RETRIES = FakeJob(max_retries=1)
SPENT = FakeJob(max_retries=1, retries_spent=1)
STOPPED = FakeJob(max_retries=3, cancel_requested_at=NOW)
UNLUCKY = FakeJob(max_retries=3, faults=FAULT_BUDGET)

TABLE: dict[str, tuple[FakeJob, Ended, JobState]] = {
    "exit 0": (FakeJob(), OK, JobState.COMPLETED),
    "exit 0 in spite of a cancel": (STOPPED, OK, JobState.COMPLETED),
    "exit 1": (FakeJob(), BAD, JobState.FAILED),
    "exit 1, a retry left": (RETRIES, BAD, JobState.QUEUED),
    "exit 1, retries spent": (SPENT, BAD, JobState.FAILED),
    "exit 1 after a cancel": (STOPPED, BAD, JobState.CANCELLED),
    "signal": (RETRIES, KILLED, JobState.QUEUED),
    "out of memory": (RETRIES, OOM, JobState.QUEUED),
    "out of memory, no retry wanted": (FakeJob(max_retries=1, retry_on_oom=False), OOM, JobState.FAILED),
    "time limit": (RETRIES, LATE, JobState.FAILED),
    "cancelled": (RETRIES, CANCELLED, JobState.CANCELLED),
    "host lost": (FakeJob(), LOST, JobState.QUEUED),
    "host lost while stopping": (STOPPED, LOST, JobState.CANCELLED),
    "host lost once too often": (UNLUCKY, LOST, JobState.HELD),
    "exit lost": (FakeJob(), GONE, JobState.QUEUED),
    "no such folder": (FakeJob(), NO_FOLDER, JobState.FAILED),
    "no such folder, a retry left": (RETRIES, NO_FOLDER, JobState.QUEUED),
    "could not fork": (FakeJob(), NO_FORK, JobState.QUEUED),
}


@pytest.mark.parametrize(("job", "report", "state"), TABLE.values(), ids=TABLE)
def test_job_settles_as_the_table_says(job: FakeJob, report: Ended, state: JobState) -> None:
    to = settle(job, report, now=NOW)
    assert to.state is state
    assert ("ended_at" in to.fields) == (state in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED))


def test_retry_spends_the_budget_and_waits() -> None:
    to = settle(RETRIES, BAD, now=NOW)
    assert (to.fields["retries_spent"], to.fields["next_attempt"], to.fields["wait_code"]) == (1, 3, WaitReason.BACKOFF)
    assert timedelta(seconds=7.5) <= to.fields["not_before"] - NOW <= timedelta(seconds=12.5)


SHORT = Shortage(
    place="GPU 0 of gpu-a",
    devices=1,
    had_mib=24_576,
    peak_mib=23_654,
    shared=False,
    floor_mib=26_113,
    elsewhere="gpu-b",
)


def test_retry_after_out_of_memory_asks_for_more_and_says_why() -> None:
    to = settle(RETRIES, OOM, now=NOW, shortage=SHORT)
    assert to.message.startswith(
        "Attempt 2 failed with exit code 1 after running out of GPU memory. "
        "It held 23.1 GiB at its peak; GPU 0 of gpu-a had 24 GiB for it. Retry 1 of 1 in "
    )
    assert to.message.endswith(" Attempt 3 waits for a GPU with at least 25.5 GiB free, as gpu-b has: more than it had.")
    assert (to.fields["oom_floor_mib"], "shared" in to.fields) == (26_113, False)
    assert to.data["wanted_memory_mib"] == 26_113


def test_retry_after_out_of_memory_never_asks_for_less_than_before() -> None:
    assert settle(replace(RETRIES, oom_floor_mib=40_000), OOM, now=NOW, shortage=SHORT).fields["oom_floor_mib"] == 40_000


def test_sharer_that_ran_out_of_memory_shares_no_more() -> None:
    to = settle(RETRIES, OOM, now=NOW, shortage=replace(SHORT, shared=True))
    assert to.fields["shared"] is False
    assert to.message.endswith("Attempt 3 gets a GPU with at least 25.5 GiB free that it does not share: others may have used the memory.")


def test_end_out_of_memory_is_told_with_its_numbers() -> None:
    numbers = "It held 23.1 GiB at its peak; GPU 0 of gpu-a had 24 GiB for it."
    unwanted = settle(replace(RETRIES, retry_on_oom=False), OOM, now=NOW, shortage=SHORT)
    assert unwanted.message == (
        f"Attempt 2 failed with exit code 1 after running out of GPU memory. {numbers} "
        "Not tried again after that, as its owner asked (retry_on_oom)."
    )
    assert unwanted.data["peak_memory_mib"] == 23_654
    assert settle(SPENT, OOM, now=NOW, shortage=SHORT).message.endswith(numbers)
    assert settle(SPENT, OOM, now=NOW).message == "Attempt 2 failed with exit code 1 after running out of GPU memory."


def test_fault_of_the_infrastructure_spends_no_retry() -> None:
    to = settle(RETRIES, LOST, now=NOW)
    assert "retries_spent" not in to.fields
    assert (to.fields["faults"], to.fields["next_attempt"]) == (1, 3)


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (OK, "Attempt 2 completed."),
        (BAD, "Attempt 2 failed with exit code 1."),
        (replace(BAD, exit_code=137), "Attempt 2 failed with exit code 137 (probably signal 9)."),
        (OOM, "Attempt 2 failed with exit code 1 after running out of GPU memory."),
        (KILLED, "Attempt 2 was killed by signal 9."),
        (replace(KILLED, message="The memory ran out."), "Attempt 2 was killed by signal 9. The memory ran out."),
        (replace(OK, message="A worker was killed."), "Attempt 2 completed. A worker was killed."),
        (LATE, "Attempt 2 reached its time limit and was ended."),
        (NO_FOLDER, "Attempt 2 could not be launched: /data is not there."),
        (LOST, "Attempt 2 was lost with its host."),
    ],
)
def test_end_is_told_as_a_sentence(report: Ended, said: str) -> None:
    assert describe_end(report) == said
