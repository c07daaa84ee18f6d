"""Ending a process tree: TERM to everyone, the grace, then KILL again and again until nobody is left."""

from __future__ import annotations

import signal
import time
from typing import Any

from gpuworker.shim import processes
from gpuworker.shim.cgroup import Group
from gpuworker.shim.processes import Process

_KILL_ROUNDS = 8
"""A tree that forks while it is killed is looked at again at once, this often."""
STUCK_AFTER_S = 60.0
"""What lives on for so long after KILL is stuck in the kernel (a dead disk or driver), and nothing here can end it."""
_LINGER_S = 0.002


class Ending:
    """The end of an attempt's group, of the tree below `root`, and of whatever else carries the mark or is in its session."""

    def __init__(self, mark: str, *, root: int | None = None, leader: tuple[int, int] | None = None, group: Group | None = None) -> None:
        """`root`: the subreaper, where it lives; else `leader`, the (pid, start_ticks) of the command's shell, may find more."""
        self.group = group
        self.stuck_after_s = STUCK_AFTER_S
        self._mark, self._leader = mark, leader
        self._below = [] if root is None else [root]
        self._kill_at: float | None = None
        self._next_at = 0.0
        self._pause_s = 0.02
        self._killed_at: float | None = None
        self._stuck_told = False

    @property
    def begun(self) -> bool:
        return self._kill_at is not None

    def begin(self, grace_s: float) -> None:
        """Asked again, a shorter grace counts."""
        kill_at = time.monotonic() + grace_s
        if self._kill_at is not None:
            self._kill_at = min(self._kill_at, kill_at)
            self._next_at = min(self._next_at, self._kill_at)
            return
        self._kill_at = self._next_at = kill_at
        # Once: what a training starts in answer, to save its work, has the grace. SIGCONT, or a stopped one would not see it.
        self._signal(signal.SIGTERM, signal.SIGCONT)

    def advance(self) -> float:
        """Do what is due; seconds until the next time. Only once begun."""
        now = time.monotonic()
        if now >= self._next_at:
            self._killed_at = self._killed_at or now
            if self.group:
                self.group.kill()
            self._signal(signal.SIGKILL, rounds=_KILL_ROUNDS)
            self._next_at = now + self._pause_s
            self._pause_s = min(1.0, self._pause_s * 2)
        return self._next_at - now

    def rest(self) -> bool:
        """Whether somebody is left, looked for everywhere; the tree that nobody had to end needs no such look."""
        return self.populated() or (self.begun and bool(self.members()))

    def anybody(self) -> bool:
        """The same where there is no subreaper whose children prove anything."""
        return bool(self.members()) or self.populated()

    def populated(self) -> bool:
        """Whether the group, where there is one, has a member. Raises OSError where it cannot be told."""
        if self.group is None or not self.group.populated():
            return False
        time.sleep(_LINGER_S)  # The newest kernels count a process for a moment after it was reaped.
        return self.group.populated()

    def stuck(self) -> dict[str, Any] | None:
        """What is to be on record of processes that KILL does not end; None while there is hope, and once it was told."""
        if self._stuck_told or self._killed_at is None or time.monotonic() - self._killed_at < self.stuck_after_s:
            return None
        left = [processes.describe(process) for process in self.members()]
        self._stuck_told = bool(left)
        return {"processes": left} if left else None

    def _signal(self, *signals: int, rounds: int = 1) -> None:
        """Once to each process that is there, and to those that the tree forks meanwhile for as many rounds."""
        told: set[tuple[int, int]] = set()
        for _ in range(rounds):
            fresh = [member for member in self.members() if (member.pid, member.start_ticks) not in told]
            for member in fresh:
                told.add((member.pid, member.start_ticks))
                for signum in signals:
                    processes.send_signal(member, signum)
            if not fresh:
                return

    def members(self) -> list[Process]:
        return processes.tree(self._mark, self._leader, self._below, self.group)
