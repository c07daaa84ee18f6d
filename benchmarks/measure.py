"""The measurements. Each takes a way to submit a command, so that product and peer are measured by the same code."""

from __future__ import annotations

import itertools
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.payload import Broken, Stamps
from tests.e2e.product import Product, command_line, environments

Submit = Callable[[list[str]], None]


def percentile(values: Sequence[float], percent: float) -> float:
    """Interpolated; `values` is not empty."""
    ordered = sorted(values)
    at = (len(ordered) - 1) * percent / 100
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def start_ms(stamps: Stamps, ident: str, submit: Submit) -> float:
    """From before the submit call to the command's first instruction; returns when the command has ended."""
    began_ns = time.time_ns()
    submit(stamps.command(ident))
    stamps.wait(lambda: ident in stamps.ends, 20, f"job {ident} ends")
    return (stamps.starts[ident] - began_ns) / 1e6


def gaps_ms(program: Path, submit: Submit, count: int) -> list[float]:
    """From the end of one job to the start of the next on one device, with all of them waiting when the first one ends."""
    stamps = Stamps(program)
    with stamps.gate() as waiting:
        submit(stamps.command("first", *waiting))
        stamps.wait(lambda: stamps.starts, 20, "the first job holds the device")
        for number in range(count):
            submit(stamps.command(str(number), "pause", "20000"))
        time.sleep(0.5)  # whatever the submits woke comes to rest
        if len(stamps.poll().starts) != 1:
            raise Broken("a job started on a device that another one holds")
    stamps.wait(lambda: len(stamps.ends) == count + 1, 60, f"all of {count + 1} jobs end")
    return stamps.gaps_ms()


def jobs_per_s(program: Path, submitters: Sequence[Submit], seconds: float, backlog: int = 100) -> tuple[int, float]:
    """No-op jobs, submitted for this long with at most `backlog` unfinished: how many, and how many a second to the last end."""
    stamps, numbers = Stamps(program), itertools.count()
    sent: list[int] = []
    failures: list[Exception] = []
    began_ns, until = time.time_ns(), time.monotonic() + seconds

    def feed(submit: Submit) -> None:
        try:
            while time.monotonic() < until and not failures:
                if len(sent) - len(stamps.ends) >= backlog:
                    time.sleep(0.002)
                    continue
                number = next(numbers)
                sent.append(number)
                submit(stamps.command(str(number)))
        except Exception as exc:
            failures.append(exc)

    threads = [threading.Thread(target=feed, args=(submit,), daemon=True) for submit in submitters]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        stamps.poll()
        time.sleep(0.01)
    if failures:
        raise failures[0]
    stamps.wait(lambda: len(stamps.ends) == len(sent), 60, f"all of {len(sent)} jobs end")
    stamps.gaps_ms()  # none ran beside another on one device
    return len(sent), len(sent) / ((max(stamps.ends.values()) - began_ns) / 1e9)


def fsync_ms(folder: Path, times: int = 50) -> list[float]:
    """What the disk takes to make 4 KiB durable, in this folder."""
    path, took = folder / "fsync-probe", []
    with path.open("ab", buffering=0) as file:
        for _ in range(times):
            file.write(b"x" * 4096)
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append((time.perf_counter() - began) * 1000)
    path.unlink()
    return took


@dataclass(frozen=True, slots=True)
class Footprint:
    processes: int
    pss_mb: float


def footprint(product: Product) -> dict[str, Footprint]:
    """The product's processes by kind, with their proportional memory; the trainings are not ours."""
    home = f"AUTOTRAINER_HOME={product.home}".encode()
    kinds: dict[str, list[float]] = defaultdict(list)
    for pid, variables in environments():
        if home in variables and (pss_mb := pss(pid)) is not None:
            kinds[_kind(pid, variables)].append(pss_mb)
    return {kind: Footprint(len(sizes), sum(sizes)) for kind, sizes in sorted(kinds.items())}


def settled_footprint(product: Product, limit_s: float = 10) -> dict[str, Footprint]:
    """Two readings a second apart that agree within 0.3 MB, or the last one."""
    deadline, last = time.monotonic() + limit_s, footprint(product)
    while True:
        time.sleep(1)
        new = footprint(product)
        if abs(total_mb(new) - total_mb(last)) < 0.3 or time.monotonic() > deadline:
            return new
        last = new


def total_mb(kinds: dict[str, Footprint]) -> float:
    return sum(kind.pss_mb for kind in kinds.values())


def pss(pid: int) -> float | None:
    """Proportional set size in MB (2**20 bytes); None for a process that has ended."""
    try:
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) / 1024 if found else None


def _kind(pid: int, variables: set[bytes]) -> str:
    if b"gpuworker.shim" in command_line(pid):
        return "zygote and shims"
    service = next((v.partition(b"=")[2].decode() for v in variables if v.startswith(b"AUTOTRAINER_SERVICE=")), "")
    return service or "supervisor"
