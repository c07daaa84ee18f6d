"""The compiled job that both sides run, and what it stamped."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).with_name("payload.c")


class Broken(Exception):
    """A measurement that cannot be trusted, or cannot be made: says why."""


def build(folder: Path) -> Path:
    """Compile the payload into a folder."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        raise Broken("no C compiler: the payload is a C program, so that starting it costs next to nothing. Install gcc.")
    program = folder / "payload"
    subprocess.run([compiler, "-O2", "-o", str(program), str(SOURCE)], check=True)
    return program


class Stamps:
    """One run's stamps: `starts` and `ends` are {id: unix ns}."""

    _count = itertools.count()

    def __init__(self, program: Path) -> None:
        self.program = program
        self.path = program.parent / f"stamps-{next(self._count)}"
        self.path.touch()
        self.starts: dict[str, int] = {}
        self.ends: dict[str, int] = {}
        self._masks: dict[str, str] = {}
        self._read_bytes = 0

    def command(self, ident: str, *more: str) -> list[str]:
        return [str(self.program), str(self.path), ident, *more]

    def poll(self) -> Stamps:
        with self.path.open("rb") as file:
            file.seek(self._read_bytes)
            whole = file.read().rpartition(b"\n")
        data = whole[0] + whole[1]
        self._read_bytes += len(data)
        for line in data.decode().splitlines():
            kind, ident, mask, at_ns = line.split(" ")
            table = self.starts if kind == "S" else self.ends
            if ident in table:
                raise Broken(f"job {ident} ran twice")
            table[ident], self._masks[ident] = int(at_ns), mask
        return self

    def wait(self, done: Callable[[], object], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not (self.poll() and done()):
            if time.monotonic() > deadline:
                raise Broken(f"not within {timeout_s:g} s: {what} ({len(self.starts)} started, {len(self.ends)} ended)")
            time.sleep(0.002)

    def gaps_ms(self) -> list[float]:
        """From each end to the next start on the same device; two jobs at once on one device are not a measurement but a bug."""
        rows = defaultdict(list)
        for ident in sorted(self.starts, key=self.starts.__getitem__):
            rows[self._masks[ident]].append(ident)
        pairs = [(before, after) for row in rows.values() for before, after in itertools.pairwise(row)]
        for before, after in pairs:
            if self.ends[before] > self.starts[after]:
                raise Broken(f"jobs {before} and {after} ran at once on device {self._masks[after]}")
        return [(self.starts[after] - self.ends[before]) / 1e6 for before, after in pairs]

    @contextmanager
    def gate(self) -> Iterator[list[str]]:
        """The arguments that make a job wait; it goes on when the block ends."""
        path = self.path.with_suffix(".gate")
        os.mkfifo(path)
        yield ["gate", str(path)]
        opened = os.open(path, os.O_RDWR)
        try:
            self.wait(lambda: len(self.ends) == len(self.starts), 30, "the jobs behind the gate end")
        finally:
            os.close(opened)
