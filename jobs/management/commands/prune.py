"""`manage.py prune`: remove now what the control worker removes once a day."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from jobs import retention


class Command(BaseCommand):
    help = (
        "Remove the logs and swapped files of jobs that ended long ago, and expired keys, links, tokens and sessions. Jobs and events stay."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        days: int = settings.AUTOTRAINER.retention_days
        parser.add_argument("--days", type=int, default=days, help="keep logs for so many days after their job's end (%(default)s)")
        parser.add_argument("--dry-run", action="store_true", help="only say what would go")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["days"] < 0:
            raise CommandError("--days: give 0 or more.")
        pruned = retention.prune(days=options["days"], now=timezone.now(), dry_run=options["dry_run"])
        self.stdout.write(f"{'Would remove' if options['dry_run'] else 'Removed'} {pruned}.")
