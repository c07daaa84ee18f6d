"""Spark lines: a value a minute for an hour, whoever leads, and gaps where nobody looked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpuworker.envelope import PROTOCOL_VERSION
from gpuworker.protocol import Beat, DeviceReading
from jobs import rings
from jobs.hostlink import Heard
from jobs.rings import MINUTES, Rings

BEGIN = 60 * 10_000.0


@pytest.fixture(autouse=True)
def home(settings: Any, tmp_path: Path) -> Path:
    settings.LOGS_HOME = tmp_path / "logs"
    return tmp_path / "rings"


def heard(at: float, percent: float | None = 50.0, memory: int | None = 100, *, error: str = "", age_s: float = 0.0) -> dict[str, Heard]:
    device = DeviceReading(uuid="G0", index=0, name="G", memory_used_mib=memory, utilization_pct=percent, error=error)
    told = {"boot_id": "b", "agent_version": "0", "device_source": "nvml", "job_slots": 1}
    return {"gpu-a": Heard(Beat(host="gpu-a", at=at, devices=(device,), **told), age_s, PROTOCOL_VERSION)}


def note(ring: Rings, at: float, *values: Any, **more: Any) -> None:
    ring.note(heard(at, *values, **more), now_s=at, fresh_s=5)


def last(at: float, count: int = 3) -> tuple[list[float | None], list[int | None]]:
    hour = rings.hours(["gpu-a"], now_s=at)["G0"]
    assert len(hour.utilization_pct) == len(hour.memory_used_mib) == MINUTES
    return hour.utilization_pct[-count:], hour.memory_used_mib[-count:]


def test_minute_is_the_mean_use_and_the_highest_memory() -> None:
    ring = Rings()
    for second, percent, memory in ((0, 10.0, 5), (20, 30.0, 900), (40, None, 7)):
        note(ring, BEGIN + second, percent, memory)
    note(ring, BEGIN + 40, 99.0, 99)  # the same heartbeat again
    assert rings.hours(["gpu-a"], now_s=BEGIN + 59) == {}
    note(ring, BEGIN + 60, 80.0, 1)
    note(ring, BEGIN + 121)
    assert last(BEGIN + 121) == ([None, 20.0, 80.0], [None, 900, 1])


def test_gap_stays_a_gap_and_an_hour_is_all_that_is_kept() -> None:
    ring = Rings()
    note(ring, BEGIN)
    note(ring, BEGIN + 180)
    assert last(BEGIN + 180, 4) == ([None, 50.0, None, None], [None, 100, None, None])
    assert last(BEGIN + 300, 4) == ([None] * 4, [None] * 4)  # nobody has led since
    for minute in range(4, 100):
        note(ring, BEGIN + 60 * minute)
    hour = rings.hours(["gpu-a"], now_s=BEGIN + 60 * 99)["G0"]
    assert hour.utilization_pct == [50.0] * MINUTES
    assert rings.hours(["gpu-a"], now_s=BEGIN + 60 * 200) == {}


def test_next_leader_goes_on_with_what_the_last_one_wrote() -> None:
    first = Rings()
    note(first, BEGIN)
    note(first, BEGIN + 60)
    second = Rings()
    note(second, BEGIN + 61, 70.0)
    note(second, BEGIN + 120)
    assert last(BEGIN + 120)[0] == [None, 50.0, 70.0]


@pytest.mark.parametrize("how", [{"error": "lost"}, {"age_s": 6.0}])
def test_reading_that_failed_or_is_old_counts_for_nothing(how: dict[str, Any]) -> None:
    ring = Rings()
    note(ring, BEGIN, **how)
    note(ring, BEGIN + 60)
    note(ring, BEGIN + 120)
    assert last(BEGIN + 120)[0] == [None, None, 50.0]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"minute": 9999}'])
def test_strange_file_is_no_ring(home: Path, text: str) -> None:
    home.mkdir()
    (home / "gpu-a.json").write_text(text)
    assert rings.hours(["gpu-a"], now_s=BEGIN) == {}
    note(Rings(), BEGIN)
