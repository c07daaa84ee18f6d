"""`python -m tests.faults.kill WHOM --kills 200 --trainings 100`: kill a part of the product again and again under load.

WHOM: agent; control (web and control worker at once); redis (SIGKILL, FLUSHALL, SIGSTOP in turn); everything (all services and
the zygote, and how long until what runs is adopted); rolling (two webs and two control workers on a PostgreSQL of our own, half
of them at a time, then agent and Redis: asked to end by SIGTERM and started again). Trainings are never touched, so each must
run once, from its beginning to its own end. Prints seed and counts; the exit status is the oracle's.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.faults.nemesis import Nemesis
from tests.faults.stack import PAIR, Stack
from tests.postgres import private_postgres, programs

KINDS = {
    "agent": ("agent",),
    "control": ("control",),
    "redis": ("redis_killed", "redis_flushed", "redis_stopped"),
    "everything": ("everything",),
    "rolling": ("rolling",),
}
ROUND_S = {"rolling": 8.0}
USUAL_ROUND_S = 2.5
"""About what a blow and the recovery from it take: how long the load has to last."""
EXIT_CODES = (0, 0, 0, 3, 77, 255)


def storm(stack: Stack, nemesis: Nemesis, *, whom: str, kills: int, trainings: int, devices: int) -> list[str]:
    """Strike while the trainings run; answers what was disturbed. Raises AssertionError where the oracle finds anything."""
    stopped_s = nemesis.redis_stop_s / len(KINDS["redis"]) if whom == "redis" else 0.0
    load_s = kills * (ROUND_S.get(whom, USUAL_ROUND_S) + stopped_s) * devices / trainings
    before = len(stack.accepted)
    for _ in range(trainings):
        seconds = round(nemesis.rng.uniform(0.2 * load_s, 1.8 * load_s), 3)
        stack.submit_surely(stack.witness(nemesis.rng.choice(EXIT_CODES), seconds=seconds))
    for number in range(kills):
        nemesis.strike(KINDS[whom][number % len(KINDS[whom])])
        stack.revive()
    stack.settle(timeout_s=120 + trainings * load_s)
    ours = set(stack.accepted[before:])
    return [
        f"job {job.id}: {job.state} after {len(job.attempts)} attempts" for job in stack.jobs() if job.id in ours and len(job.attempts) != 1
    ]


def main(argv: Sequence[str]) -> int:
    options = _parse(argv)
    rng = random.Random(options.seed)
    print(f"{options.whom}: {options.kills} kills over {options.trainings} trainings, seed {options.seed}", flush=True)
    began = time.monotonic()
    with _stack(options) as stack:
        nemesis = Nemesis(stack, rng, redis_stop_s=options.stop_s)
        try:
            disturbed = storm(stack, nemesis, whom=options.whom, kills=options.kills, trainings=options.trainings, devices=options.devices)
        except AssertionError as exc:
            disturbed = [str(exc), stack.told(3000)]
        print(report(stack, nemesis, disturbed, time.monotonic() - began), flush=True)
    return 1 if disturbed else 0


@contextmanager
def _stack(options: argparse.Namespace) -> Iterator[Stack]:
    root, devices = Path(tempfile.mkdtemp(prefix="at-faults-")), f"sim:{options.devices}x8GiB"
    if options.whom != "rolling":
        with Stack(root, devices=devices) as stack:
            yield stack
        return
    if not (binaries := programs()):
        sys.exit("PostgreSQL is missing: install it, or put its `postgres` on PATH.")
    with private_postgres(binaries) as server, Stack(root, devices=devices, names=PAIR, environ={"DATABASE_URL": server.fresh()}) as stack:
        yield stack


def report(stack: Stack, nemesis: Nemesis, disturbed: Sequence[str], took_s: float) -> str:
    runs = stack.runs()
    lines = [
        f"{nemesis.struck} blows ({', '.join(f'{kind} {count}' for kind, count in sorted(nemesis.counts.items()))}),",
        f"{nemesis.met} of them while a training ran; {len(runs)} starts and {sum(run.stopped is not None for run in runs)} ends",
        f"of {len(stack.accepted)} jobs; {stack.restarts} services started; {took_s:.0f} s.",
    ]
    if nemesis.adopted_s:
        worst = sorted(nemesis.adopted_s)
        lines.append(f"Adopted within {worst[len(worst) // 2]:.1f} s (median), {worst[-1]:.1f} s (worst).")
    lines.append("Disturbed, lost or doubled: " + ("0." if not disturbed else "\n".join(disturbed)))
    return " ".join(lines)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    made = argparse.ArgumentParser(prog="python -m tests.faults.kill", description=(__doc__ or "").partition("\n\n")[0])
    made.add_argument("whom", choices=sorted(KINDS))
    made.add_argument("--kills", type=int, default=200)
    made.add_argument("--trainings", type=int, default=100)
    made.add_argument("--devices", type=int, default=8)
    made.add_argument("--stop-s", type=float, default=30.0, help="how long a SIGSTOP of Redis lasts")
    made.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    return made.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
