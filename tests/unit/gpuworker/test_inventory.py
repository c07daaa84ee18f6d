from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gpuworker import settings
from gpuworker.devices.base import Reading, Training
from gpuworker.devices.usage import Rule
from gpuworker.inventory import Inventory
from gpuworker.protocol import DeviceReading, ProcessReading
from gpuworker.shim import processes
from tests.waiting import wait_until

ALICE = ProcessReading(pid=4711, user="alice", command="python", memory_mib=300)


@dataclass
class FakeBackend:
    reading: Reading = field(default_factory=Reading)
    source: str = "nvml"
    lock_folder: Path = Path("/nowhere")
    reads: int = 0
    fault: Exception | None = None

    def read(self, trainings: Sequence[Training] = (), only: Collection[str] = ()) -> Reading:
        self.reads += 1
        if self.fault:
            raise self.fault
        return self.reading

    def mask_token(self, uuid: str) -> str:
        return uuid

    def shows(
        self, *processes: ProcessReading, used: int | None = 0, percent: float | None = 0, shares: Mapping[int, float] | None = None
    ) -> None:
        """The device G0 with these processes; `shares` is the utilisation of each where it is known."""
        device = DeviceReading(
            uuid="G0", index=0, name="A100", memory_total_mib=40960, memory_used_mib=used, utilization_pct=percent, processes=processes
        )
        self.reading = Reading((device,), process_utilization={("G0", pid): share for pid, share in (shares or {}).items()})


class Clock:
    now = 5000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def inventory(backend: FakeBackend, clock: Clock, tmp_path: Path) -> Inventory:
    return Inventory(backend, settings.load({"AUTOTRAINER_HOME": str(tmp_path), "AUTOTRAINER_HEARTBEAT_S": "0.02"}), clock=clock)


def in_use(inventory: Inventory) -> bool:
    return inventory.refresh().devices[0].in_use_outside


@pytest.mark.parametrize(
    ("memory_mib", "share", "percent", "used"),
    [
        (1024, 0.0, 0.0, True),
        (1023, 0.0, 0.0, False),
        (300, 5.0, 5.0, True),
        (300, 0.0, 90.0, False),  # Somebody else's utilisation, and the driver says whose.
        (300, None, 90.0, True),
        (300, None, 0.0, False),
        (300, None, None, True),  # Unknown is never free.
        (None, 0.0, 0.0, True),
        (0, 0.0, 0.0, False),
    ],
)
def test_device_counts_as_used_outside_by_memory_or_utilisation(
    inventory: Inventory, backend: FakeBackend, memory_mib: int | None, share: float | None, percent: float | None, used: bool
) -> None:
    process = ProcessReading(pid=9, user="bob", command="python", memory_mib=memory_mib)
    backend.shows(process, used=memory_mib, percent=percent, shares={} if share is None else {9: share})
    assert in_use(inventory) is used
    assert bool(inventory.look(["G0"])) is used


def test_process_that_computed_counts_for_half_an_hour(inventory: Inventory, backend: FakeBackend, clock: Clock) -> None:
    backend.shows(ALICE, percent=40, shares={4711: 40})
    assert in_use(inventory)
    backend.shows(ALICE, percent=0, shares={4711: 0})
    clock.now += 29 * 60
    assert in_use(inventory)
    assert inventory.look(["G0"]) == {"G0": "alice's python (pid 4711) uses it outside the queue: it computed 29 min ago."}
    clock.now += 2 * 60
    assert not in_use(inventory)


def test_process_that_takes_the_pid_of_one_that_computed_counts_as_new(inventory: Inventory, backend: FakeBackend) -> None:
    backend.shows(ALICE, percent=40, shares={4711: 40})
    inventory.refresh()
    backend.shows()
    inventory.refresh()
    backend.shows(ALICE, shares={4711: 0})
    assert not in_use(inventory)


def test_graphics_process_counts_as_memory_only(inventory: Inventory, backend: FakeBackend) -> None:
    backend.shows(ProcessReading(pid=7, user="root", command="Xorg", memory_mib=3000, graphics=True), used=3000, percent=12)
    assert not in_use(inventory)
    assert inventory.look(["G0"]) == {}


def test_our_own_process_is_marked_and_does_not_count_as_outside(inventory: Inventory, backend: FakeBackend) -> None:
    inventory.set_ours(lambda pid: pid == 4711)
    backend.shows(ProcessReading(pid=4711, memory_mib=9000), used=9000, percent=99, shares={4711: 99})
    device = inventory.refresh().devices[0]
    assert device.processes[0].ours
    assert not device.in_use_outside


def test_process_beside_our_training_is_not_blamed_for_its_utilisation_later(inventory: Inventory, backend: FakeBackend) -> None:
    ours = ProcessReading(pid=1, memory_mib=9000)
    inventory.set_ours(lambda pid: pid == 1)
    backend.shows(ours, ALICE, used=9300, percent=99)
    assert in_use(inventory)  # It may be hers, and nothing tells.
    backend.shows(ALICE, used=300, percent=30)  # The driver's average still has our training in it.
    assert in_use(inventory)
    backend.shows(ALICE, used=300, percent=0)
    assert not in_use(inventory)


