"""`python -m tests.faults.outbox --events 10000 --kills 100 [--database postgresql] [--seed S]`: is each letter sent, and sent once?

So many ends of jobs, told to people by a real sender against a mail server that fails 30 % of what comes (badsink.py), while the
sender is killed at random moments and replaced at once. Lease, deadline, backoff and the ten minutes of folding are seconds or
less here, so that a week of trying again passes in minutes. Then what came is compared with what was promised: lost; doubled, with
the Message-ID of the first or with another; one Message-ID about different jobs. `--seed` repeats events, faults and the tries
at which somebody is killed; the exit status is 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.e2e.product import CHECKOUT, Product
from tests.faults.badsink import NOBODY, Mail, Sink
from tests.postgres import private_postgres, programs
from tests.waiting import wait_until

SHARE = 0.3
LATEST_S = 0.06
"""How long after a connection was made a blow may fall: what it takes on average until the next, so that all moments are as likely."""
DOUBLED_AT_MOST = 0.001
Row = tuple[int, str, str]
"""Job, recipient, state."""


@dataclass
class Found:
    """What came of it."""

    rows: list[Row]
    mails: list[Mail]
    faults: Counter[str]
    tries: int
    kills: int
    took_s: float
    lost: list[Row] = field(default_factory=list)
    unsettled: list[Row] = field(default_factory=list)
    dead: int = 0
    wrongly_dead: list[Row] = field(default_factory=list)
    doubled: int = 0
    """Letters that came again with the Message-ID of the first, after a kill, or after a time-out of ours."""
    doubled_by_cut: int = 0
    """The same, where the server had taken a mail and cut the connection instead of saying so."""
    doubled_otherwise: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    """One Message-ID about different jobs: a mail program would show only one of them."""

    @property
    def wrong(self) -> bool:
        bad = self.lost or self.unsettled or self.wrongly_dead or self.doubled_otherwise or self.changed
        return bool(bad) or self.doubled > max(1, self.kills, DOUBLED_AT_MOST * len(self.rows))


def judge(rows: Sequence[Row], mails: Sequence[Mail]) -> Found:
    found = Found(list(rows), list(mails), Counter(), 0, 0, 0.0)
    came: dict[tuple[int, str], list[Mail]] = defaultdict(list)
    letters: dict[str, list[Mail]] = defaultdict(list)
    for mail in mails:
        letters[mail.message_id].append(mail)
        for job in mail.jobs:
            came[job, mail.to].append(mail)
    for row in rows:
        job, to, state = row
        if state not in ("sent", "dead"):
            found.unsettled.append(row)
        found.dead += state == "dead"
        if (state == "dead") != (to == NOBODY):
            found.wrongly_dead.append(row)
        if to != NOBODY and not came[job, to]:
            found.lost.append(row)
    for key, several in came.items():
        if len({mail.message_id for mail in several}) > 1:
            found.doubled_otherwise.append(f"job {key[0]} to {key[1]}: {sorted({mail.message_id for mail in several})}")
    for name, several in letters.items():
        if len({mail.jobs for mail in several}) > 1:
            found.changed.append(f"{name}: {[sorted(mail.jobs) for mail in several]}")
        cuts = sum(not mail.said for mail in several[:-1])
        found.doubled_by_cut += cuts
        found.doubled += len(several) - 1 - cuts
    return found


# --- the sweep ----------------------------------------------------------------------------------------------------------


class Sweep(Product):
    """A home of its own, on which only the sender runs."""

    def __init__(self, root: Path, *, events: int, kills: int, seed: int, pace: float = 1.0, database_url: str = "") -> None:
        self.events, self.seed, self.pace, self.database_url = events, seed, pace, database_url
        rng = random.Random(seed)
        self._blows = {at: rng.uniform(0, LATEST_S) for at in rng.sample(range(1, max(kills + 1, int(0.8 * events)) + 1), kills)}
        self.sink = Sink(random.Random(seed + 1), share=SHARE, on_try=self._tried)
        environ = {"EMAIL_URL": f"smtp://127.0.0.1:{self.sink.port}/", "AUTOTRAINER_URL": "https://gpus.example.org"}
        super().__init__(root, environ=environ | ({"DATABASE_URL": database_url} if database_url else {}))
        self.log = root / "parts.log"
        self.kills = 0
        self._sender = 0
        self._due = threading.Event()

    def _tried(self, count: int) -> None:
        """In the server's thread."""
        if (delay_s := self._blows.get(count)) is not None:
            threading.Timer(delay_s, self._due.set).start()

    def run(self, *, timeout_s: float) -> Found:
        began = time.monotonic()
        with self.sink.running(), self._parts() as parts:
            self._start(parts)
            try:
                self._strike(parts, until=began + timeout_s)
            finally:
                self._kill(counted=False)
        found = judge(self.rows("SELECT job_id, recipient, state FROM jobs_notification"), self.sink.mails)
        found.faults, found.tries, found.kills, found.took_s = self.sink.faults, self.sink.tries, self.kills, time.monotonic() - began
        return found

    def _strike(self, parts: subprocess.Popen[str], *, until: float) -> None:
        """Until nothing is left to send."""
        look_at = 0.0
        while time.monotonic() < until:
            if self._due.wait(0.05):
                self._due.clear()
                self._kill()
                self._start(parts)
            if time.monotonic() > look_at:
                look_at = time.monotonic() + 0.3
                if not self.rows("SELECT 1 FROM jobs_notification WHERE state IN ('pending', 'sending') LIMIT 1"):
                    return

    @contextmanager
    def _parts(self) -> Iterator[subprocess.Popen[str]]:
        argv = [sys.executable, "-m", "tests.faults.outbox_parts", str(self.events), str(self.seed), str(self.pace)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        with self.log.open("wb") as log, subprocess.Popen(argv, cwd=CHECKOUT, env=self.environ, stderr=log, **pipes) as parts:
            try:
                said = parts.stdout.readline() if parts.stdout else ""
                assert said == "made\n", self.log.read_text()[-3000:]
                yield parts
            finally:
                with contextlib.suppress(OSError):
                    parts.communicate(timeout=10)

    def _start(self, parts: subprocess.Popen[str]) -> None:
        assert parts.stdin
        assert parts.stdout
        parts.stdin.write("send\n")
        self._sender = int(parts.stdout.readline())

    def _kill(self, *, counted: bool = True) -> None:
        os.kill(self._sender, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{self._sender}").exists(), 10, "the sender is dead", every_s=0.002)
        self.kills += counted

    def rows(self, query: str) -> list[Any]:
        if self.database_url:
            with psycopg.connect(self.database_url) as postgres:
                return postgres.execute(query).fetchall()  # type: ignore[arg-type] # our own words
        with closing(sqlite3.connect(self.home / "autotrainer.sqlite3", timeout=20)) as database:
            return database.execute(query).fetchall()


def table(found: Found) -> str:
    again = found.tries - len(found.mails)
    faults = ", ".join(f"{name} {count}" for name, count in sorted(found.faults.items()))
    lines = [
        ("promised (events and recipients)", str(len(found.rows))),
        ("letters that came", str(len(found.mails))),
        ("connections", f"{found.tries} ({again} in vain: {faults})"),
        ("the sender was killed", f"{found.kills} times"),
        ("lost", str(len(found.lost))),
        ("doubled, same Message-ID", f"{found.doubled} ({100 * found.doubled / max(1, len(found.rows)):.3f} %)"),
        ("… since the server took it and cut the line", str(found.doubled_by_cut)),
        ("doubled, another Message-ID", str(len(found.doubled_otherwise))),
        ("one Message-ID about different jobs", str(len(found.changed))),
        ("dead (refused for good by its address)", str(found.dead)),
        ("dead or alive wrongly", str(len(found.wrongly_dead))),
        ("still not settled", str(len(found.unsettled))),
        ("took", f"{found.took_s:.0f} s"),
    ]
    shown = [f"{title:<46}{value}" for title, value in lines]
    for each in (found.lost, found.wrongly_dead, found.unsettled, found.doubled_otherwise, found.changed):
        shown += [f"  {one}" for one in each[:10]]
    return "\n".join(shown)


def main(argv: Sequence[str]) -> int:
    options = _parse(argv)
    print(f"{options.events} events, {options.kills} kills, {options.database}, seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="at-outbox-") as folder, _database(options.database) as url:
        sweep = Sweep(Path(folder), events=options.events, kills=options.kills, seed=options.seed, pace=options.pace, database_url=url)
        found = sweep.run(timeout_s=options.timeout_s)
        print(table(found), flush=True)
        if found.wrong:
            print(sweep.log.read_text()[-4000:])
    return 1 if found.wrong else 0


@contextmanager
def _database(kind: str) -> Iterator[str]:
    if kind == "sqlite":
        yield ""
        return
    if not (binaries := programs()):
        sys.exit("PostgreSQL is missing: install it, or put its `postgres` on PATH.")
    with private_postgres(binaries) as server:
        yield server.fresh()


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    made = argparse.ArgumentParser(prog="python -m tests.faults.outbox", description=(__doc__ or "").partition("\n\n")[0])
    made.add_argument("--events", type=int, default=10_000)
    made.add_argument("--kills", type=int, default=100)
    made.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    made.add_argument("--pace", type=float, default=1.0, help="of lease, deadline, folding and backoff (outbox_parts.py); less is quicker")
    made.add_argument("--timeout-s", type=float, default=3600.0)
    made.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    return made.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
