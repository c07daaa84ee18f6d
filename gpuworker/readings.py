"""What a host tells of itself with each heartbeat: its devices, its attempts, its disk. Standard library only.

Part of the protocol (`gpuworker.protocol` names these too). A reading that failed is None, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gpuworker.message import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessReading(Message):
    """A process on a device. None means unknown, which never counts as little."""

    pid: int
    user: str = ""
    command: str = ""
    memory_mib: int | None = None
    ours: bool = False
    graphics: bool = False
    utilization_pct: float | None = None
    """How much of the device this process alone uses."""
    start_ticks: int | None = None
    """When it started, in clock ticks since boot: with its pid and the host's boot it is this process and no later one."""
    age_s: float | None = None
    ignored: bool = False
    """An operator said that it does not count as use of the device; its memory is still its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReading(Message):
    """One device at one instant. A reading that failed is None, and a device with `error` is not available."""

    uuid: str
    index: int
    name: str
    memory_total_mib: int | None = None
    memory_used_mib: int | None = None
    utilization_pct: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    simulated: bool = False
    parent: str = ""
    """UUID of the whole card, for a MIG slice."""
    allocatable: bool = True
    """False for a card that is cut into MIG slices: only its slices are handed out."""
    in_use_outside: bool = False
    """A process that is not ours uses it (docs/how-it-works.md says what "uses" means)."""
    error: str = ""
    processes: tuple[ProcessReading, ...] = ()
    links: dict[str, int] = field(default_factory=dict)
    """How near other devices of this host are: UUID -> a number, the nearer the higher. Empty: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptReading(Message):
    """An attempt whose directory the host holds and whose end has not been acknowledged."""

    job: str
    attempt: int
    fence: int
    running: bool
    log_bytes: int = 0
    oom_detected: bool = False
    name: str = ""
    """The job's, for a control plane that does not know it."""
    devices: tuple[str, ...] = ()
    """UUIDs of what it holds."""
    progress: float | None = None
    """0…1, as its log tells; None: it does not tell."""
    uncovered: tuple[str, ...] = ()
    """Targets whose overlay somebody outside has ended by replacing the file: the job sees the file itself now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat(Message):
    """A host's heartbeat: its whole inventory and what it runs. `at` is unix seconds by the host's clock."""

    host: str
    at: float
    boot_id: str
    agent_version: str
    device_source: str
    """nvml, simulated or none."""
    device_error: str = ""
    """Why the inventory is not known (NVML does not answer). Empty: it is known, even where it is empty."""
    job_slots: int
    devices: tuple[DeviceReading, ...]
    attempts: tuple[AttemptReading, ...] = ()
    deaf_s: float | None = None
    """Seconds for which nothing has come through this host's queue though something was put there; None: it cannot tell."""
    disk_free_bytes: int | None = None
    disk_least_bytes: int | None = None
    """With less than this free nothing new starts there."""
    kill_level: str = ""  # how trees are ended here: `cgroup` (nobody gets away), or `subreaper`
    swap_way: str = ""
    """mount or journal: how this host swaps files."""
    swap_note: str = ""
    """Why not by mount."""
    instance: str = ""
    """Names this start of the agent: a heartbeat under our name with another one is somebody else's, or from before a restart."""
    leaving: bool = False
    """The last one of an agent that is being stopped. What it runs goes on."""
    rules_serial: int = 0
    """Of the operators' rules that this host goes by; 0: of none."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Messages that this start of the agent has dropped, by kind (gpuworker.dropped)."""
