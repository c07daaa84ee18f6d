"""NVIDIA devices through NVML: the only module that knows pynvml.

NVML must never be asked from a thread that has something else to do (it can hang in the kernel), and what it does not
say is None. A card that is lost stays in the reading, with the reason, under the identity that it had.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pynvml

from gpuworker.devices.base import LONGEST_READ_S, MIB, Link, Reading, Training, machine_lock_folder, process_owner
from gpuworker.devices.links import Links
from gpuworker.devices.patience import Hanging, PatientThread
from gpuworker.protocol import DeviceReading, ProcessReading

log = logging.getLogger(__name__)

T = TypeVar("T")
RECENT_S = 3.0
"""Per-process utilisation is asked for this time back: the driver samples a few times a second."""
REOPEN_AFTER_S = 60.0
"""While a card is lost, NVML is opened anew this often: an open one does not see a card that has come back."""

_UUID = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]{4,90}")
_MENDS = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "libnvidia-ml.so.1 is not on this machine. Install the NVIDIA driver, or set "
    "AUTOTRAINER_DEVICES=auto.",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "The NVIDIA driver is not loaded. Load it with `modprobe nvidia`, or restart the machine.",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "The NVIDIA driver was updated while it was loaded. Restart the machine.",
    pynvml.NVML_ERROR_NO_PERMISSION: "NVML refuses: this account may not open the NVIDIA device files.",
}


_TOPOLOGY = {
    pynvml.NVML_TOPOLOGY_INTERNAL: Link.BOARD,
    pynvml.NVML_TOPOLOGY_SINGLE: Link.SWITCH,
    pynvml.NVML_TOPOLOGY_MULTIPLE: Link.SWITCHES,
    pynvml.NVML_TOPOLOGY_HOSTBRIDGE: Link.HOST_BRIDGE,
    pynvml.NVML_TOPOLOGY_NODE: Link.NODE,
    pynvml.NVML_TOPOLOGY_SYSTEM: Link.SYSTEM,
}
Shares = dict[tuple[str, int], float]


class _Lost(Exception):
    """The card does not answer any more; says why."""


class NvmlBackend:
    source = "nvml"

    def __init__(self, *, longest_read_s: float = LONGEST_READ_S) -> None:
        self._longest_read_s = longest_read_s
        self._thread = PatientThread("nvml")
        self._nvml = _Nvml()

    @property
    def lock_folder(self) -> Path:
        return machine_lock_folder()

    def read(self, trainings: Sequence[Training] = (), only: Collection[str] = ()) -> Reading:
        try:
            return self._thread.call(lambda: self._nvml.read(only), self._longest_read_s)
        except Hanging as exc:
            return Reading(error=f"NVML has not answered for {exc.for_s:.0f} s: the driver hangs.")

    def mask_token(self, uuid: str) -> str:
        return self._nvml.mask_tokens[uuid]


class _Nvml:
    """NVML as one thread sees it: what is open, and who each device was when it was last seen."""

    def __init__(self) -> None:
        self.mask_tokens: dict[str, str] = {}
        self._open = False
        self._opened_at = 0.0
        self._known: dict[str, DeviceReading] = {}
        self._faults: dict[int, str] = {}
        """By index: why the card there cannot even be identified."""
        self._cards: dict[str, Any] = {}
        """Handles of the cards that answered in the last reading."""
        self._links = Links(_near)

    def read(self, only: Collection[str]) -> Reading:
        try:
            self._ensure_open()
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as exc:
            self._close()
            return Reading(error=_MENDS.get(exc.value, f"NVML: {exc}."))
        faults_before, self._faults, self._cards = self._faults, {}, {}
        shares: dict[tuple[str, int], float] = {}
        seen = {device.uuid: device for index in range(count) for device in self._card(index, shares)}
        devices = self._links.added(seen | self._missing(seen), self._cards)
        self._remember(seen, faults_before)
        if any(device.error for device in devices.values()) and time.monotonic() - self._opened_at > REOPEN_AFTER_S:
            self._close()
        ordered = sorted(devices.values(), key=lambda device: (device.index, bool(device.parent)))
        return Reading(tuple(device for device in ordered if not only or device.uuid in only), process_utilization=shares)

    def _ensure_open(self) -> None:
        if not self._open:
            pynvml.nvmlInit()
            self._open, self._opened_at = True, time.monotonic()

    def _close(self) -> None:
        if self._open:
            self._open = False
            try:
                pynvml.nvmlShutdown()
            except pynvml.NVMLError as exc:
                log.warning("NVML could not be closed: %s", exc, extra={"action": "nvml"})

    def _card(self, index: int, shares: Shares) -> list[DeviceReading]:
        """The card and its MIG slices. Nothing for a card that does not say who it is."""
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = _identity(handle)
        except (pynvml.NVMLError, ValueError) as exc:
            self._faults[index] = f"NVML: {exc}."
            return []
        try:
            slices = _slices(handle)
            self._cards[uuid] = handle
            card = replace(_device(handle, uuid, index, shares), allocatable=slices is None)
            return [card, *(_slice(slice_, slice_uuid, card, shares) for slice_, slice_uuid in slices or ())]
        except _Lost as exc:
            return [self._broken(uuid, index, f"NVML: {exc}.")]

    def _missing(self, seen: Mapping[str, DeviceReading]) -> dict[str, DeviceReading]:
        """Devices that were here. A slice whose card answers was removed by an operator, and is not missed."""
        gone = [d for uuid, d in self._known.items() if uuid not in seen and not (d.parent in seen and not seen[d.parent].error)]
        gone_for_good = "It has disappeared: NVML does not list it any more."
        return {d.uuid: self._broken(d.uuid, d.index, self._faults.get(d.index, gone_for_good)) for d in gone}

    def _broken(self, uuid: str, index: int, error: str) -> DeviceReading:
        was = self._known.get(uuid, DeviceReading(uuid=uuid, index=index, name="NVIDIA GPU"))
        return DeviceReading(
            uuid=uuid,
            index=index,
            name=was.name,
            memory_total_mib=was.memory_total_mib,
            parent=was.parent,
            allocatable=was.allocatable,
            error=error,
        )

    def _remember(self, seen: Mapping[str, DeviceReading], faults_before: Mapping[int, str]) -> None:
        kept = {uuid: d for uuid, d in self._known.items() if not (d.parent in seen and not seen[d.parent].error)}
        self._known = kept | {uuid: device for uuid, device in seen.items() if not device.error}
        self.mask_tokens |= {uuid: uuid if device.parent else str(device.index) for uuid, device in seen.items()}
        if self._faults != faults_before:
            log.warning("Cards that cannot be identified: %s", self._faults or "none any more", extra={"action": "nvml"})


def _near(one: Any, two: Any) -> Link | None:
    """None where the driver does not say."""
    try:
        if _ask(pynvml.nvmlDeviceGetP2PStatus, one, two, pynvml.NVML_P2P_CAPS_INDEX_NVLINK) == pynvml.NVML_P2P_STATUS_OK:
            return Link.NVLINK
        level = _ask(pynvml.nvmlDeviceGetTopologyCommonAncestor, one, two)
    except _Lost:
        return None
    return None if level is None else _TOPOLOGY.get(level)


# --- one device ---------------------------------------------------------------------------------------------------------


def _device(handle: Any, uuid: str, index: int, shares: Shares) -> DeviceReading:
    """Raises _Lost. What the driver does not say is None."""
    memory = _ask(_memory, handle)
    utilization = _ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power, limit = _ask(pynvml.nvmlDeviceGetPowerUsage, handle), _ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    temperature = _ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    compute, graphics = _ask(_processes, handle, "Compute"), _ask(_processes, handle, "Graphics")
    if compute:
        shares.update(_shares(handle, uuid, {process.pid for process in [*compute, *(graphics or ())]}))
    return DeviceReading(
        uuid=uuid,
        index=index,
        name=_ask(pynvml.nvmlDeviceGetName, handle) or "NVIDIA GPU",
        memory_total_mib=memory and memory.total // MIB,
        memory_used_mib=memory and memory.used // MIB,
        utilization_pct=utilization and float(utilization.gpu),
        temperature_c=None if temperature is None else float(temperature),
        power_w=None if power is None else round(power / 1000, 1),
        power_limit_w=None if limit is None else round(limit / 1000, 1),
        processes=_merged(compute or (), graphics or ()),
        error="Neither its memory nor its processes can be read." if memory is None and compute is None else "",
    )


def _slice(handle: Any, uuid: str, card: DeviceReading, shares: Shares) -> DeviceReading:
    """A MIG slice has memory and processes of its own, shares its card's temperature, and does not know its power."""
    return replace(_device(handle, uuid, card.index, shares), parent=card.uuid, temperature_c=card.temperature_c)


