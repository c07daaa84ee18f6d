"""The NVML backend: the real pynvml over a driver of our own."""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import subprocess
import sys
import time
from pathlib import Path

import pynvml
import pytest

from gpuworker import devices, settings
from gpuworker.devices import nvml
from gpuworker.devices.base import Link
from gpuworker.devices.nvml import NvmlBackend
from gpuworker.devices.usage import Rule
from gpuworker.inventory import Inventory
from tests.nvml_stub import GIB, Driver
from tests.waiting import wait_until

CARD = "GPU-{:08x}-0000-4000-8000-000000000000"


@pytest.fixture
def backend(driver: Driver) -> NvmlBackend:
    return NvmlBackend(longest_read_s=5)


def test_two_cards_are_read_with_all_that_they_say(driver: Driver, backend: NvmlBackend) -> None:
    driver.card(1, util=97, temp=61, power=312_500, memory="40960 600 30720")
    reading = backend.read()
    assert reading.error == ""
    idle, busy = reading.devices
    assert (idle.uuid, idle.index, idle.name) == (CARD.format(0), 0, "NVIDIA A100-SXM4-40GB")
    assert (idle.memory_total_mib, idle.memory_used_mib, idle.utilization_pct) == (40960, 3, 0)
    assert (busy.temperature_c, busy.power_w, busy.power_limit_w) == (61, 312.5, 400)
    assert (busy.utilization_pct, busy.memory_used_mib) == (97, 30720)
    assert not busy.simulated
    assert idle.allocatable
    assert (idle.parent, idle.error, idle.processes) == ("", "", ())
    assert [backend.mask_token(device.uuid) for device in reading.devices] == ["0", "1"]


def test_cards_say_how_near_the_others_are_and_are_asked_once(driver: Driver, backend: NvmlBackend, library: Path) -> None:
    driver.tell(count=4)
    driver.card(2)
    driver.card(3)
    driver.tell(_0__near__1=10, _0__near__2=50, _1__near__2=30, _1__near__3="!999", _2__nvlink__3=1, _2__near__3=20)
    first, second, third, fourth = backend.read().devices
    assert first.links == {second.uuid: Link.SWITCH, third.uuid: Link.SYSTEM}
    assert second.links == {first.uuid: Link.SWITCH, third.uuid: Link.HOST_BRIDGE}
    assert fourth.links == {third.uuid: Link.NVLINK}
    asked = pynvml.nvmlLib.stub_links_asked()
    assert backend.read(only=[fourth.uuid]).devices[0].links == fourth.links
    assert pynvml.nvmlLib.stub_links_asked() == asked


def test_memory_that_the_driver_keeps_for_itself_does_not_count_as_used(driver: Driver, backend: NvmlBackend) -> None:
    driver.card(0, memory="40960 1500 0")
    assert backend.read().devices[0].memory_used_mib == 0


def test_driver_without_the_second_memory_version_is_read_by_the_first(driver: Driver, backend: NvmlBackend) -> None:
    driver.card(0, memory_v2="!13")
    assert backend.read().devices[0].memory_used_mib == 603


def test_processes_are_listed_with_user_program_and_kind(driver: Driver, backend: NvmlBackend) -> None:
    ours, gone = os.getpid(), 2**22 + 1
    driver.card(0, compute=f"{ours}:{3 * GIB} {gone}:na", graphics=f"7:{GIB} {ours}:{3 * GIB}")
    drawing, python, unseen = backend.read().devices[0].processes
    assert (drawing.pid, drawing.memory_mib, drawing.graphics) == (7, 1024, True)
    assert (python.pid, python.memory_mib, python.graphics) == (ours, 3072, False)
    assert python.user == pwd.getpwuid(os.getuid()).pw_name
    assert "python" in python.command
    assert (unseen.memory_mib, unseen.user, unseen.command) == (None, "", "")


def test_utilisation_of_each_process_is_told_where_the_driver_knows_it(driver: Driver, backend: NvmlBackend) -> None:
    driver.card(0, compute=f"11:{GIB} 12:{GIB}", shares="11:40")
    driver.card(1, compute=f"13:{GIB}", shares="!3")
    shares = backend.read().process_utilization
    assert shares == {(CARD.format(0), 11): 40, (CARD.format(0), 12): 0}


