"""`python -m tests.faults.forgeries --messages 1000 [--seed S]`: somebody writes into Redis what they like.

A training runs, another has ended, and tests/faults/attacker.py does its worst. Nothing may start, end or be said by it: then
the oracle judges, and what the product does for its users afterwards shows that it hears. Prints seed and counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import redis

from gpuworker import protocol
from gpuworker import settings as environment
from gpuworker.dropped import Drop
from gpuworker.protocol import Beat, Kind, Spec
from tests.faults.attacker import OTHER, Attacker, Recorded
from tests.faults.stack import HOST, Stack
from tests.waiting import wait_until

WORKERS = ("agent", "control")
NOTICED = (
    "A message in",
    "A task was dropped",
    "A stop command was dropped",
    "A canary was dropped",
    "Rules were dropped",
    "A question was dropped",
    "An acknowledgement was dropped",
    f"report of {HOST} dropped",
    f"log chunk of {HOST} dropped",
    f"heartbeat of {HOST} dropped",
    f"Somebody says hello as host {HOST}",
    "held what is none of ours",
)
"""What the two workers' logs must say: it is noticed."""
NEVER = ("Unrecoverable", "command error", "could not handle it", "failed and goes on", "Redis is away", "Task handler raised")
TABLES = ("jobs_job", "jobs_attempt", "jobs_jobevent", "jobs_dispatch")
LIVE = {"progress", "remaining_s", "progress_at", "git"}
"""Columns that come by themselves while a training runs."""


