"""What must always be true of a cluster with a queue, told a second time: shares no code with the scheduler.

Devices, jobs and who has what are plain values; `order` says who is before whom, `wrongs` what a pass must not have done.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FOREVER = 10**9


@dataclass(eq=False)
class Dev:
    """A device; `outside` MiB are held by processes that are not ours."""

    uuid: str
    host: str
    total: int
    outside: int = 0
    busy_outside: bool = False
    there: bool = True
    drained: bool = False
    kept_for: str = ""

    @property
    def usable(self) -> bool:
        return self.there and not self.drained and not self.busy_outside


@dataclass(eq=False)
class Job:
    id: int
    owner: str
    priority: int
    least: int
    most: int
    memory: int
    shared: bool
    limit: int | None
    hosts: tuple[str, ...]
    devices: list[Dev] = field(default_factory=list)
    host: str = ""
    started: int | None = None
    on_hold: bool = False

    def end(self) -> int:
        return FOREVER if self.limit is None or self.started is None else self.started + self.limit


@dataclass
class Cluster:
    devices: list[Dev]
    slots: dict[str, int]
    up: dict[str, bool]
    jobs: dict[int, Job] = field(default_factory=dict)
    """All that wait or run."""
    used: dict[str, int] = field(default_factory=dict)
    now: int = 0

    def running(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.started is not None]

    def order(self) -> list[Job]:
        """The waiting jobs: priority; then use and turns; then whose oldest is older; then age."""
        waiting = sorted((job for job in self.jobs.values() if job.started is None and not job.on_hold), key=lambda job: job.id)

        def place(job: Job) -> tuple[int, int, int, int]:
            alike = [w.id for w in waiting if (w.owner, w.priority) == (job.owner, job.priority)]
            runs = [r.id for r in self.running() if r.owner == job.owner]
            turns = min(sum(i < job.id for i in alike), 100) + len(runs)
            return (-job.priority, self.used.get(job.owner, 0) + 10 * turns, min(alike[0], *runs, alike[0]), job.id)

        return sorted(waiting, key=place)

    def on(self, device: Dev) -> list[Job]:
        return [job for job in self.running() if device in job.devices]

    def ready_at(self, job: Job, device: Dev) -> int:
        """By when the device surely takes the job, as those on it end."""
        holders = self.on(device)
        for moment in sorted({self.now, *(max(self.now, other.end()) for other in holders)}):
            rest = [other for other in holders if max(self.now, other.end()) > moment]
            asked = job.memory + sum(other.memory for other in rest)
            sharing = job.shared and device.usable and all(other.shared for other in rest) and asked <= device.total - device.outside
            if not rest or sharing:
                return moment
        raise AssertionError("a device is never empty")

    def may_ever_take(self, job: Job, device: Dev) -> bool:
        """Now, or once the queue's own jobs on it have ended."""
        enough = device.total if self.on(device) else device.total - device.outside
        if device.kept_for not in ("", job.owner):
            return False
        return device.there and not device.drained and (device.usable or bool(self.on(device))) and enough >= job.memory

    def latest_start(self, job: Job, host: str) -> int | None:
        """By when this host surely has the devices for the job; None: never, as far as anybody knows."""
        if not self.up[host] or (job.hosts and host not in job.hosts):
            return None
        ends = sorted(self.ready_at(job, d) for d in self.devices if d.host == host and self.may_ever_take(job, d))
        return ends[job.least - 1] if 0 < job.least <= len(ends) else None

    def wrongs(self) -> list[str]:
        """What is wrong with who has what at this moment."""
        found = []
        for device in self.devices:
            holders = self.on(device)
            if len(holders) > 1 and not all(job.shared for job in holders):
                found.append(f"{device.uuid} is held by {[job.id for job in holders]}")
            if len(holders) > 1 and sum(job.memory for job in holders) > device.total:
                found.append(f"{device.uuid} has no memory for {[job.id for job in holders]}")
        for job in self.running():
            if not job.least <= len(job.devices) <= max(job.least, job.most) or len(set(job.devices)) != len(job.devices):
                found.append(f"job {job.id} has {len(job.devices)} devices")
            if len({device.host for device in job.devices}) > 1:
                found.append(f"job {job.id} is on two hosts")
        return found

    def wrong_start(self, job: Job, host: str, devices: list[Dev]) -> str:
        """Why this job must not start there now."""
        if not self.up[host] or (job.hosts and host not in job.hosts):
            return f"job {job.id} starts on {host}"
        if unusable := [d.uuid for d in devices if not d.usable or d.kept_for not in ("", job.owner)]:
            return f"job {job.id} gets {unusable}"
        if small := [device.uuid for device in devices if device.total - device.outside < job.memory]:
            return f"job {job.id} gets {small}, which are too small"
        return ""
