"""The words for what a job, an attempt, a device and a host can be, and which job state may follow which. Stdlib only."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class JobState(StrEnum):
    QUEUED = "queued"
    HELD = "held"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


WAITING = frozenset({JobState.QUEUED, JobState.HELD})
ACTIVE = frozenset({JobState.STARTING, JobState.RUNNING, JobState.STOPPING})
TERMINAL = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.HELD, JobState.STARTING, JobState.CANCELLED, JobState.FAILED}),
    JobState.HELD: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.STARTING: frozenset({JobState.RUNNING, JobState.STOPPING, JobState.QUEUED, JobState.HELD, *TERMINAL}),
    JobState.RUNNING: frozenset({JobState.STOPPING, JobState.QUEUED, JobState.HELD, *TERMINAL}),
    JobState.STOPPING: TERMINAL,
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


class WaitReason(StrEnum):
    """Why a queued job is not running; beside the state, never instead of it."""

    RESOURCES = "Resources"
    PRIORITY = "Priority"
    HELD = "Held"
    BEGIN_TIME = "BeginTime"
    DEPENDENCY = "Dependency"
    BACKOFF = "Backoff"
    QUOTA = "Quota"
    ARRAY_LIMIT = "ArrayLimit"
    FILE_IN_USE = "FileInUse"
    LOW_DISK = "LowDisk"
    DRAINED = "Drained"
    HOST_DOWN = "HostDown"
    NEVER_FITS = "NeverFits"


class Line(IntEnum):
    """Whether a queued job stands in line for devices. The scheduler alone moves it on (jobs/line.py)."""

    NEW = 0
    """It has come, come back or been changed: to be looked at."""
    WAITING = 1
    """Its time has not come, or jobs that must complete first have not."""
    IN = 2


class Outcome(StrEnum):
    """How an attempt ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    HOST_LOST = "host_lost"
    EXIT_LOST = "exit_lost"
    LAUNCH_FAILED = "launch_failed"


class HostState(StrEnum):
    UP = "up"
    DRAINING = "draining"
    DRAINED = "drained"
    UNREACHABLE = "unreachable"
    LOST = "lost"


class DeviceState(StrEnum):
    FREE = "free"
    CLAIMED = "claimed"
    BUSY_EXTERNAL = "busy_external"
    DRAINED = "drained"
    UNKNOWN = "unknown"


class Role(StrEnum):
    """What a person may do. Each may do what the one before may."""

    VIEWER = "viewer"
    SUBMITTER = "submitter"
    OPERATOR = "operator"
    ADMIN = "admin"


class OnHostLoss(StrEnum):
    """What becomes of a job whose host falls silent."""

    WAIT = "wait"
    REQUEUE = "requeue"


def may_follow(old: JobState, new: JobState) -> bool:
    """Whether a job may go from `old` to `new`."""
    return new in TRANSITIONS[old]
