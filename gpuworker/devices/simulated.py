"""Devices that are not there: for machines without a GPU, so that everything around them is real.

Their load is that of the trainings which run on them. A training may say what it uses: a file named after its pid in
`AUTOTRAINER_SIM_DIR` that holds "MiB percent", for each of its devices; one that is silent counts as a fixed share. A
file named `<pid>@<index>` is a process outside the queue on that device. Temperature and power follow the load slowly.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuworker.devices.base import Reading, Training, process_owner
from gpuworker.protocol import DeviceReading, ProcessReading
from gpuworker.settings import SimulatedDevices

SILENT_MEMORY_SHARE = 0.25
SILENT_UTILIZATION_PCT = 60.0
IDLE_POWER_W, POWER_LIMIT_W, POWER_FOLLOWS_S = 24.0, 350.0, 4.0
IDLE_TEMPERATURE_C, FULL_TEMPERATURE_C, TEMPERATURE_FOLLOWS_S = 31.0, 76.0, 25.0

_LOAD_FILE = re.compile(r"(\d{1,10})(?:@(\d{1,3}))?")


@dataclass(frozen=True, slots=True)
class Load:
    """What one process uses of one device."""

    pid: int
    memory_mib: int
    utilization_pct: float


@dataclass(slots=True)
class _Warmth:
    """Of one device, as of `at` (monotonic)."""

    temperature_c: float
    power_w: float
    at: float


class SimulatedBackend:
    """Thread-safe: a look before a launch comes beside the regular refresh."""

    source = "simulated"

    def __init__(
        self, devices: SimulatedDevices, *, host: str, host_home: Path, sim_dir: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.uuids = tuple(simulated_uuid(host, index) for index in range(devices.count))
        self.sim_dir = sim_dir
        self.lock_folder = host_home / "locks"
        self._memory_mib = devices.memory_mib
        self._name = f"Simulated GPU {_size(devices.memory_mib)}"
        self._clock = clock
        self._warmth: dict[int, _Warmth] = {}
        self._lock = threading.Lock()

    def read(self, trainings: Sequence[Training] = (), only: Collection[str] = ()) -> Reading:
        with self._lock:
            loads = self._loads(trainings)
            now = self._clock()
            devices = tuple(
                self._device(index, loads.get(index, ()), now) for index, uuid in enumerate(self.uuids) if not only or uuid in only
            )
        shares = {(self.uuids[i], load.pid): load.utilization_pct for i, on_it in loads.items() for load in on_it}
        return Reading(devices, process_utilization=shares)

    def mask_token(self, uuid: str) -> str:
        return str(self.uuids.index(uuid))

    def _loads(self, trainings: Sequence[Training]) -> dict[int, list[Load]]:
        told, outside = self._load_files()
        loads: dict[int, list[Load]] = defaultdict(list, outside)
        for uuids, pids in trainings:
            living = [pid for pid in pids if _exists(pid)]
            said = [told[pid] for pid in living if pid in told] or [self._silent(pid) for pid in living[:1]]
            for uuid in uuids:
                if uuid in self.uuids:
                    loads[self.uuids.index(uuid)].extend(said)
        return loads

    def _load_files(self) -> tuple[dict[int, Load], dict[int, list[Load]]]:
        """What processes say of themselves, by pid; and processes outside the queue, by device index."""
        told: dict[int, Load] = {}
        outside: dict[int, list[Load]] = defaultdict(list)
        for path in self._paths():
            found = _LOAD_FILE.fullmatch(path.name)
            load = _read_load(path, int(found[1])) if found else None
            if not found or not load:
                continue
            if found[2]:
                outside[int(found[2])].append(load)
            elif _exists(load.pid):
                told[load.pid] = load
            else:
                path.unlink(missing_ok=True)  # Killed before it could take its file away; the pid will come again.
        return told, outside

    def _paths(self) -> Iterable[Path]:
        try:
            return sorted(self.sim_dir.iterdir())
        except OSError:
            return ()

    def _silent(self, pid: int) -> Load:
        return Load(pid, round(self._memory_mib * SILENT_MEMORY_SHARE), SILENT_UTILIZATION_PCT + 6 * self._wobble(pid))

    def _wobble(self, seed: int) -> float:
        """-1 to 1, smooth in time, different for each seed."""
        now = self._clock()
        return 0.6 * math.sin(now / 3.1 + seed) + 0.4 * math.sin(now / 1.3 + 2 * seed)

    def _device(self, index: int, loads: Sequence[Load], now: float) -> DeviceReading:
        utilization = min(100.0, sum(load.utilization_pct for load in loads))
        warmth = self._warm(index, utilization, now)
        return DeviceReading(
            uuid=self.uuids[index],
            index=index,
            name=self._name,
            memory_total_mib=self._memory_mib,
            memory_used_mib=min(self._memory_mib, sum(load.memory_mib for load in loads)),
            utilization_pct=float(round(utilization)),
            temperature_c=float(round(warmth.temperature_c)),
            power_w=round(warmth.power_w, 1),
            power_limit_w=POWER_LIMIT_W,
            simulated=True,
            processes=tuple(_process(load) for load in loads),
        )

    def _warm(self, index: int, utilization_pct: float, now: float) -> _Warmth:
        """Moves a device's warmth towards what this load leads to; the first reading is there at once."""
        share = utilization_pct / 100
        temperature = IDLE_TEMPERATURE_C + index % 4 + share * (FULL_TEMPERATURE_C - IDLE_TEMPERATURE_C)
        power = IDLE_POWER_W + share * (0.92 * POWER_LIMIT_W - IDLE_POWER_W) + 1.5 * (1 + self._wobble(index))
        warmth = self._warmth.setdefault(index, _Warmth(temperature, power, now))
        passed = max(0.0, now - warmth.at)
        warmth.temperature_c += (temperature - warmth.temperature_c) * (1 - math.exp(-passed / TEMPERATURE_FOLLOWS_S))
        warmth.power_w += (power - warmth.power_w) * (1 - math.exp(-passed / POWER_FOLLOWS_S))
        warmth.at = now
        return warmth


def simulated_uuid(host: str, index: int) -> str:
    """The same at every start, different on every host."""
    return "SIM-" + hashlib.sha256(f"simulated device\n{host}\n{index}".encode()).hexdigest()[:24]


def _process(load: Load) -> ProcessReading:
    user, command = process_owner(load.pid)
    return ProcessReading(pid=load.pid, user=user, command=command, memory_mib=load.memory_mib)


def _read_load(path: Path, pid: int) -> Load | None:
    """None for a file that is gone, is being written, or is not of the form "MiB percent"."""
    try:
        with path.open("rb") as f:
            memory, utilization = (float(word) for word in f.read(64).split())
    except (OSError, ValueError):
        return None
    if not (0 <= memory < 1e9 and 0 <= utilization <= 100):
        return None
    return Load(pid, round(memory), utilization)


def _exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def _size(mib: int) -> str:
    return f"{mib / 1024:g}GiB" if mib >= 1024 else f"{mib}MiB"
