"""What pages and lists cost: `python -m benchmarks --pages`. About five minutes.

Two labs (lab.py), each in a process and a database of its own (page_times.py): one with 64 GPUs and 500 jobs for the pages,
one with 100,000 jobs for every filter and order that the list and REST have. Beside it the sign-in page, which asks nothing:
what any page costs on this machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import percentile
from benchmarks.peer import private_redis
from tests.e2e.product import CHECKOUT, Product

GPUS = 64
FEW, MANY = 500, 100_000
LIMIT_S = 3600
WORST_SHOWN = 8
BASE = "sign-in page"


def run(folder: Path, scale: float) -> dict[str, Any]:
    """{"pages" or "lists": {what: its times in ms, its queries, its size}}"""
    result = {}
    for name, jobs, days, rounds in (("pages", FEW, 1, round(40 * scale)), ("lists", MANY, 90, max(2, round(6 * scale)))):
        print(f"measuring {name} with {jobs:,} jobs …", file=sys.stderr, flush=True)
        place = folder / name
        place.mkdir()
        with private_redis(place) as url:
            environ = Product(place).environ | {"AUTOTRAINER_REDIS_URL": url}
            argv = [sys.executable, "-m", "benchmarks.page_times", str(GPUS), str(jobs), str(days), str(rounds)]
            done = subprocess.run(argv, cwd=CHECKOUT, env=environ, check=True, timeout=LIMIT_S, stdout=subprocess.PIPE)
        result[name] = json.loads(done.stdout)
    return result


def table(result: dict[str, Any]) -> str:
    pages, lists = result["pages"], result["lists"]
    base = percentile(pages[BASE]["cpu_ms"], 50)
    lines = [_head(f"{GPUS} GPUs, {FEW} jobs"), *(_row(what, found, base) for what, found in pages.items())]
    worst = sorted(lists, key=lambda what: -percentile(lists[what]["ms"], 95))
    lines += [
        "",
        _head(f"{MANY:,} jobs: the slowest of {len(lists)} filters"),
        *(_row(what, lists[what], base) for what in worst[:WORST_SHOWN]),
    ]
    every = {name: [ms for found in lists.values() for ms in found[name]] for name in ("ms", "cpu_ms")}
    largest = {name: max(found[name] for found in lists.values()) for name in ("queries", "bytes")}
    lines.append(_row("all of them", every | largest, base))
    return "\n".join(lines)


def _head(title: str) -> str:
    return f"{title:<76}{'p50':>8}{'p95':>8}{'CPU':>8}{'ratio':>7}{'queries':>9}{'kB':>6}"


def _row(what: str, found: dict[str, Any], base: float) -> str:
    """In ms. CPU: the median of what this process used, whatever else goes on; the ratio is that of it to the sign-in page's."""
    p50, p95, cpu = (percentile(found[name], percent) for name, percent in (("ms", 50), ("ms", 95), ("cpu_ms", 50)))
    return f"{what[:75]:<76}{p50:>8.1f}{p95:>8.1f}{cpu:>8.1f}{cpu / base:>7.1f}{found['queries']:>9}{found['bytes'] / 1000:>6.0f}"
