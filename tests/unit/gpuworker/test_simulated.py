from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gpuworker.devices.simulated import SimulatedBackend, simulated_uuid
from gpuworker.settings import SimulatedDevices

GONE = 2**22 + 1  # above the largest pid_max: never a process


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(tmp_path: Path, clock: Clock) -> Callable[[], SimulatedBackend]:
    (tmp_path / "sim").mkdir()
    return lambda: SimulatedBackend(SimulatedDevices(4, 24576), host="h1", host_home=tmp_path, sim_dir=tmp_path / "sim", clock=clock)


def test_devices_keep_their_uuids_over_restarts_and_differ_between_hosts(make: Callable[[], SimulatedBackend]) -> None:
    first, second = make().read(), make().read()
    uuids = [device.uuid for device in first.devices]
    assert uuids == [device.uuid for device in second.devices]
    assert len(set(uuids)) == 4
    assert uuids[0] == simulated_uuid("h1", 0) != simulated_uuid("h2", 0)
    assert all(uuid.startswith("SIM-") for uuid in uuids)


def test_idle_devices_show_nothing_in_use(make: Callable[[], SimulatedBackend]) -> None:
    device = make().read().devices[3]
    assert (device.index, device.name, device.memory_total_mib) == (3, "Simulated GPU 24GiB", 24576)
    assert (device.memory_used_mib, device.utilization_pct, device.processes) == (0, 0.0, ())
    assert device.simulated
    assert device.allocatable
    assert device.error == ""


def test_load_that_a_training_reports_shows_on_each_of_its_devices(make: Callable[[], SimulatedBackend], tmp_path: Path) -> None:
    backend = make()
    (tmp_path / "sim" / str(os.getpid())).write_text("2048 83\n")
    reading = backend.read([(backend.uuids[1:3], [os.getpid()])])
    assert [d.memory_used_mib for d in reading.devices] == [0, 2048, 2048, 0]
    assert reading.devices[1].utilization_pct == 83
    process = reading.devices[2].processes[0]
    assert (process.pid, process.memory_mib) == (os.getpid(), 2048)
    assert process.user
    assert "python" in process.command
    assert reading.process_utilization[backend.uuids[1], os.getpid()] == 83


def test_load_of_two_processes_of_one_training_adds_up(make: Callable[[], SimulatedBackend], tmp_path: Path) -> None:
    backend = make()
    (tmp_path / "sim" / str(os.getpid())).write_text("2048 70")
    (tmp_path / "sim" / str(os.getppid())).write_text("1024 70")
    device = backend.read([(backend.uuids[:1], [os.getpid(), os.getppid()])]).devices[0]
    assert (device.memory_used_mib, device.utilization_pct) == (3072, 100)


def test_silent_training_counts_as_a_share(make: Callable[[], SimulatedBackend]) -> None:
    backend = make()
    device = backend.read([(backend.uuids[:1], [GONE, os.getpid()])]).devices[0]
    assert device.memory_used_mib == 6144
    assert device.utilization_pct is not None
    assert 50 < device.utilization_pct < 70
    assert [process.pid for process in device.processes] == [os.getpid()]


def test_training_whose_processes_have_ended_shows_no_load(make: Callable[[], SimulatedBackend]) -> None:
    backend = make()
    assert backend.read([(backend.uuids[:1], [GONE])]).devices[0].processes == ()


def test_file_with_an_index_is_a_process_outside_the_queue(make: Callable[[], SimulatedBackend], tmp_path: Path) -> None:
    (tmp_path / "sim" / f"{GONE}@2").write_text("4096 50")
    reading = make().read()
    assert [d.memory_used_mib for d in reading.devices] == [0, 0, 4096, 0]
    assert reading.devices[2].processes[0].pid == GONE
    assert (tmp_path / "sim" / f"{GONE}@2").exists()


@pytest.mark.parametrize("text", ["", "12", "x y", "-1 5", "1 101", "nan 5", "1 2 3", "1e300 5", "\xff"])
def test_load_file_that_says_nonsense_counts_as_silent(make: Callable[[], SimulatedBackend], tmp_path: Path, text: str) -> None:
    (tmp_path / "sim" / str(os.getpid())).write_text(text, encoding="latin-1")
    (tmp_path / "sim" / "notes.txt").write_text("4096 50")
    backend = make()
    assert backend.read([(backend.uuids[:1], [os.getpid()])]).devices[0].memory_used_mib == 6144


def test_load_file_of_a_process_that_is_gone_is_taken_away(make: Callable[[], SimulatedBackend], tmp_path: Path) -> None:
    left = tmp_path / "sim" / str(GONE)
    left.write_text("4096 50")
    make().read()
    assert not left.exists()


def test_temperature_and_power_follow_the_load_slowly(make: Callable[[], SimulatedBackend], tmp_path: Path, clock: Clock) -> None:
    backend = make()
    idle = backend.read().devices[0]
    (tmp_path / "sim" / str(os.getpid())).write_text("2048 100")
    seen = []
    for _ in range(60):
        clock.now += 2
        seen.append(backend.read([(backend.uuids[:1], [os.getpid()])]).devices[0])
    temperatures = [device.temperature_c or 0 for device in seen]
    assert idle.temperature_c is not None
    assert idle.temperature_c <= temperatures[0] < 40
    assert temperatures == sorted(temperatures)
    assert 70 < temperatures[-1] < 80
    powers = [device.power_w or 0 for device in seen]
    assert powers[0] < 200 < powers[10] <= 350


def test_reading_of_some_devices_holds_only_those(make: Callable[[], SimulatedBackend]) -> None:
    backend = make()
    assert [d.uuid for d in backend.read(only=backend.uuids[2:3]).devices] == [backend.uuids[2]]
    assert backend.mask_token(backend.uuids[2]) == "2"
