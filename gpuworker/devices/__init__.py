"""Where a host's devices come from: NVML, simulation, or nowhere."""

from __future__ import annotations

import ctypes
from pathlib import Path

from gpuworker.devices.base import DeviceBackend
from gpuworker.devices.none import NoDevices
from gpuworker.devices.simulated import SimulatedBackend
from gpuworker.settings import Settings, SimulatedDevices

NVML_LIBRARY = "libnvidia-ml.so.1"
PCI_DEVICES = Path("/sys/bus/pci/devices")


def make_backend(settings: Settings) -> DeviceBackend:
    """The backend that AUTOTRAINER_DEVICES asks for. `auto` never simulates: without an NVIDIA card it has no devices."""
    if isinstance(settings.devices, SimulatedDevices):
        return _simulated(settings, settings.devices)
    if settings.devices == "nvml" or (settings.devices == "auto" and nvidia_expected()):
        # Here and not above: pynvml takes 5 MB, and hosts without NVIDIA cards need not pay for it.
        from gpuworker.devices.nvml import NvmlBackend

        return NvmlBackend()
    return NoDevices()


def sim_dir(settings: Settings) -> Path:
    """AUTOTRAINER_SIM_DIR of trainings on simulated devices."""
    return settings.host_home / "sim"


def nvidia_expected() -> bool:
    """Whether this machine has NVIDIA devices, or should: a driver that is broken or not loaded yet is an error, not "none"."""
    try:
        library = ctypes.CDLL(NVML_LIBRARY)
    except OSError:
        return False
    driver_not_loaded = 9
    answer = library.nvmlInit_v2()
    if answer == 0:
        library.nvmlShutdown()
    return answer != driver_not_loaded or _has_nvidia_card()


def _has_nvidia_card() -> bool:
    """Asks the PCI bus: display controllers (class 03xxxx) made by NVIDIA (vendor 10de)."""
    for device in PCI_DEVICES.glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text()
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):
            return True
    return False


def _simulated(settings: Settings, devices: SimulatedDevices) -> SimulatedBackend:
    folder = sim_dir(settings)
    backend = SimulatedBackend(devices, host=settings.host, host_home=settings.host_home, sim_dir=folder)
    for needed in (folder, backend.lock_folder):
        needed.mkdir(mode=0o700, parents=True, exist_ok=True)
    return backend
