"""Rows and readings as the contract shows them. Plain dictionaries: a serializer would cost more than the rest of a submit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from jobs import access, progress
from jobs.capacity import DeviceView, HostView
from jobs.dispatch import queue_positions
from jobs.models import Attempt, Job, JobEvent, User
from jobs.scheduling.inventory import UseRule
from jobs.states import JobState

_AS_STORED = (
    *("id", "name", "state", "wait_reason", "exit_code", "oom_detected", "progress"),
    *("min_gpus", "max_gpus", "gpu_memory_mib", "shared", "max_retries", "retry_delay_s", "retry_on_oom", "time_limit_s"),
    *("priority", "hosts", "on_host_loss", "environment"),
)


def job_bodies(jobs: Sequence[Job], viewer: User, *, fresh: bool = False) -> list[dict[str, Any]]:
    """These jobs (with their owners loaded) for this viewer, in three queries; `fresh` ones have no attempts to ask for."""
    ids = [job.pk for job in jobs]
    attempts: dict[int, list[Attempt]] = defaultdict(list)
    parents: dict[int, list[int]] = defaultdict(list)
    if not fresh:
        for attempt in Attempt.objects.filter(job_id__in=ids).order_by("job_id", "number"):
            attempts[attempt.job_id].append(attempt)
    for child, parent in Job.after.through.objects.filter(from_job_id__in=ids).order_by("id").values_list("from_job_id", "to_job_id"):
        parents[child].append(parent)
    queued = [job.pk for job in jobs if job.state == JobState.QUEUED]
    positions = queue_positions(queued) if queued else {}
    return [_job(job, viewer, attempts[job.pk], parents[job.pk], positions.get(job.pk)) for job in jobs]


def job_body(job: Job, viewer: User, *, fresh: bool = False) -> dict[str, Any]:
    return job_bodies([job], viewer, fresh=fresh)[0]


def _job(job: Job, viewer: User, attempts: list[Attempt], after: list[int], position: int | None) -> dict[str, Any]:
    details, job = access.may_see_details(viewer, job), access.veiled(viewer, job)
    current = attempts[-1] if attempts else None
    return {
        **{name: getattr(job, name) for name in _AS_STORED},
        **{name: getattr(job, name) if details else None for name in access.HIDDEN_FROM_OTHERS},
        "uid": str(job.uid),
        "owner": job.owner.get_username(),
        "queue_position": position,
        "remaining_s": progress.remaining_s(job, current),
        "host": current.host if current else None,
        "devices": _refs(current.devices) if current else [],
        "created_at": moment(job.created_at),
        "started_at": moment(job.started_at),
        "ended_at": moment(job.ended_at),
        "begin_at": moment(job.begin_at),
        "after": after,
        "hold": job.state == JobState.HELD,
        "attempts": [_attempt(attempt, details) for attempt in attempts],
    }


def _attempt(attempt: Attempt, details: bool) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "host": attempt.host,
        "devices": _refs(attempt.devices),
        "outcome": attempt.outcome or None,
        "exit_code": attempt.exit_code,
        "signal": attempt.signal,
        "oom_detected": attempt.oom_detected,
        "peak_memory_mib": attempt.peak_memory_mib,
        "message": attempt.message if details else None,
        "git": (attempt.git or None) if details else None,
        "started_at": moment(attempt.started_at),
        "ended_at": moment(attempt.ended_at),
        "log_bytes": attempt.log_bytes,
        "log_removed_at": moment(attempt.log_removed_at),
    }


def _refs(devices: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"uuid": device["uuid"], "index": device["index"]} for device in devices]


def event_body(event: JobEvent) -> dict[str, Any]:
    return {
        "id": event.pk,
        "type": event.type,
        "at": moment(event.at),
        "actor": event.actor.get_username() if event.actor else None,
        "attempt": event.attempt,
        "message": event.message,
        "data": event.data,
    }


def host_body(host: HostView) -> dict[str, Any]:
    names = (
        *("name", "state", "reason", "agent_version", "device_count", "device_source", "device_error"),
        *("disk_free_bytes", "disk_least_bytes"),
    )
    return {
        **{name: getattr(host, name) for name in names},
        "last_seen_at": moment(host.last_seen_at),
        "job_slots": host.job_slots,
        "used_slots": host.used_slots,
        "rule": _rule(host.rule),
        "orphans": [{"key": o.key, "job": o.job, "attempt": o.attempt, "name": o.name, "devices": list(o.devices)} for o in host.orphans],
    }


def _rule(rule: UseRule | None) -> dict[str, Any] | None:
    if rule is None:
        return None
    names = ("memory_mib", "idle_min", "by", "in_force")
    ignored = [{name: one.get(name, "") for name in _OF_AN_IGNORED} for one in rule.ignored]
    return {**{name: getattr(rule, name) for name in names}, "at": moment(rule.at), "ignored": ignored}


_OF_A_PROCESS = ("pid", "user", "command", "memory_mib", "utilization_pct", "age_s", "ours", "graphics", "ignored")
_OF_AN_IGNORED = ("pid", "user", "command", "by", "at")


def device_body(device: DeviceView) -> dict[str, Any]:
    names = (
        *("uuid", "index", "host", "name", "memory_total_mib", "memory_used_mib", "utilization_pct", "temperature_c", "power_w"),
        *("power_limit_w", "state", "reason", "job", "simulated", "allocatable"),
    )
    return {
        **{name: getattr(device, name) for name in names},
        "jobs": list(device.jobs),
        "kept_for": device.kept_for or None,
        "kept_until": moment(device.kept_until),
        "kept_by": device.kept_by,
        "processes": [{name: getattr(p, name) for name in _OF_A_PROCESS} for p in device.processes],
        "updated_at": moment(device.updated_at),
    }


def moment(at: datetime | None) -> str | None:
    """ISO 8601 in UTC with a Z, as JavaScript writes it."""
    return at.isoformat().replace("+00:00", "Z") if at else None
