"""The parts of the shim that need no process of their own."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

import pytest

import gpuworker.shim
from gpuworker import identity
from gpuworker.shim import locks, processes, records
from gpuworker.shim.processes import Process

FOLDER = Path(str(gpuworker.shim.__file__)).parent


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize(
    "path", [*sorted(FOLDER.glob("*.py")), FOLDER.parent / "disks.py", FOLDER.parent / "logcap.py"], ids=lambda path: path.name
)
def test_shim_imports_nothing_but_the_standard_library_and_itself(path):
    foreign = {name for name in imports_of(path) if name.split(".")[0] not in sys.stdlib_module_names}
    ours = ("gpuworker.shim", "gpuworker.failpoints")
    assert {name for name in foreign if not name.startswith(ours)} <= {"gpuworker", "gpuworker.disks", "gpuworker.logcap"}
    assert imports_of(FOLDER.parent / "disks.py") <= sys.stdlib_module_names


def test_record_comes_back_as_it_was_written(tmp_path):
    body = {"text": "é\udcff", "number": 1.5, "none": None}
    records.write_record(tmp_path, "a.json", body)
    assert records.read_record(tmp_path, "a.json") == body
    folder = os.open(tmp_path, os.O_RDONLY)
    assert records.read_record(folder, "a.json") == body
    os.close(folder)
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"a":', "\x00\x00", "\xff"])
def test_record_that_a_power_cut_has_spoilt_is_none(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    assert records.read_record(tmp_path, "a.json") is None


def test_record_of_a_folder_that_is_not_there_is_none(tmp_path):
    assert records.read_record(tmp_path / "gone", "a.json") is None


def test_record_that_cannot_be_written_leaves_the_old_one_and_no_litter(tmp_path, monkeypatch):
    records.write_record(tmp_path, "a.json", {"old": 1})

    def full_disk(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        records.write_record(tmp_path, "a.json", {"new": 1})
    assert os.listdir(tmp_path) == ["a.json"]
    assert records.read_record(tmp_path, "a.json") == {"old": 1}


def test_lock_path_is_flat_for_every_kind_of_uuid():
    assert locks.lock_path("/run/lock", "GPU-1") == "/run/lock/autotrainer-GPU-1.lock"
    assert locks.lock_path(Path("/run/lock"), "MIG-GPU-1/7/0") == "/run/lock/autotrainer-MIG-GPU-1_7_0.lock"


def test_locks_that_cannot_all_be_had_are_all_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE_S", 0.0)
    first, second = (locks.lock_path(tmp_path, name) for name in ("a", "b"))
    held = locks.take_all([second])
    with pytest.raises(locks.Taken, match="autotrainer-b"):
        locks.take_all([first, second])
    assert not identity.is_taken(first)
    assert identity.is_taken(second)
    locks.drop(held)
    assert not identity.is_taken(second)


def test_locks_that_are_shared_keep_out_who_wants_them_alone(tmp_path: Path) -> None:
    path = locks.lock_path(tmp_path, "u1")
    one, two = locks.take_all([path], shared=True), locks.take_all([path], shared=True)
    locks.drop(one)
    with pytest.raises(locks.Taken):
        locks.take_all([path])
    assert identity.is_taken(path)
    locks.drop(two)
    alone = locks.take_all([path])
    with pytest.raises(locks.Taken):
        locks.take_all([path], shared=True)
    locks.drop(alone)


def table(*rows: tuple[int, int, int]) -> processes.Table:
    return {pid: Process(pid, parent, session, 100 + pid, False) for pid, parent, session in rows}


def test_descendants_are_found_at_every_depth_and_nobody_elses():
    everyone = table((1, 0, 1), (5, 1, 5), (6, 5, 5), (7, 6, 7), (8, 1, 8), (9, 8, 8))
    assert sorted(process.pid for process in processes.descendants([5], everyone)) == [6, 7]


def test_own_process_is_known_by_its_start():
    pid, ticks = os.getpid(), processes.start_ticks(os.getpid())
    assert ticks is not None
    assert identity.alive(pid, ticks, processes.boot_id())
    assert not identity.alive(pid, ticks + 1, processes.boot_id())
    assert not identity.alive(pid, ticks, "another boot")
    assert processes.start_ticks(2**22 + 1) is None


def test_signal_is_not_sent_to_a_later_process_with_the_same_pid():
    pid = os.getpid()
    earlier = Process(pid, 1, pid, (processes.start_ticks(pid) or 0) - 1, False)
    assert not processes.send_signal(earlier, 9)
    assert processes.send_signal(Process(pid, 1, pid, processes.start_ticks(pid) or 0, False), 0)


def test_own_session_is_told_from_a_strangers_with_the_same_pid(monkeypatch):
    """The leader of our session has ended; members remain. Later another process has that pid: its session is not ours."""
    everyone = table((20, 1, 10), (30, 1, 30))
    monkeypatch.setattr(processes, "table", lambda: everyone)
    monkeypatch.setattr(processes, "marked", lambda mark, table: [])
    assert [process.pid for process in processes.tree("x", (10, 110))] == [20]
    assert processes.tree("x", (30, 7)) == []
