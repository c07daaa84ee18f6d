"""What the length of the queue costs: `python -m benchmarks --deep-queue`. About five minutes for each database.

One product with one device. While a job holds the device the queue is filled to each depth with mixed requests of several
people (fill_queue.py); then come measured jobs that go before them. The gap between two of those is the figure.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import measure
from benchmarks.client import Client
from benchmarks.measure import percentile
from benchmarks.payload import build
from tests.e2e.product import CHECKOUT, Product
from tests.postgres import private_postgres, programs

DEPTHS = (200, 10_000, 100_000)
FILL_LIMIT_S = 300
JOBS = 20


def run(folder: Path, scale: float) -> dict[str, Any]:
    """{database: {depth: figures}}"""
    program = build(folder)
    result: dict[str, Any] = {}
    for name in ("sqlite", "postgresql"):
        place = folder / name
        place.mkdir()
        with _database(name) as environ:
            if environ is None:
                print("no PostgreSQL here: left out", file=sys.stderr)
                continue
            with Product(place, devices="sim:1x24GiB", environ=environ) as product:
                result[name] = _depths(program, product, name, rounds=max(1, round(6 * scale)))
    return result


@contextmanager
def _database(name: str) -> Iterator[dict[str, str] | None]:
    binaries = programs() if name == "postgresql" else None
    if name == "sqlite":
        yield {}
    elif binaries is None:
        yield None
    else:
        with private_postgres(binaries) as server:
            yield {"DATABASE_URL": server.url}


def _depths(program: Path, product: Product, name: str, *, rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    stoppers = _Stoppers(Client(product), product.work)
    stoppers.hold()
    for depth in DEPTHS:
        print(f"measuring gaps with {depth:,} jobs queued, {name} …", file=sys.stderr, flush=True)
        fill = [sys.executable, "-m", "benchmarks.fill_queue", str(depth)]
        subprocess.run(fill, cwd=CHECKOUT, env=product.environ, check=True, timeout=FILL_LIMIT_S)
        gaps: list[float] = []
        submits: list[float] = []
        for _ in range(rounds):
            client = Client(product)
            gaps += measure.gaps_ms(program, stoppers.before(_timed(client.submit, submits)), JOBS)
            stoppers.settled()
        kinds = measure.settled_footprint(product)
        found[str(depth)] = {
            "gap_ms": gaps,
            "submit_ms": submits,
            "control_mb": kinds["control"].pss_mb,
            "web_mb": kinds["web"].pss_mb,
            "database_mb": _database_bytes(product) / 2**20,
        }
    stoppers.give_way()
    return found


def _database_bytes(product: Product) -> int:
    if url := product.environ.get("DATABASE_URL"):
        with psycopg.connect(url) as connection:
            (size,) = connection.execute("SELECT pg_database_size(current_database())").fetchone() or (0,)
            return int(size)
    return sum(path.stat().st_size for path in product.home.glob("*.sqlite3*"))


def _timed(submit: measure.Submit, took_ms: list[float]) -> measure.Submit:
    def timed(argv: list[str]) -> None:
        began = time.perf_counter()
        submit(argv)
        took_ms.append((time.perf_counter() - began) * 1000)

    return timed


class _Stoppers:
    """Jobs that hold the only device while nothing is measured: behind what is measured and before all that waits."""

    def __init__(self, client: Client, folder: Path) -> None:
        self._client, self._folder = client, folder
        self._number = 0

    def hold(self) -> None:
        """Queue the next one."""
        self._number += 1
        script = f"while [ ! -e {self._flag(self._number)} ]; do sleep 0.02; done"
        self._client.submit(["sh", "-c", script], priority=-1)

    def give_way(self) -> None:
        self._flag(self._number).touch()

    def before(self, submit: measure.Submit) -> measure.Submit:
        """The first submit queues the next stopper too, and lets the present one go."""
        present = self._number

        def first(argv: list[str]) -> None:
            submit(argv)
            if self._number == present:
                self.hold()
                self._flag(present).touch()

        return first

    def settled(self) -> None:
        self._client.reaches("running")

    def _flag(self, number: int) -> Path:
        return self._folder / f"go-{number}"


def table(result: dict[str, Any]) -> str:
    lines = []
    for name, depths in result.items():
        lines.append(
            f"{name:<14}{'queued':>9}{'gap p50':>12}{'p95':>12}{'ratio':>8}{'submit p50':>12}{'control':>11}{'web':>9}{'database':>11}"
        )
        first = percentile(next(iter(depths.values()))["gap_ms"], 50)
        for depth, found in depths.items():
            median, late = percentile(found["gap_ms"], 50), percentile(found["gap_ms"], 95)
            submit = percentile(found["submit_ms"], 50)
            memory = f"{found['control_mb']:>8.0f} MB{found['web_mb']:>6.0f} MB{found['database_mb']:>8.0f} MB"
            lines.append(f"{'':<14}{int(depth):>9,}{median:>9.1f} ms{late:>9.1f} ms{median / first:>8.2f}{submit:>9.1f} ms{memory}")
    return "\n".join(lines)
