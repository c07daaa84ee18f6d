from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand
from django.db import DatabaseError

from autotrainer_site import status


class Command(BaseCommand):
    help = "What runs here: services, hosts, devices, jobs. Exit status 0 if all services run."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        any_run, all_run = status.services(self.stdout.write)
        try:
            if any_run:
                status.hosts(self.stdout.write)
            status.jobs(self.stdout.write)
            status.notifications(self.stdout.write)
        except DatabaseError as exc:
            self.stdout.write(f"The database cannot be used: {exc}")
            all_run = False
        sys.exit(0 if all_run else 1)
