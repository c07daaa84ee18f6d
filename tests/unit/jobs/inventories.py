"""Hosts and devices for tables of placements and reasons."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from gpuworker.protocol import ProcessReading
from jobs.scheduling.inventory import DeviceView, Holder, HostView
from jobs.states import DeviceState, HostState

NOON = datetime(2026, 3, 9, 12, 0, tzinfo=UTC)
GIB = 1024


def device(index: int, state: DeviceState = DeviceState.FREE, *, host: str = "gpu-a", **more: Any) -> DeviceView:
    given: dict[str, Any] = {
        "uuid": f"{host}-{index}",
        "index": index,
        "host": host,
        "name": "Fake",
        "memory_total_mib": 24 * GIB,
        "memory_used_mib": 0,
        "utilization_pct": 0.0,
        "temperature_c": 30.0,
        "power_w": 20.0,
        "power_limit_w": 300.0,
        "state": state,
        "reason": "",
        "job": None,
        "job_name": "",
        "job_owner": "",
        "processes": (),
        "simulated": True,
        "free_memory_mib": more.get("memory_total_mib", 24 * GIB),
        "allocatable": True,
        "updated_at": NOON,
        "stale": False,
    }
    return DeviceView(**(given | more))


def claimed(index: int, job: int = 412, owner: str = "lin", *, ends_in_s: float | None = None, **more: Any) -> DeviceView:
    ends_at = None if ends_in_s is None else NOON + timedelta(seconds=ends_in_s)
    holders = (Holder(job, "train", owner, ends_at=ends_at),)
    return device(index, DeviceState.CLAIMED, job=job, job_name="train", job_owner=owner, holders=holders, **more)


def shared(index: int, *memory_gib: int, left_gib: int | None = None, ends_in_s: float | None = None, **more: Any) -> DeviceView:
    """A device of 24 GiB with one sharer, jobs 501, 502 and so on, for each of these memories."""
    ends_at = None if ends_in_s is None else NOON + timedelta(seconds=ends_in_s)
    holders = tuple(Holder(501 + n, "small", "mia", True, gib * GIB, ends_at) for n, gib in enumerate(memory_gib))
    left = 24 - sum(memory_gib) if left_gib is None else left_gib
    named = {"job": 501, "job_name": "small", "job_owner": "mia", "holders": holders, "shared_left_mib": left * GIB}
    return device(index, DeviceState.CLAIMED, **(named | more))


def taken_outside(index: int, **more: Any) -> DeviceView:
    alien = ProcessReading(pid=4711, user="alice", command="/usr/bin/python3 x.py", memory_mib=9 * GIB)
    return device(index, DeviceState.BUSY_EXTERNAL, processes=(alien,), free_memory_mib=15 * GIB, **more)


def host(*devices: DeviceView, name: str = "gpu-a", state: HostState = HostState.UP, **more: Any) -> HostView:
    given: dict[str, Any] = {
        "name": name,
        "state": state,
        "reason": "",
        "last_seen_at": NOON,
        "agent_version": "1",
        "device_count": len(devices),
        "device_source": "simulated",
        "device_error": "",
        "disk_free_bytes": None,
        "job_slots": 112,
        "used_slots": 0,
        "devices": devices,
    }
    return HostView(**(given | more))


def host_of(count: int, name: str = "gpu-a", **more: Any) -> HostView:
    return host(*[device(i, host=name) for i in range(count)], name=name, **more)
