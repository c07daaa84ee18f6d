"""The arithmetic behind the benchmark's figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import table
from benchmarks.measure import percentile
from benchmarks.payload import Broken, Stamps

MS = 1_000_000


def stamps(tmp_path: Path, *lines: str) -> Stamps:
    found = Stamps(tmp_path / "payload")
    found.path.write_text("".join(f"{line}\n" for line in lines))
    return found


@pytest.mark.parametrize(("percent", "expected"), [(0, 1.0), (50, 2.5), (95, 3.85), (100, 4.0)])
def test_percentile_is_interpolated(percent: float, expected: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == pytest.approx(expected)


def test_gaps_are_taken_between_neighbours_on_the_same_device(tmp_path: Path) -> None:
    found = stamps(
        tmp_path, f"S a 0 {0 * MS}", f"S b 1 {1 * MS}", f"E a 0 {5 * MS}", f"E b 1 {6 * MS}", f"S c 0 {8 * MS}", f"E c 0 {9 * MS}"
    )
    assert found.poll().gaps_ms() == [3.0]


def test_gaps_refuse_two_jobs_at_once_on_one_device(tmp_path: Path) -> None:
    found = stamps(tmp_path, f"S a 0 {0 * MS}", f"S b 0 {1 * MS}", f"E a 0 {2 * MS}", f"E b 0 {3 * MS}").poll()
    with pytest.raises(Broken, match="at once on device 0"):
        found.gaps_ms()


def test_stamps_refuse_a_job_that_ran_twice(tmp_path: Path) -> None:
    with pytest.raises(Broken, match="ran twice"):
        stamps(tmp_path, "S a 0 1", "S a 0 2").poll()


def test_half_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    found = stamps(tmp_path, "S a 0 1")
    with found.path.open("a") as file:
        file.write("E a ")
        file.flush()
        assert found.poll().ends == {}
        file.write("0 2\n")
    assert found.poll().ends == {"a": 2}


def test_table_shows_ratios_and_the_disk_beside_them() -> None:
    both = {"ours": [10.0, 10.0], "celery": [4.0, 4.0]}
    log = {"ours": [2.0], "file": [1.6]}
    memory = {
        "idle": {"agent": {"processes": 1, "pss_mb": 60.0}},
        "fresh": {"agent": {"processes": 1, "pss_mb": 55.0}},
        "busy": {},
        "each_running_job": 1.25,
        "celery_worker": 50.0,
    }
    shown = table({"start_ms": both, "gap_ms": both, "jobs_per_s": both, "memory_mb": memory, "fsync_ms": [0.5], "log_s": log})
    assert "10.0 ms" in shown
    assert "2.50" in shown
    assert "1.25" in shown
    assert "0.50 ms (p50) for an fsync" in shown
