"""`python -m tests.faults.requeue --rounds 40 [--seed S]`: a training that may go elsewhere, and a host that is cut off for any time.

Two hosts; a job with `on_host_loss: requeue` runs on one of them, whose wire to Redis is cut for a random time around the moment
at which that host must end it by its own clock, in a random way; or its agent is killed first, so that nobody but the shim is there
to end it. It may go on, or begin again on the other host; two copies of it must never live at once, and it must complete.
Waits are shorter here (partitions.py, QUICK). `--seed` repeats hosts, times and ways as far as the machine lets it.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.faults.nemesis import rest
from tests.faults.partitions import CONVERGED_S, Wired
from tests.faults.stack import HOST, SECOND_AGENT
from tests.postgres import private_postgres, programs
from tests.waiting import wait_until

SHORTEST_S, LONGEST_S = 0.5, 9.0
"""A host is given up 1.5 s after its last word, and ends such a training 3 s after its last contact."""
WAYS = ("blackhole", "only there", "only back", "reset", "agent killed")


class Requeue:
    def __init__(self, stack: Wired, rng: random.Random) -> None:
        self.stack, self._rng = stack, rng
        self.moved, self.ways = Counter[bool](), Counter[str]()

    def round(self) -> None:
        """Raises AssertionError."""
        stack, gate = self.stack, self.stack.gate()
        stack.add_host()
        job = stack.submit_surely(stack.witness(gate=gate), on_host_loss="requeue")
        stack.hosts_lost.add(job)
        wait_until(lambda: stack.began(job), 30, "it runs")
        agent = "agent" if stack.api("GET", f"jobs/{job}/")["host"] == HOST else SECOND_AGENT
        way, seconds = self._rng.choice(WAYS), self._rng.uniform(SHORTEST_S, LONGEST_S)
        self.ways[way] += 1
        wire = stack.wires[agent, "redis"]
        try:
            if way == "agent killed":
                stack.kill(agent)
            if way == "reset":
                wire.reset()
            else:
                wire.cut(there=way != "only back", back=way != "only there")
            rest(seconds)
        finally:
            wire.mend()
        stack.revive()
        gate.touch()
        wait_until(lambda: not stack.unsettled(), CONVERGED_S, "the job is over")
        stack.remove_host()
        stack.settle(CONVERGED_S)
        self.moved[len({run.attempt for run in stack.runs() if run.job == job}) > 1] += 1


def main(argv: Sequence[str]) -> int:
    options = _parse(argv)
    if not (binaries := programs()):
        sys.exit("PostgreSQL is missing: install it, or put its `postgres` on PATH.")
    print(f"{options.rounds} rounds, seed {options.seed}", flush=True)
    with private_postgres(binaries) as server, Wired(Path(tempfile.mkdtemp(prefix="at-requeue-")), server) as stack:
        sweep = Requeue(stack, random.Random(options.seed))
        for number in range(options.rounds):
            try:
                sweep.round()
            except AssertionError as exc:
                print(f"round {number}: WRONG: {exc}\n{stack.told(3000)}")
                return 1
    ways = ", ".join(f"{way} {count}" for way, count in sorted(sweep.ways.items()))
    print(
        f"Cut: {ways}. {sweep.moved[True]} jobs began again elsewhere, {sweep.moved[False]} went on; none ever lived twice, all completed."
    )
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    made = argparse.ArgumentParser(prog="python -m tests.faults.requeue", description=(__doc__ or "").partition("\n\n")[0])
    made.add_argument("--rounds", type=int, default=40)
    made.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    return made.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