def test_process_outside_is_told_with_its_own_use_and_age_and_a_rule_decides_on_it(
    driver: Driver, backend: NvmlBackend, tmp_path: Path
) -> None:
    inventory = Inventory(backend, settings.load({"AUTOTRAINER_HOME": str(tmp_path)}))
    driver.card(0, compute=f"{os.getpid()}:{3 * GIB} 12:{GIB // 2}", shares=f"{os.getpid()}:40")
    device = inventory.refresh().devices[0]
    process = next(p for p in device.processes if p.pid == os.getpid())
    assert (process.utilization_pct, device.in_use_outside) == (40, True)
    assert process.age_s is not None
    assert process.start_ticks is not None
    inventory.set_rule(Rule(memory_mib=4096))
    assert inventory.look([device.uuid])  # it computes
    driver.card(0, shares="")
    inventory.set_rule(Rule(memory_mib=4096, remembered_s=0))
    assert not inventory.look([device.uuid])
    driver.card(0, shares=f"{os.getpid()}:40")
    inventory.set_rule(Rule(ignored=frozenset({(os.getpid(), process.start_ticks)})))
    assert not inventory.look([device.uuid])
    assert not inventory.refresh().devices[0].in_use_outside


def test_card_that_comes_or_goes_is_in_the_next_reading(driver: Driver, backend: NvmlBackend, tmp_path: Path) -> None:
    inventory = Inventory(backend, settings.load({"AUTOTRAINER_HOME": str(tmp_path)}))
    assert len(inventory.refresh().devices) == 2
    driver.tell(count=3)
    driver.card(2)
    assert [d.error for d in inventory.refresh().devices] == ["", "", ""]
    driver.tell(count=2)
    assert "disappeared" in inventory.refresh().devices[2].error


def test_processes_are_idle_where_nobody_has_a_sample(driver: Driver, backend: NvmlBackend) -> None:
    driver.card(0, compute=f"11:{GIB}", shares="")
    assert backend.read().process_utilization == {(CARD.format(0), 11): 0}


def test_utilisation_by_pids_of_another_namespace_says_nothing_of_those_listed(driver: Driver, backend: NvmlBackend) -> None:
    driver.card(0, compute=f"11:{GIB}", shares="90011:40")
    assert (CARD.format(0), 11) not in backend.read().process_utilization


@pytest.mark.parametrize("code", [3, 4, 13, 999])
def test_reading_that_is_refused_is_unknown_and_not_zero(driver: Driver, backend: NvmlBackend, code: int) -> None:
    driver.card(0, **dict.fromkeys(("util", "temp", "power", "limit", "memory", "name", "graphics"), f"!{code}"))
    device = backend.read().devices[0]
    assert (device.utilization_pct, device.temperature_c, device.power_w, device.power_limit_w) == (None, None, None, None)
    assert (device.memory_total_mib, device.memory_used_mib) == (None, None)
    assert (device.name, device.error) == ("NVIDIA GPU", "")


def test_card_that_tells_neither_memory_nor_processes_is_not_available(driver: Driver, backend: NvmlBackend) -> None:
    driver.card(0, memory="!3", compute="!3")
    assert backend.read().devices[0].error == "Neither its memory nor its processes can be read."


@pytest.mark.parametrize("where", ["lost", "handle"])
def test_lost_card_stays_with_its_identity_and_the_reason(driver: Driver, backend: NvmlBackend, where: str) -> None:
    backend.read()
    driver.card(0, **{where: "!15"})
    lost, healthy = backend.read().devices
    assert (lost.uuid, lost.index, lost.name, lost.memory_total_mib) == (CARD.format(0), 0, "NVIDIA A100-SXM4-40GB", 40960)
    assert lost.error == "NVML: GPU is lost."
    assert (lost.memory_used_mib, lost.utilization_pct) == (None, None)
    assert (healthy.error, healthy.memory_used_mib) == ("", 3)


@pytest.mark.parametrize(("reading", "code"), [("memory", 15), ("compute", 15), ("util", 15), ("temp", 16)])
def test_card_that_is_lost_while_it_is_read_is_not_available(driver: Driver, backend: NvmlBackend, reading: str, code: int) -> None:
    driver.card(0, **{reading: f"!{code}"})
    lost, healthy = backend.read().devices
    assert lost.error == ("NVML: GPU is lost." if code == 15 else "NVML: GPU requires restart.")
    assert (lost.uuid, lost.memory_used_mib, healthy.error) == (CARD.format(0), None, "")