def _ask(function: Callable[..., T], *args: Any) -> T | None:
    """None for a reading that this card, driver or account does not get; _Lost where the card itself is gone."""
    try:
        return function(*args)
    except (pynvml.NVMLError_GpuIsLost, pynvml.NVMLError_ResetRequired) as exc:
        raise _Lost(str(exc)) from exc
    except (pynvml.NVMLError, ValueError):
        return None


def _identity(handle: Any) -> str:
    """Raises NVMLError, or ValueError for bytes that are no UUID."""
    uuid: str = pynvml.nvmlDeviceGetUUID(handle)
    if not _UUID.fullmatch(uuid):
        raise ValueError(f"{uuid!r} is no device UUID")
    return uuid


def _slices(handle: Any) -> list[tuple[Any, str]] | None:
    """Handle and UUID of each of the card's MIG slices; None where it is not in MIG mode."""
    mode = _ask(pynvml.nvmlDeviceGetMigMode, handle)
    if mode is None or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
        return None
    places = range(_ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0)
    handles = (_ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, place) for place in places)
    named = [(slice_, _ask(_identity, slice_)) for slice_ in handles if slice_ is not None]
    return [(slice_, uuid) for slice_, uuid in named if uuid is not None]


def _memory(handle: Any) -> Any:
    """Version 2 knows what the driver keeps for itself (`reserved`); with version 1 an idle card looks used."""
    try:
        return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except pynvml.NVMLError_FunctionNotFound:
        return pynvml.nvmlDeviceGetMemoryInfo(handle)


