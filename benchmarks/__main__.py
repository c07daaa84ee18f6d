"""Measure everything, print a table, write JSON. About four minutes; starts and ends all that it needs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import command_line, deep_queue, large_log, many, measure, notifications, pages, streams
from benchmarks.client import Client
from benchmarks.log_cost import LOG_MB, log_cost
from benchmarks.measure import Footprint, percentile, total_mb
from benchmarks.payload import Broken, Stamps, build
from benchmarks.peer import bare_celery
from tests.e2e.product import Product

DEVICES = 8
SENDERS = 4
RUNNING = 50
"""Jobs at once, for the memory that each takes."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    default = Path(__file__).parent / "results" / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.json"
    parser.add_argument("output", nargs="?", type=Path, default=default, help="where the JSON goes (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a third of the rounds: for a look, not for a figure to quote")
    parser.add_argument("--deep-queue", action="store_true", help="instead: what the length of the queue costs")
    parser.add_argument("--pages", action="store_true", help="instead: what pages and lists cost")
    parser.add_argument("--streams", action="store_true", help="instead: how late lines come to many who follow logs")
    parser.add_argument("--large-log", action="store_true", help="instead: what a log of a gigabyte costs its page")
    parser.add_argument("--command-line", action="store_true", help="instead: how long `autotrainer list` takes")
    parser.add_argument("--notifications", action="store_true", help="instead: what a mail service that is down costs a launch")
    parser.add_argument("--many", action="store_true", help="instead: what 100 to 400 hosts cost")
    options = parser.parse_args()
    others = {"deep_queue": deep_queue, "pages": pages, "streams": streams, "large_log": large_log, "command_line": command_line}
    others |= {"notifications": notifications, "many": many}
    other = next((module for name, module in others.items() if getattr(options, name)), None)
    measured, shown = (other.run, other.table) if other else (run, table)
    try:
        with tempfile.TemporaryDirectory(prefix="at-bench-", ignore_cleanup_errors=True) as folder:
            result = measured(Path(folder), 1 / 3 if options.quick else 1)
    except (Broken, AssertionError) as exc:
        print(f"The benchmark stopped: {exc}", file=sys.stderr)
        return 1
    print(shown(result))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nWritten to {options.output}")
    return 0


def run(folder: Path, scale: float) -> dict[str, Any]:
    program = build(folder)
    result: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()},
        "fsync_ms": measure.fsync_ms(folder),
    }
    (folder / "one").mkdir()
    with Product(folder / "one", devices="sim:1x24GiB") as product, bare_celery(folder / "peer-one", 1) as peer:
        client = Client(product)
        say("submit to start, by turns")
        result["start_ms"] = starts(program, client, peer.submit, rounds=round(30 * scale))
        say("end to next start, by turns")
        result["gap_ms"] = gaps(program, client, peer.submit, rounds=round(3 * scale), jobs=20)
    (folder / "many").mkdir()
    with Product(folder / "many", devices=f"sim:{DEVICES}x24GiB") as product, bare_celery(folder / "peer-many", DEVICES) as peer:
        fresh = measure.settled_footprint(product)
        say(f"jobs a second with {DEVICES} devices, by turns")
        result["jobs_per_s"] = throughput(program, product, peer.submit, rounds=2, seconds=12 * scale)
        say("memory")
        result["memory_mb"] = {"fresh": plain(fresh), **memory(program, product, peer.pid)}
        say(f"what {LOG_MB} MB of log cost, by turns")
        result["log_s"] = log_cost(program, product, rounds=max(2, round(5 * scale)))
    return result


def say(what: str) -> None:
    print(f"measuring {what} …", file=sys.stderr, flush=True)


def starts(program: Path, client: Client, publish: measure.Submit, *, rounds: int, warm: int = 3) -> dict[str, list[float]]:
    stamps = Stamps(program)
    found: dict[str, list[float]] = {"ours": [], "celery": []}
    for number in range(-warm, rounds):
        ours = measure.start_ms(stamps, f"ours{number}", client.submit)
        client.settled()
        time.sleep(random.uniform(0.05, 0.25))  # not in step with whatever polls
        celery = measure.start_ms(stamps, f"celery{number}", publish)
        time.sleep(random.uniform(0.05, 0.15))
        if number >= 0:
            found["ours"].append(ours)
            found["celery"].append(celery)
    return found


