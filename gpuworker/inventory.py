"""What this host's devices are doing: refreshed each heartbeat by a thread of its own, and looked at afresh on demand."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from gpuworker import identity
from gpuworker.devices.base import DeviceBackend, Reading, Trainings
from gpuworker.devices.usage import Rule, Usage, process_phrase
from gpuworker.protocol import DeviceReading, ProcessReading
from gpuworker.settings import Settings
from gpuworker.shim import processes

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    devices: tuple[DeviceReading, ...]
    error: str
    """Why the inventory is not known; `devices` is empty then, which does not mean that there are none."""
    at: float
    """time.monotonic() of the reading."""

    def device(self, uuid: str) -> DeviceReading | None:
        return next((device for device in self.devices if device.uuid == uuid), None)


class Inventory:
    """Thread-safe. `start` reads once before it returns, so that the first heartbeat is not empty."""

    def __init__(self, backend: DeviceBackend, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.backend = backend
        self._every_s = settings.heartbeat_s
        self._clock = clock
        self._usage = Usage(clock)
        self._usage_lock = threading.Lock()
        self._is_ours: Callable[[int], bool] = lambda pid: False
        self._trainings: Trainings = list
        self._snapshot = Snapshot((), "The devices have not been read yet.", clock())
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def set_ours(self, is_ours: Callable[[int], bool]) -> None:
        """`is_ours(pid)`: it belongs to a training that this installation started."""
        self._is_ours = is_ours

    def set_trainings(self, trainings: Trainings) -> None:
        """The living attempts: simulated devices show their load, and memory that nobody visible holds may be theirs."""
        self._trainings = trainings

    def set_rule(self, rule: Rule) -> None:
        """From the next look on, the regular ones and those before a launch alike, this is what "uses a device" means."""
        with self._usage_lock:
            self._usage.rule = rule

    def start(self) -> None:
        self._refresh_or_say_why()
        self._thread = threading.Thread(target=self._run, name="inventory", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread:
            self._thread.join(timeout=1.0)

    def snapshot(self) -> Snapshot:
        return self._snapshot

    def refresh(self) -> Snapshot:
        """Read all devices now; what they are doing is remembered."""
        trainings = self._trainings()
        held = {uuid for uuids, _ in trainings for uuid in uuids}
        reading = self.backend.read(trainings)
        devices = self._marked(reading)
        with self._usage_lock:
            for device in devices:
                self._usage.observe(device, reading.process_utilization, held=device.uuid in held)
            devices = tuple(replace(d, in_use_outside=bool(self._outside(d, reading, held=d.uuid in held))) for d in devices)
        self._snapshot = Snapshot(devices, reading.error, self._clock())
        return self._snapshot

    def look(self, uuids: Collection[str], *, beside: Collection[int] | None = None) -> dict[str, str]:
        """Reads these devices now: why each must not be used. Only those are in the answer; empty means all are clean.

        Trainings of ours count here too: before a launch and after an end nothing of ours may be left on a device. The
        driver takes a moment to give memory back: after an end, look again before believing that it is left behind.
        `beside`: the pids of trainings that share these devices and may be there; None: nobody shares them.
        """
        if not uuids:
            return {}
        reading = self.backend.read(self._trainings(), only=uuids)
        if reading.error:
            return dict.fromkeys(uuids, reading.error)
        found = {device.uuid: device for device in self._marked(reading)}
        with self._usage_lock:
            reasons = {uuid: self._why_not(found.get(uuid), reading, beside) for uuid in uuids}
        return {uuid: reason for uuid, reason in reasons.items() if reason}

    def _marked(self, reading: Reading) -> tuple[DeviceReading, ...]:
        """With what no backend knows told for each process: whether it is ours, since when it runs, whether it is ignored."""
        return tuple(
            replace(device, processes=tuple(self._known(p, device.uuid, reading) for p in device.processes)) if device.processes else device
            for device in reading.devices
        )

    def _known(self, process: ProcessReading, uuid: str, reading: Reading) -> ProcessReading:
        ticks = processes.start_ticks(process.pid) if process.pid > 0 else None
        told = replace(
            process,
            ours=process.pid > 0 and self._is_ours(process.pid),
            start_ticks=ticks,
            age_s=None if ticks is None else round(max(0.0, identity.age_s(ticks)), 1),
            utilization_pct=reading.process_utilization.get((uuid, process.pid)),
        )
        return replace(told, ignored=not told.ours and self._usage.rule.ignores(told))

    def _why_not(self, device: DeviceReading | None, reading: Reading, beside: Collection[int] | None) -> str:
        if device is None:
            return "It is not on this host."
        if device.error:
            return device.error
        if not device.allocatable:
            return "It is cut into MIG slices: only those are handed out."
        left = next((process for process in device.processes if process.ours and process.pid not in (beside or ())), None)
        if left:
            return f"{process_phrase(left)} of a training of ours is still on it."
        return self._outside(device, reading, held=beside is not None)

    def _outside(self, device: DeviceReading, reading: Reading, *, held: bool) -> str:
        return self._usage.why_in_use(device, reading.process_utilization, held=held)

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            self._refresh_or_say_why()

    def _refresh_or_say_why(self) -> None:
        """The body of a forever-loop: whatever goes wrong, the next round comes, and until then nothing counts as known."""
        try:
            self.refresh()
        except Exception as exc:
            log.exception("The devices could not be read", extra={"action": "inventory"})
            self._snapshot = Snapshot((), f"The devices could not be read ({type(exc).__name__}).", self._clock())