def _processes(handle: Any, kind: str) -> list[Any]:
    """What pynvml calls processes: `pid` and `usedGpuMemory` in bytes or None."""
    for version in ("_v3", "_v3", "_v2"):
        try:
            found: list[Any] = getattr(pynvml, f"nvmlDeviceGet{kind}RunningProcesses{version}")(handle)
            return found
        except pynvml.NVMLError_InsufficientSize:
            continue  # Many have come between its two calls.
        except pynvml.NVMLError_FunctionNotFound:
            continue  # A driver of before 2022.
    raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)


def _merged(compute: Iterable[Any], graphics: Iterable[Any]) -> tuple[ProcessReading, ...]:
    """One entry per process; one that is on both lists computes."""
    by_pid = {process.pid: (process, True) for process in graphics} | {process.pid: (process, False) for process in compute}
    return tuple(_process(process, graphics=only_draws) for _, (process, only_draws) in sorted(by_pid.items()))


def _process(process: Any, *, graphics: bool) -> ProcessReading:
    user, command = process_owner(process.pid)
    memory = process.usedGpuMemory
    return ProcessReading(
        pid=process.pid, user=user, command=command, memory_mib=None if memory is None else memory // MIB, graphics=graphics
    )


def _shares(handle: Any, uuid: str, pids: Collection[int]) -> Shares:
    """How much each process has computed lately; nothing where the driver does not say (MIG, some containers)."""
    samples = _ask(_samples, handle, int((time.time() - RECENT_S) * 1e6))
    if samples is None:
        return {}
    most: dict[int, float] = {}
    for sample in samples:
        percent = min(100.0, float(max(sample.smUtil, sample.memUtil, sample.encUtil, sample.decUtil)))
        most[sample.pid] = max(percent, most.get(sample.pid, 0.0))
    if most.keys() <= set(pids):
        most = dict.fromkeys(pids, 0.0) | most  # Only who computes has a sample. Pids of another namespace would tell nothing.
    return {(uuid, pid): percent for pid, percent in most.items()}


def _samples(handle: Any, since_us: int) -> Sequence[Any]:
    try:
        samples: Sequence[Any] = pynvml.nvmlDeviceGetProcessUtilization(handle, since_us)
        return samples
    except pynvml.NVMLError as exc:
        # Nobody has computed. pynvml raises even where NVML answers success with no samples.
        if exc.value in (pynvml.NVML_SUCCESS, pynvml.NVML_ERROR_NOT_FOUND):
            return ()
        raise
