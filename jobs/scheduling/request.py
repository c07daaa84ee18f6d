"""What waiting jobs ask for, and what they get."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from jobs.scheduling.inventory import DeviceView, HostView
from jobs.states import DeviceState, HostState


@dataclass(frozen=True, slots=True)
class Request:
    """What a job asks of a host."""

    min_gpus: int
    max_gpus: int
    gpu_memory_mib: int = 0
    hosts: tuple[str, ...] = ()
    """Allowed hosts; empty: all."""
    shared: bool = False
    """Its devices may be those of other jobs that share too."""
    limit_s: int | None = None
    """It runs no longer than this; None: nobody knows."""
    floor_mib: int = 0
    """An attempt ran out of less: each device is to have this much free, where there are such devices at all."""
    owner: str = ""
    """Whose it is, where devices are kept for that person (jobs.scheduling.keeping); not told otherwise."""

    @property
    def least(self) -> Request:
        """The same without what is merely welcome: equal ones fit or fail together."""
        return replace(self, max_gpus=self.min_gpus)

    @property
    def key(self) -> int:
        """A number for `least`, the same in every process: the queue is read by it. 64 bits, signed."""
        floor = (self.floor_mib,) if self.floor_mib else ()
        told = repr((self.min_gpus, self.gpu_memory_mib, self.hosts, self.shared, self.limit_s, *floor))
        return int.from_bytes(hashlib.blake2b(told.encode(), digest_size=8).digest(), "big", signed=True)

    def allows(self, host: str) -> bool:
        return not self.hosts or host in self.hosts

    def may_use(self, device: DeviceView) -> bool:
        """False where an operator keeps the device for somebody else."""
        return device.kept_for in ("", self.owner)

    def suits(self, device: DeviceView) -> bool:
        """Whether the device has the free memory; unknown memory never has."""
        return not self.gpu_memory_mib or (device.free_memory_mib is not None and device.free_memory_mib >= self.gpu_memory_mib)

    def joins(self, device: DeviceView) -> bool:
        """Whether it fits beside those who share the device already."""
        return self.shared and device.shared_left_mib is not None and device.shared_left_mib >= self.gpu_memory_mib

    def would_suit(self, device: DeviceView) -> bool:
        """Whether an empty device of this kind has the memory."""
        return not self.gpu_memory_mib or (device.memory_total_mib is not None and device.memory_total_mib >= self.gpu_memory_mib)

    def among(self, hosts: Iterable[HostView]) -> Request:
        """What it comes to with these hosts: its floor is asked for where one of them can ever meet it, else given up."""
        if not self.floor_mib:
            return self
        met = any(self.finds_floor(host) for host in hosts)
        memory_mib = max(self.gpu_memory_mib, self.floor_mib) if met else self.gpu_memory_mib
        return replace(self, gpu_memory_mib=memory_mib, floor_mib=0)

    def finds_floor(self, host: HostView) -> bool:
        """Whether enough devices there have the memory, though others of the queue may be on them now."""
        if host.state is not HostState.UP or not self.allows(host.name):
            return False
        asked = replace(self, gpu_memory_mib=max(self.gpu_memory_mib, self.floor_mib))
        ours = [d for d in host.devices if d.allocatable and not d.drained and d.state is not DeviceState.BUSY_EXTERNAL]
        return sum(map(asked.suits, ours)) >= max(1, self.min_gpus)


def request_of(
    *,
    min_gpus: int,
    max_gpus: int,
    gpu_memory_mib: int,
    hosts: Iterable[str],
    shared: bool,
    time_limit_s: int | None,
    oom_floor_mib: int | None = None,
) -> Request:
    """The request of a job's columns. Jobs whose limits are nearly alike ask the same question: limits are rounded up."""
    limit_s = None if time_limit_s is None else _rounded_up(time_limit_s)
    return Request(
        min_gpus,
        max(min_gpus, max_gpus),
        gpu_memory_mib,
        tuple(sorted(set(hosts))),
        shared=shared and min_gpus > 0,
        limit_s=limit_s,
        floor_mib=oom_floor_mib or 0,
    )


def _rounded_up(seconds: int) -> int:
    """By a quarter at most, so that there are few different ones: 4, 5, 6 or 7 times a power of two."""
    shift = max(0, seconds.bit_length() - 3)
    return -(-seconds >> shift) << shift


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued job, as far as placement cares."""

    id: int
    priority: int
    request: Request
    owner: str = ""
    used: int = 0
    """What its owner has used lately, in tenths of a GPU-hour (jobs.scheduling.order)."""
    turn: tuple[int, int] = (0, 0)
    """Its place among those of its priority (jobs.scheduling.order); equal ones go by age."""

    @property
    def order(self) -> tuple[int, tuple[int, int], int]:
        """Higher priority first, then whose turn it is, then who came first."""
        return (-self.priority, self.turn, self.id)


@dataclass(frozen=True, slots=True)
class Placement:
    """This job, this host, these devices in index order."""

    job_id: int
    host: str
    devices: tuple[DeviceView, ...]
    request: Request
