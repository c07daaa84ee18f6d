"""Power cuts at every moment: no state that a disk can be left in loses a user's file or an exit code.

The real code runs and is recorded; each state that may be left of it is made on disk, and the real recovery runs on that.
Beside it the obvious ways of doing the same, which must fail: else this test could not see what it is for.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gpuworker.shim import records
from gpuworker.shim.swaps import swapping
from gpuworker.shim.swaps.inuse import RECORD
from tests.faults.crashstates import Disk, Recording, Sync, crash_states, materialise, recorded

OLD, NEW = b"LR = 0.1\n", b"LR = 0.25\n"
COPIES = [f"swap-{index}.{kind}" for index in range(3) for kind in ("old", "new")]
"""What the attempt directory keeps for the launch and for people; putting back reads none of it."""


class Bench:
    """A code base, an attempt directory, and a place in memory where states are made."""

    def __init__(self, home: Path, memory: Path) -> None:
        self.code, self.attempts, self.made = home / "code", home / "attempts", memory / "made"
        self.attempt, self.new = self.attempts / "job.1.1", home / "new.py"
        for folder in (self.code, self.attempt, home / "locks"):
            folder.mkdir(parents=True)
        (self.code / "loss.py").write_bytes(OLD)
        self.new.write_bytes(NEW)
        self.home = home

    def swaps(self, *targets: str) -> swapping.Swaps:
        wanted = [{"target": target, "source": str(self.new)} for target in targets]
        launch = {"number": 7, "swaps": wanted, "swap_way": "journal", "swap_locks": str(self.home / "locks")}
        return swapping.Swaps(launch, os.open(self.attempt, os.O_RDONLY))

    def states(self, recording: Recording, **which: Any) -> Iterator[dict[str, Path]]:
        for disk in crash_states(recording, **which):
            yield self.make(disk, recording)

    def make(self, disk: Disk, recording: Recording) -> dict[str, Path]:
        return materialise(disk, recording, self.made, told=self.told)

    def told(self, data: bytes, inodes: Mapping[int, int]) -> bytes:
        """swap.json with the paths and inodes of the directories that were made."""
        try:
            record = json.loads(data)
            for entry in record["files"]:
                entry["root"] = str(self.made / "code")
                entry["inode"] = inodes.get(entry["inode"], 0)
        except (ValueError, TypeError, KeyError):
            return data
        return json.dumps(record).encode()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="at-crash-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path) as memory:
        made = Bench(tmp_path, Path(memory))
        monkeypatch.chdir(made.code)
        yield made


def recover(roots: Mapping[str, Path]) -> None:
    """What a started agent does with an attempt directory of before the power cut."""
    attempt = roots["attempts"] / "job.1.1"
    record = records.read_record(attempt, RECORD)
    if record is not None:
        swapping.put_back(attempt, record)


def tree(root: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in sorted(root.rglob("*"))}


def wrong(bench: Bench, recording: Recording, recovery: Callable[[Mapping[str, Path]], None]) -> tuple[int, int]:
    """How many states are not as before after the recovery (done twice: it may be interrupted), and of how many."""
    bad = count = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)  # The recovery is not what is recorded here, and the disk is slow.
        for roots in bench.states(recording):
            count += 1
            recovery(roots)
            first = tree(roots["code"])
            recovery(roots)
            bad += not (first == tree(roots["code"]) == {"loss.py": OLD})
    return bad, count


TARGETS = [("loss.py",), ("conf/deep/x.yaml",), ("loss.py", "new.py", "conf/x.yaml")]


@pytest.mark.parametrize("targets", TARGETS, ids=["present", "absent", "three"])
@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_every_state_of_swap_and_restore_recovers(
    bench: Bench, targets: tuple[str, ...], links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refuse_links)
    with recorded(COPIES, code=bench.code, attempts=bench.attempts) as recording:
        swaps = bench.swaps(*targets)
        swaps.prepare()
        swaps.put_back()
    assert tree(bench.code) == {"loss.py": OLD}
    monkeypatch.undo()
    bad, count = wrong(bench, recording, recover)
    assert bad == 0
    assert count > 30


def refuse_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_every_state_of_an_interrupted_recovery_recovers(bench: Bench) -> None:
    swaps = bench.swaps("loss.py", "new.py")
    swaps.prepare()
    with recorded(COPIES, code=bench.code, attempts=bench.attempts) as recording:
        swaps.put_back()
    bad, count = wrong(bench, recording, recover)
    assert (bad, count > 10) == (0, True)


def test_every_state_of_a_conflict_keeps_both_files(bench: Bench) -> None:
    swaps = bench.swaps("loss.py")
    swaps.prepare()
    (bench.code / "loss.py").write_bytes(b"mine\n")
    with recorded(COPIES, code=bench.code, attempts=bench.attempts) as recording:
        swaps.put_back()
    for roots in bench.states(recording):
        recover(roots)
        recover(roots)
        assert tree(roots["code"]) == {"loss.py": b"mine\n", "loss.py.original-of-job-7": OLD}


def test_swapped_file_is_whole_in_every_state_after_the_launch(bench: Bench) -> None:
    with recorded(COPIES, code=bench.code, attempts=bench.attempts) as recording:
        bench.swaps("loss.py").prepare()
    whole = [(roots["code"] / "loss.py").read_bytes() for roots in bench.states(recording, after=len(recording.operations))]
    assert set(whole) == {NEW}


# --- what must fail -----------------------------------------------------------------------------------------------------


def naively(bench: Bench) -> None:
    """Copy the original aside, copy the new one over it, copy the original back."""
    target, aside = bench.code / "loss.py", bench.code / "loss.py.bak"
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(target.read_bytes())
    with open(os.open(target, os.O_WRONLY | os.O_TRUNC), "wb") as file:
        file.write(NEW)
    with open(os.open(target, os.O_WRONLY | os.O_TRUNC), "wb") as file:
        file.write(OLD)
    os.unlink(aside)


def recover_naively(roots: Mapping[str, Path]) -> None:
    aside = roots["code"] / "loss.py.bak"
    if aside.exists():
        shutil.move(aside, roots["code"] / "loss.py")


def test_the_naive_swap_loses_files(bench: Bench) -> None:
    with recorded(COPIES, code=bench.code, attempts=bench.attempts) as recording:
        naively(bench)
    bad, count = wrong(bench, recording, recover_naively)
    assert bad > count / 4, f"{bad} of {count}"


def test_the_journal_without_fsync_loses_files(bench: Bench) -> None:
    with recorded(COPIES, code=bench.code, attempts=bench.attempts) as recording:
        bench.swaps("loss.py").prepare()
    recording.operations = [each for each in recording.operations if not isinstance(each, Sync)][:MOST_OPERATIONS]
    bad, count = wrong(bench, recording, recover)
    assert bad > count / 10, f"{bad} of {count}"


MOST_OPERATIONS = 8
"""Without fsync everything waits for ever, and the states double with each operation."""


# --- records ------------------------------------------------------------------------------------------------------------

FIRST, SECOND = {"exit_code": 3, "message": "first"}, {"exit_code": 0, "message": "second, and longer"}


def test_record_is_whole_or_absent_in_every_state_and_there_once_written(bench: Bench) -> None:
    with recorded(attempts=bench.attempts) as recording:
        records.write_record(bench.attempt, "exit.json", FIRST)
    assert all(read(roots) in (None, FIRST) for roots in bench.states(recording))
    written = [read(roots) for roots in bench.states(recording, after=len(recording.operations))]
    assert written
    assert all(each == FIRST for each in written)


def test_record_that_is_replaced_is_the_old_or_the_new_one_in_every_state(bench: Bench) -> None:
    records.write_record(bench.attempt, "exit.json", FIRST)
    with recorded(attempts=bench.attempts) as recording:
        records.write_record(bench.attempt, "exit.json", SECOND)
    seen = [read(roots) for roots in bench.states(recording)]
    assert all(each in (FIRST, SECOND) for each in seen)
    assert all(read(roots) == SECOND for roots in bench.states(recording, after=len(recording.operations)))


@pytest.mark.parametrize("durable", [False, None], ids=["renamed without fsync", "written in place"])
def test_a_record_written_the_obvious_way_is_lost(bench: Bench, durable: bool | None) -> None:
    with recorded(attempts=bench.attempts) as recording:
        if durable is None:
            with open(os.open(bench.attempt / "exit.json", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                file.write(json.dumps(FIRST).encode())
        else:
            records.write_record(bench.attempt, "exit.json", FIRST, durable=False)
    written = [read(roots) for roots in bench.states(recording, after=len(recording.operations))]
    assert None in written


def read(roots: Mapping[str, Path]) -> dict[str, Any] | None:
    return records.read_record(roots["attempts"] / "job.1.1", "exit.json")
