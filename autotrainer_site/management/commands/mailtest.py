from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from jobs.notifications.letter import NotSent
from jobs.notifications.trial import send_test


class Command(BaseCommand):
    help = "Send a test mail, and say how it went. Exit status 0 if the mail server took it."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("address", help="who gets it")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.stdout.write(send_test(options["address"]))
        except NotSent as exc:
            sys.exit(f"Not sent. {exc}")
