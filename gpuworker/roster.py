"""The attempts that this agent looks after: from the claim until the control plane has stored the end."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from gpuworker import groups
from gpuworker.attempts import AttemptDir, ShimClient, TakenDevice
from gpuworker.claims.store import Held
from gpuworker.protocol import AttemptReading, DeviceRef, Ended, Spec
from gpuworker.shim import processes
from gpuworker.tail import Tail

_LONGEST_ANCESTRY = 256


@dataclass(slots=True, eq=False)
class Supervised:
    """One attempt in somebody's care. `spec`, `key` and `attempt` never change; the rest belongs to who supervises it."""

    key: str
    spec: Spec
    attempt: AttemptDir
    taken: tuple[TakenDevice, ...] = ()
    shim_pid: int = 0
    watched_since: float = 0.0
    """time.monotonic() from which on `shim_pid` is known: what was read of its devices before shows who had them until then."""
    client: ShimClient | None = None
    tail: Tail | None = None
    stop_grace_s: float | None = None
    """Somebody asked for its end, with this grace."""
    tree_empty: bool = False
    uncovered: tuple[str, ...] = ()
    """Targets whose overlay somebody outside has ended."""
    peak_memory_mib: int | None = None
    """The most that its processes had on one of its devices, as far as this agent saw (gpuworker.samples)."""
    ended: Ended | None = None
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def uuids(self) -> tuple[str, ...]:
        return tuple(device.uuid for device in self.taken)

    @property
    def shared_mib(self) -> int:
        """What it may count on of each of its devices where others may be on them too; 0: it has them alone."""
        return self.spec.gpu_memory_mib if self.spec.shared else 0

    @property
    def devices(self) -> tuple[DeviceRef, ...]:
        return tuple(DeviceRef(uuid=device.uuid, index=device.index) for device in self.taken)

    def reading(self) -> AttemptReading:
        return AttemptReading(
            job=self.spec.job,
            attempt=self.spec.attempt,
            fence=self.spec.fence,
            running=not self.tree_empty,
            log_bytes=self.tail.log_bytes if self.tail else 0,
            oom_detected=self.tail.oom.found if self.tail else False,
            progress=self.tail.progress if self.tail else None,
            uncovered=self.uncovered,
        )


class Roster:
    """Thread-safe. An attempt is on it at most once: who finds it there already has nothing to do."""

    def __init__(self, folder: os.PathLike[str]) -> None:
        self._folder = folder
        self._all: dict[str, Supervised] = {}
        self._lock = threading.Lock()

    def enter(self, one: Supervised) -> bool:
        with self._lock:
            return self._all.setdefault(one.key, one) is one

    def leave(self, key: str) -> None:
        with self._lock:
            self._all.pop(key, None)

    def get(self, key: str) -> Supervised | None:
        with self._lock:
            return self._all.get(key)

    def everyone(self) -> list[Supervised]:
        with self._lock:
            return list(self._all.values())

    def living(self) -> list[Supervised]:
        return [one for one in self.everyone() if not one.tree_empty]

    def held(self) -> list[Held]:
        """All claims of this host, as far as its attempts know."""
        return [Held(one.key, one.spec.fence, one.uuids, one.shared_mib) for one in self.living() if one.uuids]

    # --- what the inventory asks ----------------------------------------------------------------------------------------

    def trainings(self) -> list[tuple[tuple[str, ...], list[int]]]:
        """The living attempts: their devices and the pids of their processes."""
        return [(one.uuids, sorted(below(one.shim_pid))) for one in self.living() if one.shim_pid]

    def beside(self, one: Supervised, uuids: Collection[str]) -> set[int] | None:
        """The pids of those who share these devices with this attempt; None where nobody else has one of them."""
        others = [other for other in self.living() if one.shared_mib and other.shared_mib and other is not one]
        sharing = [other for other in others if not set(uuids).isdisjoint(other.uuids)]
        return {pid for other in sharing for pid in below(other.shim_pid)} if sharing else None

    def is_ours(self, pid: int) -> bool:
        """Whether a process is in the group of one of this installation's attempts, carries its mark, or descends from its shim."""
        if any(mark and os.path.isdir(os.path.join(self._folder, mark)) for mark in (_mark_of(pid), groups.mark_of(pid))):
            return True
        shims = {one.shim_pid for one in self.living() if one.shim_pid}
        return any(parent in shims for parent in _ancestors(pid))


def below(pid: int) -> set[int]:
    """The pids of all descendants. Reads only those: a look at a device comes before each launch and must not take long."""
    found: set[int] = set()
    todo = [pid]
    while todo:
        children = _children(todo.pop()) - found
        found |= children
        todo += children
    return found


def _children(pid: int) -> set[int]:
    found: set[int] = set()
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found.update(map(int, file.read().split()))
    except OSError:
        pass  # It has ended, or the kernel does not tell (CONFIG_PROC_CHILDREN): then the mark has to do.
    return found


def _mark_of(pid: int) -> str:
    entry = f"{processes.MARK}=".encode()
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            values = (part.removeprefix(entry) for part in file.read().split(b"\0") if part.startswith(entry))
            mark = next(values, b"").decode(errors="replace")
    except OSError:
        return ""
    return "" if "/" in mark else mark


def _ancestors(pid: int) -> Iterable[int]:
    for _ in range(_LONGEST_ANCESTRY):
        process = processes.read_process(pid)
        if process is None or process.parent <= 1:
            return
        pid = process.parent
        yield pid
