"""`python -m tests.faults.outbox_parts EVENTS SEED PACE`: makes so many events with their rows, then forks a sender for each line it reads.

Forked and not started anew, since a hundred starts of Django would take longer than all that is tried. A sender is the control
worker's own sending thread with a leadership of its own; only waits are shorter. No Redis runs here: sending needs none.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from datetime import timedelta
from typing import Any

import django

from tests.faults.badsink import NOBODY
from tests.faults.clocks import hurry

HOST = "lab"
TRACEBACK = b'Traceback (most recent call last):\n  File "/w/train.py", line 88, in step\n    rate = config["lr"]\nKeyError: \'lr\'\n'
PEOPLE_EACH = 25
"""Events for each person: several failures are one letter, and it names each of them."""
LEASE_S, LETTER_S, FOLD_S, FIRST_DELAY_S, LONGEST_DELAY_S = 4.0, 0.7, 2.0, 0.05, 1.0
"""Instead of 15, 5 and 10 minutes, 5 seconds and 6 hours; times the pace."""


def main(events: int, seed: int, pace: float) -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "autotrainer_site.settings"
    django.setup()
    from django.db import connections

    from autotrainer_site import prepare

    prepare.migrate()
    make(events, random.Random(seed))
    connections.close_all()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who was killed leaves nothing behind
    print("made", flush=True)
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            send(pace)
            os._exit(0)
        print(pid, flush=True)


# --- events -------------------------------------------------------------------------------------------------------------


def make(events: int, rng: random.Random) -> None:
    """Jobs of which each ends as its host's report says, or is cancelled by somebody else: events and rows are the product's own."""
    from jobs import lifecycle
    from jobs.models import Attempt, Job, User

    owner, other = (User.objects.create_user(name) for name in ("ada", "olga"))
    people = [f"person-{n}@example.org" for n in range(max(2, events // PEOPLE_EACH))]
    lifecycle.on_wake.append(lambda: None)  # there is no front door to knock at
    ends = rng.choices(["cancelled", "failed", "completed"], [1, 5, 4], k=events)
    jobs = Job.objects.bulk_create([_job(n, owner, _told(rng, people), end) for n, end in enumerate(ends)], batch_size=500)
    running = [(job, end) for job, end in zip(jobs, ends, strict=True) if end != "cancelled"]
    Attempt.objects.bulk_create([_attempt(job) for job, _ in running], batch_size=500)
    for job, end in zip(jobs, ends, strict=True):
        if end == "cancelled":
            assert lifecycle.cancel(job, actor=other)
        else:
            _end(job, exit_code=1 if end == "failed" else 0)


def _told(rng: random.Random, people: list[str]) -> list[str]:
    """Mostly one, now and then two, rarely somebody whom the server does not know."""
    if rng.random() < 0.01:
        return [NOBODY]
    return rng.sample(people, 2 if rng.random() < 0.1 else 1)


def _job(number: int, owner: Any, notify: list[str], end: str) -> Any:
    from django.utils import timezone

    from jobs.models import Job

    began = timezone.now() - timedelta(hours=1)
    where = {"state": "held"} if end == "cancelled" else {"state": "running", "started_at": began, "next_attempt": 2}
    return Job(owner=owner, name=f"train-{number}", command="python train.py", working_dir="/", created_at=began, notify=notify, **where)


def _attempt(job: Any) -> Any:
    from jobs.models import Attempt

    asked = {"created_at": job.created_at, "offer_expires_at": job.created_at, "started_at": job.created_at}
    return Attempt(job=job, number=1, fence=job.pk, host=HOST, git={}, **asked)


def _end(job: Any, *, exit_code: int) -> None:
    from gpuworker.protocol import Ended, EndReason
    from jobs import lifecycle, logs

    log = TRACEBACK if exit_code else b"Epoch 1 | Loss: 0.3\n"
    logs.append(job.pk, 1, 0, log)
    how = {"reason": EndReason.EXITED, "exit_code": exit_code, "ended_at": time.time(), "log_bytes": len(log)}
    assert lifecycle.ended(Ended(job=str(job.uid), attempt=1, fence=job.pk, **how), host=HOST)


# --- the sender ---------------------------------------------------------------------------------------------------------


def send(pace: float) -> None:
    """Until it is killed."""
    from jobs import bootsteps
    from jobs.leader import Leadership
    from jobs.notifications import deadline, sending, smtp

    hurry(bootsteps, LOOK_EVERY_S=0.02, LONGEST_PAUSE_S=0.5)
    hurry(sending, LEASE=timedelta(seconds=LEASE_S * pace), FOLD=timedelta(seconds=FOLD_S * pace))
    hurry(sending, FIRST_DELAY_S=FIRST_DELAY_S * pace, LONGEST_DELAY_S=LONGEST_DELAY_S * pace)
    hurry(deadline, LONGEST_S=LETTER_S * pace)
    hurry(smtp, TIMEOUT_S=10)
    leadership = Leadership()
    leadership.keep()
    bootsteps.PostLoop(leadership).start()
    while not threading.Event().wait(0.5):
        leadership.keep()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
