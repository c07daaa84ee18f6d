from __future__ import annotations

import sys
from argparse import ArgumentParser
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError

from autotrainer_site import backup
from jobs.web.words import size


class Command(BaseCommand):
    help = "Copy the database, keys and logs into one file, while AutoTrainer runs. Keep it as you keep the keys: they are in it."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--out", metavar="FILE", help="a .tar.gz; by default below AUTOTRAINER_HOME/backups")
        parser.add_argument("--without-logs", action="store_true", help="only the database and the keys")

    def handle(self, *args: Any, **options: Any) -> None:
        ours = settings.AUTOTRAINER
        default = ours.home / "backups" / f"backup-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar.gz"
        path = Path(options["out"]) if options["out"] else default
        try:
            made = backup.make(ours, path, logs=not options["without_logs"])
        except (backup.BackupFailed, OSError, DatabaseError) as exc:
            sys.exit(f"No backup was made: {exc}")
        self.stdout.write(f"{made} ({size(made.stat().st_size)})")
