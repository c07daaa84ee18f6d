"""How late lines come to 300 who follow logs at once: `python -m benchmarks --streams`. About two minutes.

The product as a user starts it. Jobs print the time by their own clock twice a second; the readers here note when each line
has come through relay, Redis, ingest, disk and web process. Then a thousand readers open a stream and vanish without a word,
and what the web process holds is looked at.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.client import Client
from benchmarks.measure import percentile, pss
from benchmarks.payload import Broken, Stamps, build
from tests.e2e.product import Product

JOBS = 60
STREAMS = 300
VANISHING = 1000
AT_ONCE = 100
SETTLED_S = 3.0
OPEN_LIMIT_S = 60.0
GONE_LIMIT_S = 30.0


@dataclass
class Reader:
    """One stream: `late_ms` has one number for each line that was written while it was counted."""

    late_ms: list[float] = field(default_factory=list)
    begun: bool = False


def run(folder: Path, scale: float) -> dict[str, Any]:
    program = build(folder)
    (folder / "one").mkdir()
    with Product(folder / "one", devices="sim:1x24GiB") as product:
        stamps, done = Stamps(program), folder / "done"
        jobs = _start(Client(product), stamps, done)
        (web,) = product.pids("web")
        held_before, alone_mb = held(web), pss(web)
        print(f"measuring {STREAMS} streams of {JOBS} jobs …", file=sys.stderr, flush=True)
        late_ms, with_streams_mb, cpu = asyncio.run(_follow(product, jobs, web, seconds=30 * scale))
        print(f"measuring {VANISHING} readers that vanish …", file=sys.stderr, flush=True)
        for _ in range(0, VANISHING, AT_ONCE):
            vanish(opened(product.port, product.token, jobs, AT_ONCE))
        _wait(lambda: held(web)["sockets"] <= held_before["sockets"] + 1, GONE_LIMIT_S, "the web process has let go of all sockets")
        after, after_mb = held(web), pss(web)
        done.touch()
        stamps.wait(lambda: len(stamps.ends) == JOBS, 60, "the jobs end")
    return {
        "late_ms": late_ms,
        "web_cpu_pct": cpu,
        "web_mb": {"alone": alone_mb, "with streams": with_streams_mb, "after": after_mb},
        "held": {"before": held_before, "after": after},
    }


def table(result: dict[str, Any]) -> str:
    late, mb, before, after = result["late_ms"], result["web_mb"], result["held"]["before"], result["held"]["after"]
    lines = [f"{STREAMS} streams of {JOBS} jobs that print twice a second: {len(late):,} lines came"]
    lines += [f"  from written to read, p{percent}: {percentile(late, percent):>31.0f} ms" for percent in (50, 95, 99)]
    lines.append(f"  the last of all: {max(late):>39.0f} ms")
    lines.append(f"  the web process's processor time: {result['web_cpu_pct']:>22.0f} % of one core")
    lines += [f"  memory (PSS) of the web process, {name}: {size:>{24 - len(name)}.1f} MB" for name, size in mb.items()]
    lines.append(f"{VANISHING:,} readers that vanished left behind:")
    lines += [f"  {what}: {before[what]} before, {after[what]} after" for what in before]
    return "\n".join(lines)


def _start(client: Client, stamps: Stamps, done: Path) -> list[int]:
    jobs = []
    for number in range(JOBS):
        client.submit(stamps.command(str(number), "tick", str(done)), min_gpus=0, max_gpus=0)
        jobs.append(client.last_id)
    stamps.wait(lambda: len(stamps.starts) == JOBS, 60, f"{JOBS} jobs run")
    return jobs


async def _follow(product: Product, jobs: list[int], web: int, *, seconds: float) -> tuple[list[float], float | None, float]:
    """How late each line came, while all streams were open; the web process's memory then, and its load in percent."""
    readers = [Reader() for _ in range(STREAMS)]
    tasks = [asyncio.create_task(_read(reader, product, jobs[n % JOBS])) for n, reader in enumerate(readers)]
    deadline = time.monotonic() + OPEN_LIMIT_S
    while not all(reader.begun for reader in readers):
        if time.monotonic() > deadline:
            raise Broken(f"only {sum(reader.begun for reader in readers)} of {STREAMS} streams have begun")
        await asyncio.sleep(0.1)
    await asyncio.sleep(SETTLED_S)
    for reader in readers:
        reader.late_ms.clear()
    began, cpu_began = time.monotonic(), cpu_s(web)
    await asyncio.sleep(seconds)
    cpu = 100 * (cpu_s(web) - cpu_began) / (time.monotonic() - began)
    late = [ms for reader in readers for ms in reader.late_ms]
    memory = pss(web)
    if silent := sum(not reader.late_ms for reader in readers):
        raise Broken(f"{silent} streams brought nothing")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return late, memory, cpu


async def _read(reader: Reader, product: Product, job: int) -> None:
    source, sink = await asyncio.open_connection("127.0.0.1", product.port)
    try:
        sink.write(request(product.token, job))
        while line := await source.readline():
            now_ns = time.time_ns()
            if line.startswith(b'data: "'):
                reader.begun = True
                written = json.loads(line[6:]).split("\n")
                reader.late_ms += [(now_ns - int(each)) / 1e6 for each in written if len(each) == 19]
    finally:
        sink.close()


def request(token: str, job: int) -> bytes:
    head = f"GET /api/v1/jobs/{job}/log/stream/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    return head.encode()


def opened(port: int, token: str, jobs: Sequence[int], count: int) -> list[socket.socket]:
    """So many streams that have begun."""
    found = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(count)]
    for number, each in enumerate(found):
        each.sendall(request(token, jobs[number % len(jobs)]))
    for each in found:
        if not each.recv(64).startswith(b"HTTP/1.1 200"):
            raise Broken("a stream was refused")
    return found


def vanish(readers: Iterable[socket.socket]) -> None:
    """Without a word; half of them with a reset, as the kernel does it for a killed browser."""
    for number, each in enumerate(readers):
        if number % 2:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        each.close()


def held(pid: int) -> dict[str, int]:
    """What a process has open."""
    targets = [_target(Path(f"/proc/{pid}/fd/{name}")) for name in os.listdir(f"/proc/{pid}/fd")]
    return {
        "sockets": sum(target.startswith("socket:") for target in targets),
        "other files": sum(bool(target) and not target.startswith("socket:") for target in targets),
        "threads": len(os.listdir(f"/proc/{pid}/task")),
    }


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""  # closed meanwhile


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wait(reached: Callable[[], bool], limit_s: float, what: str) -> None:
    deadline = time.monotonic() + limit_s
    while not reached():
        if time.monotonic() > deadline:
            raise Broken(f"not within {limit_s:g} s: {what}")
        time.sleep(0.2)
