from __future__ import annotations

import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from autotrainer_site import demo, prepare
from jobs.states import JobState
from jobs.submission import SubmissionErrors


class Command(BaseCommand):
    help = "Submit the sample training to the running AutoTrainer, show its log, exit with its exit code."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            job = demo.submit(prepare.first_administrator(settings.AUTOTRAINER))
        except SubmissionErrors as exc:
            sys.exit("The demo cannot be submitted: " + " ".join(text for texts in exc.errors.values() for text in texts))
        self.stdout.write(f"Submitted job {job.pk}: {job.command}\n")
        self.stdout.flush()
        code = demo.follow(job)
        self.stdout.write(f"\nJob {job.pk} is {job.state} (exit code {job.exit_code}).")
        if job.state == JobState.COMPLETED:
            self.stdout.write(f"Result: {demo.result()}")
        self.stdout.flush()
        sys.exit(code)
