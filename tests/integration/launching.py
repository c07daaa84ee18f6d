"""Real attempts for tests: a launcher on a home of its own, and the clean-up of what it started."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpuworker import groups, settings
from gpuworker.attempts import AttemptDir, AttemptState, ShimClient, ShimLives, TakenDevice, all_attempts
from gpuworker.launcher import Launched, LaunchedOrRefused, Launcher
from gpuworker.protocol import EndReason, Spec
from gpuworker.shim import processes
from tests.waiting import wait_until

PROGRAMS = Path(__file__).resolve().parent.parent / "programs"
PYTHON = sys.executable
GPU_0, GPU_1 = TakenDevice("GPU-aa", 0, "0"), TakenDevice("GPU-bb", 1, "1")


class Lab:
    """One host's attempts."""

    def __init__(self, home: Path, *, group_parent: str | None = None, stuck_after_s: float = 60.0, **variables: str) -> None:
        """`group_parent`: empty for the subreaper's way; None for the agent's choice."""
        self.home = home
        given = {"AUTOTRAINER_HOME": str(home), "AUTOTRAINER_HOST": "lab", "AUTOTRAINER_SHELL": "bash"} | variables
        self.settings = settings.load(given)
        self.lock_folder = home / "locks"
        self.lock_folder.mkdir(parents=True)
        parent = groups.parent_for() if group_parent is None else group_parent
        self.launcher = Launcher(self.settings, lock_folder=self.lock_folder, group_parent=parent, stuck_after_s=stuck_after_s)
        self.token = secrets.token_hex(4)
        """Marks and groups are for the whole machine, where other runs of these tests may be."""
        self._fence = 0

    def spec(self, command: str, **changes: Any) -> Spec:
        self._fence += 1
        fields: dict[str, Any] = {
            "job": f"job-{self._fence}-{self.token}",
            "number": self._fence,
            "name": "a job",
            "attempt": 1,
            "fence": self._fence,
            "expires_at": 0.0,
            "command": command,
            "working_dir": str(self.home),
            "device_count": 0,
            "devices": (),
            "env": {},
            "kill_grace_s": 0.5,
        }
        return Spec(**(fields | changes))

    def try_to_launch(self, command: str, *taken: TakenDevice, **changes: Any) -> LaunchedOrRefused:
        return self.launcher.launch(self.spec(command, **changes), taken, sealed="sealed")

    def launch(self, command: str, *taken: TakenDevice, **changes: Any) -> AttemptDir:
        launched = self.try_to_launch(command, *taken, **changes)
        assert isinstance(launched, Launched), launched
        return launched.attempt

    def run(self, command: str, *taken: TakenDevice, **changes: Any) -> tuple[dict[str, Any], str]:
        """exit.json and the log of a command that has ended."""
        attempt = self.launch(command, *taken, **changes)
        return ended(attempt), attempt.log_path.read_text() if attempt.log_path.exists() else ""

    def family(self, kind: str, **changes: Any) -> tuple[AttemptDir, Path]:
        """A running program of tests/programs/family.py, and the file of its pids."""
        pids = self.home / f"{kind}.pids"
        attempt = self.launch(f"exec {PYTHON} {PROGRAMS / 'family.py'} {kind} {pids}", **changes)
        return attempt, pids

    def clean_up(self) -> None:
        for attempt in all_attempts(self.settings):
            if (client := attempt.connect()) is not None:
                with client:
                    client.stop(EndReason.CANCELLED, 0)
                    list(client.events())
            end_without_shim(attempt)
        self.launcher.close()


@contextmanager
def a_lab(home: Path | None = None, **options: Any) -> Iterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="at-lab-") as folder:
        lab = Lab(home or Path(folder) / "home", **options)
        try:
            yield lab
        finally:
            lab.clean_up()


def ended(attempt: AttemptDir, timeout_s: float = 15) -> dict[str, Any]:
    """exit.json of an attempt, once its shim has done everything and left."""
    wait_until(lambda: attempt.state() is AttemptState.DONE and not attempt.shim_alive(), timeout_s, f"{attempt.key} ends")
    exit_record = attempt.record("exit.json")
    assert exit_record is not None
    return exit_record


def running(attempt: AttemptDir) -> AttemptDir:
    """The attempt, once its command runs; started.json comes a moment earlier, before "go"."""
    wait_until(lambda: processes.marked(attempt.key, processes.table()), 10, "the command runs")
    return attempt


def end_without_shim(attempt: AttemptDir) -> None:
    """KILL to what a dead shim has left, and nothing where it lives."""
    try:
        ending = attempt.ending()
    except ShimLives:
        return
    ending.begin(0)
    wait_until(lambda: ending.advance() and not ending.anybody(), 15, f"nobody of {attempt.key} is left")
    if ending.group:
        ending.group.remove()


def connected(attempt: AttemptDir) -> ShimClient:
    client = attempt.connect()
    assert client is not None
    return client


def pids_in(path: Path, count: int) -> list[int]:
    """The pids that a family has written, once it is complete."""
    wait_until(lambda: path.exists() and path.read_text().count("\n") >= count, 10, f"{count} processes are up")
    return [int(line) for line in path.read_text().split()]


def living(pids: list[int]) -> list[int]:
    return [pid for pid in pids if processes.start_ticks(pid) is not None]


def shim_pid(attempt: AttemptDir) -> int:
    shim = attempt.record("shim.json")
    assert shim is not None
    return int(shim["pid"])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: processes.start_ticks(pid) is None, 5, f"{pid} is dead")
