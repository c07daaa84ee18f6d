"""The sample training, submitted and followed as a person at a terminal would."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from django.conf import settings

from jobs import lifecycle, logs, submission
from jobs.models import Attempt, Job, User
from jobs.states import TERMINAL, JobState

NAME = "Mock_Test_V1"
POLL_S = 0.1
PIECE_BYTES = 64 * 1024


def submit(owner: User) -> Job:
    """Raises submission.SubmissionErrors."""
    python = next((name for name in ("python", "python3") if shutil.which(name)), sys.executable)
    gpus = 0 if settings.AUTOTRAINER.devices == "none" else 1
    fields = {
        "name": NAME,
        "command": f'{python} mock_train.py --name "{NAME}" --mode normal --mem 2.0',
        "working_dir": str(settings.BASE_DIR),
        "min_gpus": gpus,
        "max_gpus": gpus,
    }
    read = submission.validate(fields, owner=owner)
    return lifecycle.submit(owner, read.fields)


def follow(job: Job) -> int:
    """Print the job's log as it grows; answers its exit code (1 where it ended without one)."""
    told, shown = "", dict[int, int]()
    while True:
        job.refresh_from_db()
        over = job.state in TERMINAL  # looked at before the log: what is stored by then is all
        _print_logs(job, shown)
        if over:
            return 0 if job.state == JobState.COMPLETED else job.exit_code or 1
        if job.state == JobState.QUEUED and job.wait_message not in ("", told):
            told = job.wait_message
            print(f"It waits: {told}", flush=True)
        time.sleep(POLL_S)


def _print_logs(job: Job, shown: dict[int, int]) -> None:
    """Print what is new in the attempts' logs; `shown` holds the bytes of each that have been printed."""
    for number in Attempt.objects.filter(job=job).order_by("number").values_list("number", flat=True):
        while data := logs.read(job.pk, number, shown.get(number, 0), PIECE_BYTES):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            shown[number] = shown.get(number, 0) + len(data)


def result() -> Path:
    return Path(settings.BASE_DIR) / f"result_{NAME}.png"
