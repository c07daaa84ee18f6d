"""What many hosts cost: `python -m benchmarks --many`. Five to fifteen minutes for each size.

The control plane as it is started, on PostgreSQL where that is there, and a crowd of thin hosts that speak the real protocol
(crowd_of_hosts.py) on the same machine, which takes its share of the cores: the table has its processor time apart.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis
import requests

from benchmarks.measure import percentile
from benchmarks.payload import Broken
from gpuworker import protocol
from gpuworker.settings import embedded_socket
from tests.e2e.product import CHECKOUT, Product, environments
from tests.postgres import private_postgres, programs

SIZES = ((100, 5000, 50_000), (200, 10_000, 100_000), (300, 15_000, 100_000), (400, 20_000, 100_000))
"""Hosts of eight GPUs, jobs that run, jobs that wait."""
MEAN_MIN = 30.0
RAMP_LIMIT_S, WINDOW_S = 900.0, 60.0
PAGES = {"dashboard": "/", "list of jobs": "/jobs/?whose=all", "REST: hosts": "/api/v1/hosts/?limit=1000"}


def run(folder: Path, scale: float) -> dict[str, Any]:
    """{hosts: figures, or why there are none}; told one by one, for the next size may be too much for the machine."""
    found: dict[str, Any] = {}
    for hosts, running, queued in SIZES:
        try:
            figures = _measured(folder / str(hosts), hosts, running, queued, window_s=WINDOW_S * scale)
        except (Broken, AssertionError, requests.RequestException, subprocess.SubprocessError) as exc:
            figures = {"hosts": hosts, "running": running, "queued": queued, "stopped": str(exc)}
        found[str(hosts)] = figures
        _say(table({str(hosts): figures}))
    return found


def _measured(folder: Path, hosts: int, running: int, queued: int, *, window_s: float) -> dict[str, Any]:
    folder.mkdir()
    binaries = programs()
    with ExitStack() as stack:
        environ = {"AUTOTRAINER_HEARTBEAT_S": "2"}
        if binaries:
            environ["DATABASE_URL"] = stack.enter_context(private_postgres(binaries)).url
        product = stack.enter_context(Product(folder, devices="none", environ=environ))
        _say(f"{hosts} hosts, {running:,} jobs that run, {queued:,} that wait: filling …")
        _module(product, "fill_lab", hosts, running, queued)
        crowd = stack.enter_context(_Crowd(product, folder / "crowd.jsonl", hosts))
        _say("starting them …")
        began = time.monotonic()
        crowd.wait(lambda told: told["started"] >= running, RAMP_LIMIT_S)
        ramp_s = time.monotonic() - began
        _say(f"all run after {ramp_s:.0f} s; measuring {window_s:.0f} s …")
        return {"hosts": hosts, "running": running, "queued": queued, "ramp_s": ramp_s} | _window(product, crowd, hosts, window_s)


def _window(product: Product, crowd: _Crowd, hosts: int, window_s: float) -> dict[str, Any]:
    browser, store = _signed_in(product), redis.Redis.from_url(f"unix://{embedded_socket(product.home)}")
    before, cpu = crowd.last(), _processor_s(product, crowd)
    lags: list[float] = []
    backlog: list[int] = []
    pages: dict[str, list[float]] = defaultdict(list)
    names = [protocol.beat_key(f"crowd-{n:03}") for n in range(hosts)]
    until = time.monotonic() + window_s
    while time.monotonic() < until:
        lags += [protocol.BEAT_LIFETIME_S - int(left) / 1000 for left in _pipelined(store, "pttl", names)]
        backlog.append(sum(map(int, _pipelined(store, "xlen", [name.replace(":beat", ":reports") for name in names]))))
        for name, path in PAGES.items():
            asked = time.perf_counter()
            browser.get(f"http://127.0.0.1:{product.port}{path}", timeout=60).raise_for_status()
            pages[name].append((time.perf_counter() - asked) * 1000)
        time.sleep(1)
    after, spent = crowd.last(), _processor_s(product, crowd)
    seconds = after["at"] - before["at"]
    return {
        "starts_per_s": (after["started"] - before["started"]) / seconds,
        "ends_per_s": (after["ended"] - before["ended"]) / seconds,
        "beat_age_s": lags,
        "backlog": backlog,
        "page_ms": dict(pages),
        "cpu_pct": {kind: (spent[kind] - cpu.get(kind, 0.0)) / window_s * 100 for kind in spent},
        "gaps_s": _gaps(product),
        "crowd_round_ms": after["round_ms"],
    }


def _signed_in(product: Product) -> requests.Session:
    """As somebody with a browser and a page open."""
    browser = requests.Session()
    address = f"http://127.0.0.1:{product.port}/signin/"
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', browser.get(address, timeout=30).text)
    if not token:
        raise Broken("the sign-in page has no form")
    form = {"username": "admin", "password": product.password, "csrfmiddlewaretoken": token[1]}
    browser.post(address, form, timeout=30).raise_for_status()
    browser.headers["Authorization"] = f"Bearer {product.token}"
    return browser


def _gaps(product: Product) -> list[float]:
    """From the end of one job to the start of the next on the same GPU, of those that ended in the last minute."""
    url = product.environ.get("DATABASE_URL")
    if not url:
        return []
    sql = """SELECT extract(epoch FROM next_at - ended_at) FROM (
      SELECT ended_at, lead(started_at) OVER (PARTITION BY devices->0->>'uuid' ORDER BY created_at) AS next_at FROM jobs_attempt
      WHERE jsonb_array_length(devices) = 1) gaps WHERE next_at IS NOT NULL AND ended_at > now() - interval '90 seconds'"""
    with psycopg.connect(url) as connection:
        return [float(gap) for (gap,) in connection.execute(sql).fetchall()]


def _processor_s(product: Product, crowd: _Crowd) -> dict[str, float]:
    """By kind of process, since they began."""
    home, found = f"AUTOTRAINER_HOME={product.home}".encode(), dict[str, float]()
    kinds = {crowd.process.pid: "crowd"}
    for pid, variables in environments():
        if home in variables and pid not in kinds:
            service = next((v.partition(b"=")[2].decode() for v in variables if v.startswith(b"AUTOTRAINER_SERVICE=")), "supervisor")
            kinds[pid] = service
    for process in psutil.process_iter(["name"]):
        if process.info["name"] in ("postgres", "redis-server", "valkey-server"):
            kinds.setdefault(process.pid, process.info["name"])
    for pid, kind in kinds.items():
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.NoSuchProcess:
            continue
        found[kind] = found.get(kind, 0.0) + times.user + times.system
    return found


def _pipelined(store: redis.Redis, command: str, keys: list[str]) -> list[Any]:
    pipe = store.pipeline(transaction=False)
    for key in keys:
        getattr(pipe, command)(key)
    return list(pipe.execute())


class _Crowd:
    """The process of the thin hosts; what it says is in a file."""

    def __init__(self, product: Product, told: Path, hosts: int) -> None:
        self._told = told
        command = [sys.executable, "-m", "benchmarks.crowd_of_hosts", str(hosts), str(MEAN_MIN), "3600"]
        with told.open("wb") as out:
            self.process = subprocess.Popen(command, cwd=CHECKOUT, env=product.environ, stdout=out)

    def __enter__(self) -> _Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def last(self) -> dict[str, Any]:
        lines = self._told.read_text().rpartition("\n")[0].splitlines()
        return dict(json.loads(lines[-1])) if lines else {"running": 0, "started": 0, "ended": 0, "at": 0.0, "round_ms": 0.0}

    def wait(self, reached: Any, limit_s: float) -> None:
        until = time.monotonic() + limit_s
        while not reached(self.last()):
            if time.monotonic() > until or self.process.poll() is not None:
                raise Broken(f"the crowd came to {self.last()} within {limit_s:.0f} s")
            time.sleep(1)


def _module(product: Product, name: str, *args: int) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, args)]
    subprocess.run(command, cwd=CHECKOUT, env=product.environ, check=True, timeout=600)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(result: dict[str, Any]) -> str:
    lines = []
    for found in result.values():
        size = f"{found['hosts']} hosts, {found['running']:,} run, {found['queued']:,} wait"
        if stopped := found.get("stopped"):
            lines.append(f"{size}; no figures: {stopped}")
            continue
        lines.append(f"{size}; all run after {found['ramp_s']:.0f} s")
        lines.append(f"  starts a second {found['starts_per_s']:.1f}, ends a second {found['ends_per_s']:.1f}")
        for name, values, unit in (
            ("age of heartbeats", found["beat_age_s"], "s"),
            ("reports that wait", found["backlog"], ""),
            ("end to next start on a GPU", found["gaps_s"], "s"),
            *((name, values, "ms") for name, values in found["page_ms"].items()),
        ):
            if values:
                told = f"p50 {percentile(values, 50):.2f}, p95 {percentile(values, 95):.2f}, most {max(values):.2f} {unit}"
                lines.append(f"  {name:<28} {told}")
        shares = ", ".join(f"{kind} {share:.0f} %" for kind, share in sorted(found["cpu_pct"].items(), key=lambda one: -one[1]))
        lines.append(f"  processor time, of one core: {shares}")
    return "\n".join(lines)
