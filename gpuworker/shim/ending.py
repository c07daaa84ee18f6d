"""Ending a process tree: TERM to everyone, the grace, then KILL again and again until nobody is left."""

from __future__ import annotations

import os
import signal
import time

from gpuworker.shim import processes
from gpuworker.shim.processes import Process

_KILL_ROUNDS = 8
"""A tree that forks while it is killed is looked at again at once, this often."""


class Ending:
    """The end of the tree below this process (a subreaper), and of whatever else carries the mark."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._kill_at: float | None = None
        self._next_at = 0.0
        self._pause_s = 0.02

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
            self._signal(signal.SIGKILL, rounds=_KILL_ROUNDS)
            self._next_at = now + self._pause_s
            self._pause_s = min(1.0, self._pause_s * 2)
        return self._next_at - now

    def rest(self) -> bool:
        """Whether somebody is left, looked for everywhere; the tree that nobody had to end needs no such look."""
        return self.begun and bool(self._members())

    def _signal(self, *signals: int, rounds: int = 1) -> None:
        """Once to each process that is there, and to those that the tree forks meanwhile for as many rounds."""
        told: set[tuple[int, int]] = set()
        for _ in range(rounds):
            fresh = [member for member in self._members() if (member.pid, member.start_ticks) not in told]
            for member in fresh:
                told.add((member.pid, member.start_ticks))
                for signum in signals:
                    processes.send_signal(member, signum)
            if not fresh:
                return

    def _members(self) -> list[Process]:
        return processes.tree(self._mark, below=[os.getpid()])
