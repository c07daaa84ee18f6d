from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError

from autotrainer_site import backup


class Command(BaseCommand):
    help = "Go on from a file of `manage.py backup`, with AutoTrainer stopped. Hosts may go on meanwhile; trainings do in any case."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", help="what `manage.py backup` has made")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            done = backup.restore(settings.AUTOTRAINER, Path(options["file"]))
        except (backup.BackupFailed, OSError, DatabaseError) as exc:
            sys.exit(f"Not restored: {exc}")
        self.stdout.write(f"Restored as of {done.made_at:%Y-%m-%d %H:%M} UTC. What was here lies in {done.aside}.")
        self.stdout.write(f"{done.held} waiting jobs are held, since they may have run since then: look, and release them.")
        self.stdout.write(f"{done.open} jobs ran then: their hosts are asked how they ended. `manage.py orphans` lists what runs unknown.")
        self.stdout.write("Start AutoTrainer.")