def test_card_that_was_lost_and_answers_again_is_available_again(driver: Driver, backend: NvmlBackend) -> None:
    backend.read()
    driver.card(0, lost="!15")
    backend.read()
    driver.tell(drop=("0.lost",))
    assert backend.read().devices[0].error == ""


def test_card_that_has_fallen_off_the_bus_stays_in_the_reading(driver: Driver, backend: NvmlBackend) -> None:
    backend.read()
    driver.tell(count=1, _0__uuid=CARD.format(1))
    moved, gone = sorted(backend.read().devices, key=lambda device: bool(device.error))
    assert (moved.uuid, moved.index) == (CARD.format(1), 0)
    assert (gone.uuid, gone.error) == (CARD.format(0), "It has disappeared: NVML does not list it any more.")
    assert backend.mask_token(CARD.format(1)) == "0"


def test_nvml_is_opened_anew_while_a_card_is_lost(
    driver: Driver, backend: NvmlBackend, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens = ctypes.CDLL(str(library)).stub_opens
    backend.read()
    before = opens()
    backend.read()
    assert opens() == before
    monkeypatch.setattr(nvml, "REOPEN_AFTER_S", 0.0)
    driver.card(0, lost="!15")
    backend.read()
    backend.read()
    assert opens() == before + 1


@pytest.mark.parametrize("uuid", ["", "rubbish", "GPU-\x01\x02\x03\x04", "!999"])
def test_card_that_does_not_say_who_it_is_is_left_out(driver: Driver, backend: NvmlBackend, uuid: str) -> None:
    driver.card(0, uuid=uuid)
    reading = backend.read()
    assert [device.index for device in reading.devices] == [1]


def test_mig_slices_are_devices_of_their_own_and_their_card_is_not_handed_out(driver: Driver, backend: NvmlBackend) -> None:
    driver.card(0, mig=1, places=7, util="!3", temp=50)
    for place in (0, 3):
        slice_uuid = f"MIG-0000000{place}-1111-5222-8333-444444444444"
        driver.tell(**{f"_0__{place}__uuid": slice_uuid, f"_0__{place}__name": "NVIDIA A100 MIG 2g.10gb"})
        driver.tell(**{f"_0__{place}__memory": "9856 10 1", f"_0__{place}__compute": ""})
    card, first, second, other = backend.read().devices
    assert not card.allocatable
    assert (first.parent, first.index, first.allocatable) == (CARD.format(0), 0, True)
    assert (first.memory_total_mib, first.name) == (9856, "NVIDIA A100 MIG 2g.10gb")
    assert (first.utilization_pct, first.power_w, first.temperature_c) == (None, None, 50)
    assert second.uuid == "MIG-00000003-1111-5222-8333-444444444444"
    assert backend.mask_token(second.uuid) == second.uuid
    assert other.allocatable
    assert [device.uuid for device in backend.read(only=[second.uuid]).devices] == [second.uuid]
    driver.tell(drop=("0.3.uuid",))
    assert [device.index for device in backend.read().devices] == [0, 0, 1]  # An operator removed it: it is not missed.
    driver.card(0, lost="!15")
    assert [bool(device.error) for device in backend.read().devices] == [True, True, False]


def test_call_that_hangs_makes_the_inventory_unknown_and_does_not_hang_its_caller(driver: Driver) -> None:
    backend = NvmlBackend(longest_read_s=0.3)
    assert backend.read().error == ""
    driver.tell(hang="nvmlDeviceGetMemoryInfo")
    begin = time.monotonic()
    assert "NVML has not answered for" in backend.read().error
    assert time.monotonic() - begin < 2
    wait_until(lambda: _read_in(backend) < 0.1, 5, "later callers to be told at once")
    driver.tell(drop=("hang",))
    wait_until(lambda: len(backend.read().devices) == 2, 5, "the devices to be back")


def _read_in(backend: NvmlBackend) -> float:
    begin = time.monotonic()
    assert backend.read().devices == ()
    return time.monotonic() - begin


def test_driver_that_goes_away_makes_the_inventory_unknown_until_it_is_back(driver: Driver, backend: NvmlBackend) -> None:
    backend.read()
    driver.tell(count="!999")
    assert backend.read().error == "NVML: Unknown Error."
    driver.tell(init="!18")
    assert backend.read().error == "The NVIDIA driver was updated while it was loaded. Restart the machine."
    driver.tell(count=2, drop=("init",))
    assert len(backend.read().devices) == 2


def test_many_processes_are_all_listed(driver: Driver, backend: NvmlBackend) -> None:
    driver.card(0, compute=" ".join(f"{2**22 + n}:{GIB}" for n in range(60)))
    assert len(backend.read().devices[0].processes) == 60


# --- which backend -------------------------------------------------------------------------------------------------------


def load(tmp_path: Path, devices: str) -> settings.Settings:
    return settings.load({"AUTOTRAINER_HOME": str(tmp_path), "AUTOTRAINER_DEVICES": devices})


def test_auto_takes_nvml_where_there_is_a_driver(driver: Driver, tmp_path: Path) -> None:
    assert devices.make_backend(load(tmp_path, "auto")).source == "nvml"


def test_auto_has_no_devices_where_the_library_is_missing(driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "NVML_LIBRARY", str(tmp_path / "absent.so.1"))
    backend = devices.make_backend(load(tmp_path, "auto"))
    assert (backend.source, backend.read().devices, backend.read().error) == ("none", (), "")


@pytest.mark.parametrize(
    ("vendor", "kind", "source"), [("0x10de", "0x030200", "nvml"), ("0x10de", "0x040300", "none"), ("0x1002", "0x030000", "none")]
)
def test_auto_waits_for_a_driver_that_is_not_loaded_only_where_there_is_a_card(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendor: str, kind: str, source: str
) -> None:
    card = tmp_path / "pci" / "0000:01:00.0"
    card.mkdir(parents=True)
    (card / "vendor").write_text(vendor + "\n")
    (card / "class").write_text(kind + "\n")
    monkeypatch.setattr(devices, "PCI_DEVICES", tmp_path / "pci")
    driver.tell(drop=("count",))
    backend = devices.make_backend(load(tmp_path, "auto"))
    assert backend.source == source
    if source == "nvml":
        assert backend.read().error.startswith("The NVIDIA driver is not loaded.")
        driver.tell(count=2)
        assert len(backend.read().devices) == 2


def test_auto_reports_a_broken_driver_instead_of_no_devices(driver: Driver, tmp_path: Path) -> None:
    driver.tell(init="!18")
    backend = devices.make_backend(load(tmp_path, "auto"))
    assert (backend.source, bool(backend.read().error)) == ("nvml", True)


def test_nvml_that_is_asked_for_but_missing_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_library(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", no_library)
    backend = devices.make_backend(load(tmp_path, "nvml"))
    assert backend.source == "nvml"
    assert backend.read().error.startswith("libnvidia-ml.so.1 is not on this machine. Install the NVIDIA driver")


def test_new_process_finds_the_driver_by_itself(driver: Driver, library: Path, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "LD_LIBRARY_PATH": str(library.parent),
        "NVML_STUB_STATE": str(driver.path),
        "AUTOTRAINER_HOME": str(tmp_path / "home"),
    }
    command = [sys.executable, "-m", "gpuworker.probe"]
    done = subprocess.run(command, cwd=settings.CHECKOUT, env=environment, capture_output=True, text=True, timeout=30, check=True)
    told = json.loads(done.stdout)
    assert (told["source"], told["error"], len(told["devices"])) == ("nvml", "", 2)


# --- with the inventory --------------------------------------------------------------------------------------------------


@pytest.fixture
def inventory(backend: NvmlBackend, tmp_path: Path) -> Inventory:
    return Inventory(backend, load(tmp_path, "nvml"))


def test_device_with_a_foreign_training_is_in_use_and_one_with_a_desktop_is_not(driver: Driver, inventory: Inventory) -> None:
    driver.card(0, compute=f"4194399:{2 * GIB}", memory="40960 600 2048")
    driver.card(1, graphics=f"4194398:{2 * GIB}", memory="40960 600 2048", util=7)
    assert [device.in_use_outside for device in inventory.refresh().devices] == [True, False]
    reason = "A process (pid 4194399) uses it outside the queue: it holds 2,048 MiB."
    assert inventory.look([CARD.format(0), CARD.format(1)]) == {CARD.format(0): reason}


def test_refresh_of_eight_devices_is_cheap(driver: Driver, inventory: Inventory) -> None:
    driver.tell(count=8)
    for index in range(8):
        driver.card(index, compute=f"{os.getpid()}:{GIB}", shares=f"{os.getpid()}:50")
    inventory.refresh()
    # The stub itself opens and reads a file at each call; what is measured is that plus all of ours.
    begin = time.process_time()
    for _ in range(10):
        inventory.refresh()
    assert (time.process_time() - begin) / 10 < 0.05
