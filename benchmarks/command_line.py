"""How long a person waits for `autotrainer list`: `python -m benchmarks --command-line`. About a minute.

With 100 jobs in the queue and a warm machine, by turns with an interpreter that does nothing (`python -c pass`: no client in
Python can be faster), with `celery inspect active` asking a bare worker, and with other queues' commands where they are
installed and answer.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.client import Client
from benchmarks.measure import percentile
from benchmarks.payload import Broken
from benchmarks.peer import bare_celery
from tests.e2e.product import CHECKOUT, Product

JOBS = 100
BASE = "python -c pass"
PEERS = (["squeue"], ["hq", "job", "list"], ["gqueue"], ["tsp"])
"""Slurm, HyperQueue, gflow, task spooler."""


@dataclass(frozen=True)
class Command:
    argv: list[str]
    environ: Mapping[str, str] = field(default_factory=dict)


def run(folder: Path, scale: float) -> dict[str, Any]:
    """{command: its times in ms, and what processor time each took}"""
    (folder / "one").mkdir()
    with Product(folder / "one", devices="sim:1x24GiB") as product, bare_celery(folder / "peer", 1) as peer:
        client = Client(product)
        for _ in range(JOBS):
            client.submit(["true"], hold=True)
        commands = dict(_commands(product, peer.broker))
        took: dict[str, dict[str, list[float]]] = {name: {"ms": [], "cpu_ms": []} for name in commands}
        for number in range(round(30 * scale) + 1):
            for name, command in commands.items():
                took_ms, cpu_ms = _time(command)
                if number:  # the first round warms everything up
                    took[name]["ms"].append(took_ms)
                    took[name]["cpu_ms"].append(cpu_ms)
    return took


def _commands(product: Product, broker: str) -> Iterator[tuple[str, Command]]:
    home = {name: value for name, value in product.environ.items() if not name.startswith("AUTOTRAINER_")}
    ours = home | {"AUTOTRAINER_HOME": str(product.home)}
    yield BASE, Command([sys.executable, "-c", "pass"])
    yield "autotrainer list", Command([sys.executable, "-m", "jobs.cli", "list"], ours)
    yield "python3 AutoTrainer.py list", Command([sys.executable, "AutoTrainer.py", "list"], ours)
    yield "autotrainer gpus", Command([sys.executable, "-m", "jobs.cli", "gpus"], ours)
    inspect = [sys.executable, "-m", "celery", "-A", "benchmarks.peer_app", "inspect", "active", "--timeout", "1"]
    yield "celery inspect active", Command(inspect, home | {"PEER_BROKER": broker})
    for argv in PEERS:
        if shutil.which(argv[0]) and not subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
            yield " ".join(argv), Command(argv)


def _time(command: Command) -> tuple[float, float]:
    """Until it has ended, and the processor time that it took itself, whatever else goes on."""
    began, cpu_began = time.perf_counter(), _children_s()
    done = subprocess.run(command.argv, cwd=CHECKOUT, env=dict(command.environ or os.environ), capture_output=True, text=True)
    took_ms = (time.perf_counter() - began) * 1000
    if done.returncode:
        raise Broken(f"{' '.join(command.argv)} ended with {done.returncode}: {done.stderr[-300:]}")
    return took_ms, (_children_s() - cpu_began) * 1000


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(result: dict[str, Any]) -> str:
    base = percentile(result[BASE]["ms"], 50)
    lines = [f"{'':<30}{'p50':>10}{'p95':>10}{'ratio':>8}{'CPU':>10}"]
    for name, took in result.items():
        p50, p95, cpu = (percentile(took[kind], percent) for kind, percent in (("ms", 50), ("ms", 95), ("cpu_ms", 50)))
        lines.append(f"{name:<30}{p50:>7.0f} ms{p95:>7.0f} ms{p50 / base:>8.1f}{cpu:>7.0f} ms")
    return "\n".join(lines)