def test_memory_that_nobody_visible_holds_counts_as_use_where_no_training_of_ours_has_the_device(
    inventory: Inventory, backend: FakeBackend
) -> None:
    backend.shows(ALICE, used=2000, shares={4711: 0})
    assert in_use(inventory)
    assert inventory.look(["G0"]) == {"G0": "1,700 MiB of it are in use by processes that cannot be seen from here."}
    inventory.set_trainings(lambda: [(("G0",), [1])])
    assert not in_use(inventory)


def test_look_names_a_training_of_ours_that_is_left_on_a_device(inventory: Inventory, backend: FakeBackend) -> None:
    inventory.set_ours(lambda pid: True)
    backend.shows(ALICE, used=300)
    assert inventory.look(["G0"]) == {"G0": "alice's python (pid 4711) of a training of ours is still on it."}


def test_look_refuses_what_is_broken_absent_or_cut_into_slices(inventory: Inventory, backend: FakeBackend) -> None:
    lost = DeviceReading(uuid="lost", index=0, name="A100", error="GPU is lost")
    cut = DeviceReading(uuid="cut", index=1, name="A100", allocatable=False)
    backend.reading = Reading((lost, cut))
    assert inventory.look(["lost", "cut", "absent"]) == {
        "lost": "GPU is lost",
        "cut": "It is cut into MIG slices: only those are handed out.",
        "absent": "It is not on this host.",
    }
    assert inventory.look([]) == {}


def test_look_refuses_all_devices_while_the_inventory_is_unknown(inventory: Inventory, backend: FakeBackend) -> None:
    backend.reading = Reading(error="NVML does not answer")
    assert inventory.look(["G0"]) == {"G0": "NVML does not answer"}
    assert inventory.refresh().error == "NVML does not answer"


def test_snapshot_says_that_nothing_is_known_before_the_first_reading(inventory: Inventory) -> None:
    assert inventory.snapshot().error == "The devices have not been read yet."


def test_thread_refreshes_and_survives_a_fault(inventory: Inventory, backend: FakeBackend) -> None:
    backend.shows()
    inventory.start()
    try:
        assert inventory.snapshot().device("G0") is not None
        backend.fault = OSError("boom")
        wait_until(lambda: inventory.snapshot().error == "The devices could not be read (OSError).", 5, "the fault to show")
        backend.fault = None
        wait_until(lambda: inventory.snapshot().devices, 5, "the devices to be back")
    finally:
        inventory.stop()
    assert not any(thread.name == "inventory" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("rule", "memory_mib", "share", "idle_s", "used"),
    [
        (Rule(memory_mib=4096), 4095, 0.0, None, False),
        (Rule(memory_mib=4096), 4096, 0.0, None, True),
        (Rule(memory_mib=100), 300, 0.0, None, True),
        (Rule(memory_mib=4096), None, 0.0, None, True),  # Unknown is never free, whatever the rule.
        (Rule(memory_mib=4096), 300, 5.0, None, True),
        (Rule(remembered_s=300), 300, 0.0, 299, True),
        (Rule(remembered_s=300), 300, 0.0, 301, False),
        (Rule(remembered_s=7200), 300, 0.0, 7199, True),
    ],
)
def test_rule_of_an_operator_says_what_counts_as_use(
    inventory: Inventory,
    backend: FakeBackend,
    clock: Clock,
    rule: Rule,
    memory_mib: int | None,
    share: float,
    idle_s: float | None,
    used: bool,
) -> None:
    inventory.set_rule(rule)
    process = ProcessReading(pid=9, user="bob", memory_mib=memory_mib)
    if idle_s is not None:
        backend.shows(process, used=memory_mib, shares={9: 50.0})
        inventory.refresh()
        clock.now += idle_s
    backend.shows(process, used=memory_mib, shares={9: share})
    assert in_use(inventory) is used
    assert bool(inventory.look(["G0"])) is used


def test_process_is_told_with_its_age_and_its_own_utilisation_and_unknown_is_none(inventory: Inventory, backend: FakeBackend) -> None:
    me, gone = ProcessReading(pid=os.getpid(), memory_mib=1), ProcessReading(pid=2**22 + 1, memory_mib=1)
    backend.shows(me, gone, used=2, shares={me.pid: 97.0})
    mine, theirs = inventory.refresh().devices[0].processes
    assert (mine.utilization_pct, mine.start_ticks) == (97.0, processes.start_ticks(os.getpid()))
    assert mine.age_s is not None
    assert 0 <= mine.age_s < 24 * 3600
    assert (theirs.utilization_pct, theirs.start_ticks, theirs.age_s) == (None, None, None)


def test_ignored_process_counts_as_memory_only_and_a_later_one_with_its_pid_does_not(inventory: Inventory, backend: FakeBackend) -> None:
    ticks = processes.start_ticks(os.getpid())
    assert ticks is not None
    backend.shows(ProcessReading(pid=os.getpid(), memory_mib=9000), used=9000, percent=90.0, shares={os.getpid(): 90.0})
    assert in_use(inventory)
    inventory.set_rule(Rule(ignored=frozenset({(os.getpid(), ticks)})))
    device = inventory.refresh().devices[0]
    assert (device.in_use_outside, [p.ignored for p in device.processes]) == (False, [True])
    assert inventory.look(["G0"]) == {}
    inventory.set_rule(Rule(ignored=frozenset({(os.getpid(), ticks - 1)})))
    assert in_use(inventory)
    assert inventory.look(["G0"])
