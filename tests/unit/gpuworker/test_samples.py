"""What an attempt used of its devices: the peak, and a series that stays small."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from gpuworker import protocol, samples
from gpuworker.attempts import AttemptDir, TakenDevice
from gpuworker.inventory import Inventory, Snapshot
from gpuworker.measured import MOST_POINTS, Measured
from gpuworker.protocol import DeviceReading, ProcessReading
from gpuworker.roster import Roster, Supervised
from gpuworker.samples import Sampler, Series
from gpuworker.tail import Tail


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Shown:
    """An inventory of which a test says what it has read."""

    seen: Snapshot = field(default_factory=lambda: Snapshot((), "", 0.0))

    def snapshot(self) -> Snapshot:
        return self.seen

    def shows(self, *devices: DeviceReading) -> None:
        self.seen = Snapshot(devices, "", self.seen.at + 1)


@dataclass
class Bench:
    folder: Path
    shown: Shown = field(default_factory=Shown)
    clock: Clock = field(default_factory=Clock)
    told: list[Measured] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.one = self.supervised("job-a", TakenDevice("G0", 0, "0"), TakenDevice("G1", 1, "1"))
        self.restart()

    def restart(self) -> None:
        """As an agent does: what it knew is gone, what it wrote is there."""
        self.one.peak_memory_mib = None
        self.roster = Roster(self.folder)
        self.roster.enter(self.one)
        self.sampler = Sampler(cast(Inventory, self.shown), self.roster, self.told.append, step_s=2.0, clock=self.clock)

    def supervised(self, job: str, *taken: TakenDevice, **changes: Any) -> Supervised:
        named = {"job": job, "number": 7, "name": "a job", "attempt": 1, "fence": 10, "expires_at": 0.0, "command": "true"}
        rest = {"working_dir": "/", "device_count": len(taken), "devices": tuple(d.uuid for d in taken), "env": {}}
        spec = protocol.Spec(**{**named, **rest, **changes})
        attempt = AttemptDir(self.folder / f"{job}.1.10")
        attempt.path.mkdir(parents=True)
        return Supervised(attempt.key, spec, attempt, taken, shim_pid=1)

    def turn(self, *devices: DeviceReading) -> None:
        self.shown.shows(*devices)
        self.clock.now += 2
        self.sampler.turn()

    def file(self, index: int = 0) -> dict[str, Any]:
        body: dict[str, Any] = json.loads((self.one.attempt.path / f"samples-{index}.json").read_text())
        return body


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def process(memory_mib: int | None, *, pid: int = 11, ours: bool = True) -> ProcessReading:
    return ProcessReading(pid=pid, memory_mib=memory_mib, ours=ours)


def device(index: int, *processes: ProcessReading, used: int | None = 10, percent: float | None = 50.0, error: str = "") -> DeviceReading:
    return DeviceReading(
        uuid=f"G{index}", index=index, name="G", memory_used_mib=used, utilization_pct=percent, processes=processes, error=error
    )


def test_peak_is_the_most_of_all_its_processes_on_one_device(bench: Bench) -> None:
    bench.turn(device(0, process(500), process(300, pid=12), process(9000, pid=13, ours=False)), device(1, process(100)))
    assert bench.one.peak_memory_mib == 800
    bench.turn(device(0, process(10)), device(1, process(900)))
    assert bench.one.peak_memory_mib == 900
    bench.turn(device(0), device(1))
    assert bench.one.peak_memory_mib == 900


@pytest.mark.parametrize(
    "unreadable",
    [device(0, process(None)), device(0, process(4), process(None)), device(0, used=None), device(0, used=5000), device(0, error="lost")],
)
def test_peak_is_not_known_where_memory_cannot_be_read(bench: Bench, unreadable: DeviceReading) -> None:
    bench.turn(unreadable)
    assert bench.one.peak_memory_mib is None
    assert samples.peak_of(bench.one) is None


def test_peak_is_zero_where_it_used_nothing(bench: Bench) -> None:
    bench.turn(device(0))
    assert bench.one.peak_memory_mib == 0


def test_peak_leaves_out_who_had_the_device_before(bench: Bench) -> None:
    bench.shown.shows(device(0, process(5730)))
    bench.one.watched_since = bench.shown.seen.at + 0.5
    bench.sampler.turn()
    assert samples.peak_of(bench.one) is None
    bench.turn(device(0, process(3680)))
    assert samples.peak_of(bench.one) == 3680


@pytest.mark.parametrize(
    ("said", "peak"),
    [(b"", 700), (b"CUDA out of memory. This process has 5.00 GiB memory in use.", 5120), (b"CUDA out of memory.", 700)],
)
def test_peak_is_at_least_what_the_training_said_when_it_ran_out(bench: Bench, said: bytes, peak: int) -> None:
    bench.one.tail = Tail(bench.one.attempt.path, job="job-a", attempt=1, fence=10, adopted=False)
    bench.one.tail.oom.feed(said)
    bench.turn(device(0, process(700)))
    assert samples.peak_of(bench.one) == peak


def test_peak_of_zero_is_not_believed_when_it_ran_out(bench: Bench) -> None:
    bench.one.tail = Tail(bench.one.attempt.path, job="job-a", attempt=1, fence=10, adopted=False)
    bench.one.tail.oom.feed(b"CUDA out of memory.")
    bench.turn(device(0))
    assert samples.peak_of(bench.one) is None


def test_peak_of_a_sharer_leaves_out_its_neighbour(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sharer = bench.supervised("job-b", TakenDevice("G2", 2, "2"), shared=True, gpu_memory_mib=4000)
    bench.roster.enter(sharer)
    monkeypatch.setattr(samples, "below", lambda pid: {11})
    bench.turn(device(2, process(700), process(6000, pid=12)))
    assert sharer.peak_memory_mib == 700


def test_samples_are_written_and_taken_up_by_the_next_agent(bench: Bench) -> None:
    bench.turn(device(0, process(700)), device(1, process(None)))
    assert bench.file() == {
        "uuid": "G0",
        "began_at": 1002.0,
        "step_s": 2.0,
        "memory_mib": [700],
        "utilization_pct": [50.0],
        "peak_memory_mib": 700,
    }
    assert (bench.file(1)["memory_mib"], bench.file(1)["peak_memory_mib"]) == ([None], None)
    bench.restart()
    assert samples.peak_of(bench.one) == 700
    bench.turn(device(0, process(600)))
    assert bench.one.peak_memory_mib == 700
    assert bench.file()["memory_mib"] == [700, 600]


def test_samples_are_written_a_last_time_when_it_has_ended(bench: Bench) -> None:
    bench.turn(device(0, process(700)))
    bench.turn(device(0, process(800)))
    assert bench.file()["peak_memory_mib"] == 700  # ten seconds have not passed
    bench.one.tree_empty = True
    bench.turn()
    assert bench.file()["peak_memory_mib"] == 800


def test_same_snapshot_is_no_new_sample(bench: Bench) -> None:
    bench.turn(device(0, process(700)))
    bench.clock.now += 100
    bench.sampler.turn()
    bench.one.tree_empty = True
    bench.turn()
    assert bench.file()["memory_mib"] == [700]


@pytest.mark.parametrize("strange", ['{"version": 9}', '{"uuid": "G0", "began_at": 1, "step_s": 1, "peak_memory_mib": "x"}', "", "[]"])
def test_full_disk_and_a_file_of_another_version_stop_nothing(bench: Bench, strange: str) -> None:
    (bench.one.attempt.path / "samples-0.json").write_text(strange)
    (bench.one.attempt.path / "samples-1.json").mkdir()  # cannot be replaced by a file
    assert samples.peak_of(bench.one) is None
    bench.turn(device(0, process(700)))
    assert bench.one.peak_memory_mib == 700
    assert bench.file()["memory_mib"] == [700]


def test_series_covers_any_length_in_a_bounded_number_of_points() -> None:
    series = Series("G0", 0.0, 1.0)
    for second in range(100_000):
        series.add(second, memory_mib=second % 7, utilization_pct=None)
    series.add(100_000, memory_mib=5000, utilization_pct=90.0)
    assert MOST_POINTS / 2 < len(series.memory_mib) == len(series.utilization_pct) <= MOST_POINTS
    assert series.step_s == 128.0
    assert len(series.memory_mib) == 100_000 // 128 + 1
    assert (series.memory_mib[0], series.memory_mib[-1], series.utilization_pct[0]) == (6, 5000, None)
    assert series.peak_memory_mib == 5000


def test_series_has_gaps_where_nobody_looked_and_bears_a_clock_that_jumps() -> None:
    series = Series("G0", 1000.0, 2.0)
    for at in (1000.0, 1006.0, 1.0):
        series.add(at, memory_mib=int(at), utilization_pct=1.0)
    assert series.memory_mib == [1000, None, None, 1006]
    series.add(4e9, memory_mib=1, utilization_pct=1.0)
    assert len(series.memory_mib) <= MOST_POINTS


# --- what the control plane is told -------------------------------------------------------------------------------------


def test_control_plane_is_told_soon_now_and_then_and_at_the_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(samples.time, "monotonic", lambda: now)
    monkeypatch.setattr(bench.one, "watched_since", -1.0)
    for _ in range(30):
        bench.turn(device(0, process(100)), device(1, process(7)))
        now += 2
    assert [len(told.series[0].memory_mib) for told in bench.told] == [2, 12, 22]
    bench.roster.leave(bench.one.key)
    bench.turn(device(0), device(1))
    last = bench.told[-1]
    assert (last.job, last.attempt, last.fence) == ("job-a", 1, 10)
    assert [(s.uuid, s.index, s.memory_mib[-1], s.utilization_pct[-1]) for s in last.series] == [("G0", 0, 100, 50.0), ("G1", 1, 7, 50.0)]
    assert len(last.series[0].memory_mib) == 30
    assert len(bench.told) == 4


def test_series_of_an_attempt_that_ended_unseen_are_those_on_disk(bench: Bench) -> None:
    assert samples.measured(bench.one) is None
    bench.turn(device(0, process(100)), device(1, process(7)))
    told = samples.measured(bench.one)
    assert told
    assert [series.memory_mib for series in told.series] == [(100,), (7,)]
