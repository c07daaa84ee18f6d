"""`python -m tests.faults.sweep --points 2000 [--seed S]`: faults of all kinds, at random, under mixed load.

Failpoints that kill or stop whoever comes there the n-th time, kills and pauses of services and shims, Redis killed, emptied and
stopped; jobs that complete, fail and are retried, are cancelled, want two devices, or swap files. Every 40 points everything must come to
rest, and the oracle judges. Prints seed and counts; the exit status is the oracle's.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from gpuworker.failpoints import FAILPOINTS
from tests.faults.nemesis import Nemesis, rest
from tests.faults.stack import Stack
from tests.waiting import wait_until

ROUND = 40
"""Points between two judgements: few enough to find the guilty one in the services' logs."""
IN_FLIGHT = 8
PATIENCE_S = 2.5
"""How long an armed failpoint is waited for: not every one is passed by every load."""
BLOWS = ("agent", "control", "redis_killed", "redis_flushed", "redis_stopped", "shim", "offer_repeated", "service_stopped")
FAILPOINT_SHARE = 0.7


class Sweep:
    """Random faults and random jobs over one stack."""

    def __init__(self, stack: Stack, rng: random.Random) -> None:
        self.stack, self.rng = stack, rng
        self.nemesis = Nemesis(stack, rng, pause_s=0.7, redis_stop_s=1.5)
        self.fired: Counter[str] = Counter()
        self.missed = 0
        self.cancelled = 0

    @property
    def points(self) -> int:
        return self.fired.total() + self.nemesis.struck

    def round(self, points: int) -> None:
        """So many faults, then rest and judgement. Raises AssertionError."""
        until = self.points + points
        while self.points < until:
            self._load()
            if self.rng.random() < FAILPOINT_SHARE:
                self._failpoint()
            else:
                self.nemesis.strike(self.rng.choice(BLOWS))
            self.stack.revive()
        self.stack.wake()
        self.stack.settle(timeout_s=120)

    def _load(self) -> None:
        for _ in range(IN_FLIGHT - len(self.stack.unsettled())):
            codes, fields = self.rng.choice(
                [
                    ((0,), {}),
                    ((5,), {}),
                    ((3, 0), {"max_retries": 1, "retry_delay_s": 0.2}),
                    ((3, 4, 5), {"max_retries": 2, "retry_delay_s": 0.2}),
                    ((0,), {"min_gpus": 2, "max_gpus": 2}),
                    ((0,), {"swaps": self._swaps()}),
                ]
            )
            job = self.stack.submit_surely(self.stack.witness(*codes, seconds=round(self.rng.uniform(0.0, 1.5), 3)), **fields)
            if self.rng.random() < 0.2:
                rest(self.rng.uniform(0, 0.6))
                self.cancelled += 1
                self.stack.cancel_surely(job)

    def _swaps(self) -> list[dict[str, str]]:
        """One file that is there and one that is not, of this job's own: who wants the same one as another waits for it."""
        there, absent = (f"{kind}-{self.rng.getrandbits(48):012x}.py" for kind in ("there", "absent"))
        self.stack.keep_an_eye_on(there, b"the original\n")
        self.stack.keep_an_eye_on(absent, None)
        return [{"target": name, "content": "another\n"} for name in (there, absent)]

    def _failpoint(self) -> None:
        point = self.rng.choice(list(FAILPOINTS))
        action = "stop" if self.rng.random() < 0.15 else "kill"
        self.stack.arm(f"{point}:{action}@{self.rng.choice((1, 1, 2, 3))}")
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self._comes_to(point), PATIENCE_S)
        if point not in self.stack.disarm():
            self.missed += 1
            return
        self.fired[point] += 1
        self.stack.shims_killed += point.startswith("shim.") and action == "kill"
        if action == "stop":
            rest(self.rng.uniform(0.1, 1.5))
            self.stack.wake()

    def _comes_to(self, point: str) -> bool:
        """Whether it fired; adoption, for one, only happens to who is started again."""
        if point.startswith("adopt.") and self.rng.random() < 0.02:
            self.stack.kill("agent")
        self.stack.revive()
        return self.stack.fired(point)


def main(argv: Sequence[str]) -> int:
    options = _parse(argv)
    print(f"{options.points} points, seed {options.seed}", flush=True)
    began, wrong = time.monotonic(), ""
    with Stack(Path(tempfile.mkdtemp(prefix="at-faults-"))) as stack:
        sweep = Sweep(stack, random.Random(options.seed))
        try:
            while sweep.points < options.points:
                sweep.round(min(ROUND, options.points - sweep.points))
                print(_counts(sweep, time.monotonic() - began), flush=True)
        except AssertionError as exc:
            wrong = f"{exc}\n{stack.told(20000)}"
        print(_counts(sweep, time.monotonic() - began))
        print(f"By failpoint: {dict(sorted(sweep.fired.items()))}\nBy blow: {dict(sorted(sweep.nemesis.counts.items()))}")
        print(wrong or "The oracle found nothing wrong.", flush=True)
    return 1 if wrong else 0


def _counts(sweep: Sweep, took_s: float) -> str:
    stack = sweep.stack
    return (
        f"{sweep.points} points ({sweep.fired.total()} at {len(sweep.fired)} of {len(FAILPOINTS)} failpoints, {sweep.missed} not come to; "
        f"{sweep.nemesis.struck} blows), {len(stack.accepted)} jobs, {sweep.cancelled} cancelled, {len(stack.runs())} starts, "
        f"{stack.restarts} services started again, {took_s:.0f} s"
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    made = argparse.ArgumentParser(prog="python -m tests.faults.sweep", description=(__doc__ or "").partition("\n\n")[0])
    made.add_argument("--points", type=int, default=2000)
    made.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    return made.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