class Forgeries:
    """One storm over one stack."""

    def __init__(self, stack: Stack, rng: random.Random) -> None:
        self.stack, self.rng = stack, rng
        self.counts: Counter[str] = Counter()
        self.key = environment.host_key(stack.settings)
        cluster = (stack.home / "keys" / "cluster_key").read_text().strip().encode()
        self.other_key = protocol.derive_host_key(cluster, OTHER)
        self.mark = stack.work / "forged"
        self._add_host(OTHER)

    def storm(self, messages: int) -> None:
        """Raises AssertionError where anything came of it."""
        before_beat = self._beat()
        over = self.stack.submit_surely(self.stack.witness(0))
        wait_until(lambda: not self.stack.unsettled(), 30, "the first training is over", every_s=0.05)
        gate = self.stack.gate()
        job = self.stack.submit_surely(self.stack.witness(0, gate=gate))
        wait_until(lambda: self._listed(self._spec(job)), 30, "the training runs and is listed", every_s=0.05)
        states = f"SELECT state FROM jobs_job WHERE id = {job}"
        wait_until(lambda: self.stack.rows(states) == [("running",)], 30, "its start was taken in", every_s=0.05)
        recorded = Recorded(self._spec(job), self._spec(over), replace(before_beat, attempts=()), self.key)
        attacker = Attacker(self.stack.client, self.rng, recorded, host=HOST, other_key=self.other_key, mark=str(self.mark))
        attacker.repeated_stop()  # once it is heard in earnest; all others are its repetitions
        rows, folders = self._rows(), self.stack.attempts()
        pids = {name: self.stack.services[name].pid for name in WORKERS}
        for _ in range(messages):
            self.counts[attacker.act()] += 1
        self._hears(recorded.spec)
        assert not (changed := _differences(rows, self._rows())), f"the database has changed: {changed}"
        assert self.stack.attempts() == folders, f"{self.stack.attempts()}, and it was {folders}"
        assert not self.mark.exists(), "a forged command ran"
        gate.touch()
        assert {name: self.stack.services[name].pid for name in WORKERS} == pids, "a worker was started again"
        assert self.stack.restarts == 0
        self._serves()
        self._noticed(attacker)
        self._counted()

    # --- judging --------------------------------------------------------------------------------------------------------

    def _hears(self, spec: Spec) -> None:
        """All has been taken, and what was true before is still so."""

        def quiet() -> bool:
            names = (protocol.host_queue(HOST), protocol.CONTROL_QUEUE)
            streams = [protocol.reports_key(host) for host in (HOST, OTHER)] + [protocol.logs_key(HOST)]
            try:
                lists = all(self.stack.client.llen(protocol.KEY_PREFIX + name) == 0 for name in names)
                return lists and all(self.stack.client.xlen(key) == 0 for key in streams) and self._listed(spec)
            except redis.ResponseError:
                return False  # What was put in the place of one of them is still there.

        wait_until(quiet, 30, "everything was taken, and the training runs", every_s=0.05)
        for name in WORKERS:
            assert self.stack.services[name].poll() is None, f"{name} has ended"

    def _serves(self) -> None:
        """The product does for its users what it did before: starts, ends, cancels; and its logs are true."""
        gate = self.stack.gate()
        job = self.stack.submit_surely(self.stack.witness(0, gate=gate))
        self.stack.submit_surely(self.stack.witness(3, 0), max_retries=1, retry_delay_s=0.2)
        wait_until(lambda: self.stack.began(job), 30, "a training starts", every_s=0.05)
        self.stack.cancel_surely(job)
        self.stack.settle()

    def _noticed(self, attacker: Attacker) -> None:
        def missing() -> list[str]:
            return [words for words in NOTICED if words not in self._said()]

        def all_said() -> bool:
            with contextlib.suppress(redis.ResponseError):
                attacker.question()  # Those before it may all have met a key that held something else,
                attacker.beat()  # or a true one that followed before anybody looked.
            return not missing()

        with contextlib.suppress(AssertionError):
            wait_until(all_said, 20, every_s=0.5)
        assert not missing(), f"nobody said: {missing()}"
        said = self._said()
        found = [words for words in NEVER if words in said]
        assert not found, f"said: {found}"
        assert "\n[all is well]" not in said, "a line of the log was forged"

    def _counted(self) -> None:
        """For /metrics: the agent's own with its heartbeats, the control worker's in the database."""
        by_host = {Drop.ACK, Drop.CANARY, Drop.MESSAGE, Drop.QUESTION, Drop.RULES, Drop.STOP, Drop.TASK}

        def told() -> bool:
            with contextlib.suppress(protocol.BadEnvelope, protocol.BadMessage):  # a forged one lies there still
                return by_host <= self._beat().dropped.keys()
            return False

        wait_until(told, 20, "the host tells what it has dropped", every_s=0.2)
        by_control = {Drop.BEAT, Drop.CHUNK, Drop.MESSAGE, Drop.REPORT}

        def counted() -> bool:
            return by_control <= {kind for (kind,) in self.stack.rows("SELECT kind FROM jobs_droppedmessages WHERE count > 0")}

        wait_until(counted, 20, "what the control worker has dropped is in the database", every_s=0.2)

    def _said(self) -> str:
        return "".join((self.stack.home / f"{name}.log").read_text(errors="replace") for name in WORKERS)

    # --- looking --------------------------------------------------------------------------------------------------------

    def _rows(self) -> list[Any]:
        """All that is known about jobs, but for what a running training moves by itself."""
        found: list[Any] = []
        for table in TABLES:
            columns = [name for _, name, *_ in self.stack.rows(f"PRAGMA table_info({table})") if name not in LIVE]
            found.append(self.stack.rows(f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1"))
        return found

    def _spec(self, job: int) -> Spec:
        """As the host has it on its disk, once it has."""

        def look() -> Spec | None:
            bodies = [self._body(path) for path in self.stack.offered()]
            return next((spec for spec in bodies if spec.number == job), None)

        return wait_until(look, 30, f"job {job} was offered", every_s=0.05)

    def _body(self, folder: Path) -> Spec:
        return Spec.read(json.loads((folder / "spec.json").read_text())["body"])

    def _beat(self) -> Beat:
        text: Any = wait_until(lambda: self.stack.client.get(protocol.beat_key(HOST)), 20, "a heartbeat")
        return Beat.read(protocol.unseal(Kind.BEAT, HOST, text, [self.key]))

    def _listed(self, spec: Spec) -> bool:
        try:
            return any(one.job == spec.job and one.running for one in self._beat().attempts)
        except (protocol.BadEnvelope, protocol.BadMessage):
            return False  # Theirs; the true one follows.

    def _add_host(self, name: str) -> None:
        with closing(sqlite3.connect(self.stack.home / "autotrainer.sqlite3", timeout=20)) as database, database:
            columns = [column for _, column, *_ in database.execute("PRAGMA table_info(jobs_host)") if column not in ("id", "name")]
            named = ", ".join(columns)
            database.execute(f"INSERT INTO jobs_host (name, {named}) SELECT ?, {named} FROM jobs_host LIMIT 1", [name])


def _differences(before: Sequence[Any], after: Sequence[Any]) -> list[Any]:
    return [(table, set(was) ^ set(now)) for table, was, now in zip(TABLES, before, after, strict=True) if was != now]


def main(argv: Sequence[str]) -> int:
    options = _parse(argv)
    print(f"{options.messages} messages, seed {options.seed}", flush=True)
    began, wrong = time.monotonic(), ""
    with Stack(Path(tempfile.mkdtemp(prefix="at-forged-"))) as stack:
        forgeries = Forgeries(stack, random.Random(options.seed))
        try:
            forgeries.storm(options.messages)
        except AssertionError as exc:
            wrong = f"{exc}\n{stack.told(20000)}"
        print(f"{forgeries.counts.total()} messages of {len(forgeries.counts)} kinds, {time.monotonic() - began:.0f} s")
        print(f"By kind: {dict(sorted(forgeries.counts.items()))}")
        print(wrong or "Nothing started, nothing was ended, nothing was forged; both workers live and hear.", flush=True)
    return 1 if wrong else 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    made = argparse.ArgumentParser(prog="python -m tests.faults.forgeries", description=(__doc__ or "").partition("\n\n")[0])
    made.add_argument("--messages", type=int, default=1000)
    made.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    return made.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
