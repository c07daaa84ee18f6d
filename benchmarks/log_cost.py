"""What a long log costs the command that prints it: as a job, and with a file of its own. Alone: `python -m benchmarks.log_cost`.

The command prints lines of 100 bytes, each with a write of its own, as fast as it can: the worst that a training can do.
Its own clock counts. While it is a job, the log is looked through, sent and stored beside it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.client import Client
from benchmarks.measure import percentile
from benchmarks.payload import Broken, Stamps, build
from tests.e2e.product import Product

LOG_MB = 200
STORED_WITHIN_S = 120


def log_cost(program: Path, product: Product, *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round: `ours` and `file`, by turns, after one that warms everything up."""
    client = Client(product)
    pairs = [_both(program, client, product) for _ in range(1 + rounds)][1:]
    return {"ours": [ours for ours, _ in pairs], "file": [file for _, file in pairs]}


def _both(program: Path, client: Client, product: Product) -> tuple[float, float]:
    stamps = Stamps(program)
    client.submit(stamps.command("job", "print", str(LOG_MB)))
    stamps.wait(lambda: "job" in stamps.ends, STORED_WITHIN_S, "the job has printed its log")
    client.settled()
    _forget_log(product.home / "logs" / str(client.last_id))
    printed = program.parent / "printed"
    with printed.open("ab") as output:
        subprocess.run(stamps.command("file", "print", str(LOG_MB)), stdout=output, check=True)
    printed.unlink()
    stamps.poll()
    job, file = ((stamps.ends[name] - stamps.starts[name]) / 1e9 for name in ("job", "file"))
    return job, file


def _forget_log(folder: Path) -> None:
    """Once it is stored whole, so that nothing of it goes on beside the next turn."""
    stored, deadline = folder / "1.log", time.monotonic() + STORED_WITHIN_S
    while not (stored.exists() and stored.stat().st_size == LOG_MB * 10**6):
        if time.monotonic() > deadline:
            raise Broken(f"not within {STORED_WITHIN_S} s: all of the log is stored")
        time.sleep(0.05)
    shutil.rmtree(folder)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="at-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "one").mkdir()
        with Product(folder / "one", devices="sim:1x24GiB") as product:
            found = log_cost(build(folder), product, rounds=5)
    ours, file = (percentile(found[side], 50) for side in ("ours", "file"))
    print(f"{LOG_MB} MB printed: {ours:.2f} s as a job, {file:.2f} s to a file, ratio {ours / file:.3f}")
    print(f"the best of each: ratio {min(found['ours']) / min(found['file']):.3f}")
    print("each round:", ", ".join(f"{a:.2f}/{b:.2f}" for a, b in zip(found["ours"], found["file"], strict=True)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