def gaps(program: Path, client: Client, publish: measure.Submit, *, rounds: int, jobs: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"ours": [], "celery": []}
    for _ in range(max(rounds, 1)):
        found["ours"] += measure.gaps_ms(program, client.submit, jobs)
        client.settled()
        found["celery"] += measure.gaps_ms(program, publish, jobs)
    return found


def throughput(program: Path, product: Product, publish: measure.Submit, *, rounds: int, seconds: float) -> dict[str, list[float]]:
    clients = [Client(product) for _ in range(SENDERS)]
    found: dict[str, list[float]] = {"ours": [], "celery": []}
    for _ in range(rounds):
        found["ours"].append(measure.jobs_per_s(program, [c.submit for c in clients], seconds)[1])
        clients[0].settled()
        found["celery"].append(measure.jobs_per_s(program, [publish], seconds / 2)[1])
    return found


def memory(program: Path, product: Product, peer_pid: int) -> dict[str, Any]:
    """Idle, after the jobs of the other measurements have warmed everything, and while jobs run that wait: one, then many."""
    client, stamps = Client(product), Stamps(program)
    idle = measure.settled_footprint(product)
    with stamps.gate() as waiting:
        found = []
        for upto in (1, RUNNING):
            for number in range(len(stamps.starts), upto):
                client.submit(stamps.command(str(number), *waiting), min_gpus=0, max_gpus=0)
            stamps.wait(lambda upto=upto: len(stamps.starts) == upto, 60, f"{upto} jobs run")
            found.append(measure.settled_footprint(product))
    one, busy = found
    return {
        "idle": plain(idle),
        "busy": plain(busy),
        "each_running_job": (total_mb(busy) - total_mb(one)) / (RUNNING - 1),
        "celery_worker": measure.pss(peer_pid),
    }


def plain(kinds: dict[str, Footprint]) -> dict[str, dict[str, float]]:
    return {kind: {"processes": found.processes, "pss_mb": found.pss_mb} for kind, found in kinds.items()}


def table(result: dict[str, Any]) -> str:
    lines = [f"{'':<46}{'AutoTrainer':>14}{'bare Celery':>14}{'ratio':>8}"]
    for title, name in (("submit (REST) to the first instruction", "start_ms"), ("end of a job to the next start", "gap_ms")):
        for percent in (50, 95):
            ours, celery = (percentile(result[name][side], percent) for side in ("ours", "celery"))
            lines.append(_row(f"{title}, p{percent}", f"{ours:.1f} ms", f"{celery:.1f} ms", ours / celery))
    ours, celery = (percentile(result["jobs_per_s"][side], 50) for side in ("ours", "celery"))
    lines.append(_row(f"no-op jobs a second, {DEVICES} devices", f"{ours:.0f} /s", f"{celery:.0f} /s", ours / celery))
    ours, file = (percentile(result["log_s"][side], 50) for side in ("ours", "file"))
    lines.append(_row(f"printing {LOG_MB} MB (beside it: to a file)", f"{ours:.2f} s", f"{file:.2f} s", ours / file))
    memory = result["memory_mb"]
    idle = {kind: Footprint(f["processes"], f["pss_mb"]) for kind, f in memory["idle"].items()}
    for kind, found in idle.items():
        peer = memory["celery_worker"] if kind == "agent" else None
        fresh = memory["fresh"].get(kind, {}).get("pss_mb", 0.0)
        title = f"memory (PSS), idle: {kind}" + (f" ({found.processes} processes)" if found.processes > 1 else "")
        shown = f"{peer:.0f} MB" if peer else ""
        lines.append(_row(title, f"{found.pss_mb:.1f} MB", shown, found.pss_mb / peer if peer else None) + f"   fresh {fresh:.1f} MB")
    lines.append(_row("memory (PSS), idle: all of ours", f"{total_mb(idle):.0f} MB", "", None))
    lines.append(_row("memory (PSS), each running job", f"{memory['each_running_job']:.2f} MB", "", None))
    lines.append(f"\nThis disk takes {percentile(result['fsync_ms'], 50):.2f} ms (p50) for an fsync; a bare Celery worker never makes one.")
    return "\n".join(lines)


def _row(title: str, ours: str, peer: str, ratio: float | None) -> str:
    return f"{title:<46}{ours:>14}{peer:>14}{f'{ratio:.2f}' if ratio is not None else '':>8}"


if __name__ == "__main__":
    sys.exit(main())
