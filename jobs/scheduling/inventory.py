"""What placement and pages see of hosts and devices at one instant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gpuworker.envelope import PROTOCOL_VERSION
from gpuworker.protocol import DEAF_AFTER_S, ProcessReading
from jobs.states import DeviceState, HostState


@dataclass(frozen=True, slots=True)
class Holder:
    """An attempt that has a device, alone or beside others."""

    job: int
    job_name: str
    owner: str
    shared: bool = False
    memory_mib: int = 0
    """What it asked for, where it shares."""
    ends_at: datetime | None = None
    """It has ended by then, by its time limit; None: nobody knows."""


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device and who has it. A reading that is None is unknown, which never counts as little or as free."""

    uuid: str
    index: int
    host: str
    name: str
    memory_total_mib: int | None
    memory_used_mib: int | None
    utilization_pct: float | None
    temperature_c: float | None
    power_w: float | None
    power_limit_w: float | None
    state: DeviceState
    reason: str
    """A sentence: who holds it, why it is drained, why it is unknown. Empty when it is free."""
    job: int | None
    job_name: str
    job_owner: str
    processes: tuple[ProcessReading, ...]
    simulated: bool
    free_memory_mib: int | None
    """What processes outside the queue leave; None: unknown."""
    allocatable: bool
    updated_at: datetime | None
    stale: bool
    drained: bool = False
    """An operator, or a job that left it unclean, took it out of use; a job that runs on it goes on."""
    detail: str = ""
    """What `drained` or `unknown` comes from, as the tail of a sentence."""
    holders: tuple[Holder, ...] = ()
    """All that have it, lowest job first; `job` is the first of them."""
    shared_left_mib: int | None = None
    """Memory for one more that shares; None where nobody may join: nobody is on it, or somebody who does not share."""
    readable: bool = True
    """False: it does not answer, so that nothing will start on it even when its holders have ended."""
    links: tuple[tuple[str, int], ...] = ()
    """How near other devices of its host are: UUID and a number, the nearer the higher. Empty: not known."""

    kept_for: str = ""
    """Only this person's jobs may start on it, until `kept_until`. Empty: everybody's."""
    kept_until: datetime | None = None
    kept_by: str = ""
    """Who said so, and why."""

    @property
    def jobs(self) -> tuple[int, ...]:
        return tuple(holder.job for holder in self.holders)


@dataclass(frozen=True, slots=True)
class Orphan:
    """An attempt that a host runs and the database does not know: a backup was restored, or the host's home is another's."""

    key: str
    job: str
    """The job's UUID; whether the database knows the job is another question."""
    attempt: int
    name: str
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UseRule:
    """From when on a process outside the queue uses a device of a host, and which never do, as an operator said."""

    memory_mib: int
    idle_min: int
    by: str
    """Empty: nobody said anything, these are the defaults."""
    at: datetime | None
    in_force: bool
    """The host has said that it goes by this."""
    ignored: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class HostView:
    """A host with all devices that it has told."""

    name: str
    state: HostState
    reason: str
    last_seen_at: datetime | None
    agent_version: str
    device_count: int
    device_source: str
    device_error: str
    disk_free_bytes: int | None
    job_slots: int
    used_slots: int
    devices: tuple[DeviceView, ...]
    stale: bool = False
    """Silent for a few heartbeats: it gets nothing new, though it does not count as unreachable yet."""
    left: bool = False
    """Its agent was stopped, and has said so."""
    inventory_known: bool = True
    version: int | None = None
    """Of the protocol, as it speaks it; None: nothing was heard."""
    deaf_s: float = 0.0
    """Seconds for which its queue has brought it nothing though something was there."""
    orphans: tuple[Orphan, ...] = ()
    disk_least_bytes: int | None = None
    """With less than this free it gets nothing new; None: it does not say."""

    rule: UseRule | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Messages that its agent has dropped since it began, by kind."""

    @property
    def outdated(self) -> bool:
        """What is new could mean something else there: it ends what it has, and gets nothing until it is upgraded."""
        return self.version is not None and self.version < PROTOCOL_VERSION

    @property
    def deaf(self) -> bool:
        return self.deaf_s >= DEAF_AFTER_S

    @property
    def free_devices(self) -> tuple[DeviceView, ...]:
        return tuple(d for d in self.devices if d.state is DeviceState.FREE and d.allocatable)

    @property
    def free_slots(self) -> int:
        return max(0, self.job_slots - self.used_slots)

    @property
    def low_disk(self) -> bool:
        return self.disk_free_bytes is not None and self.disk_least_bytes is not None and self.disk_free_bytes < self.disk_least_bytes

    @property
    def accepts(self) -> bool:
        """Whether anything new may start here."""
        return self.state is HostState.UP and not self.stale and not self.deaf and not self.low_disk and not self.outdated
