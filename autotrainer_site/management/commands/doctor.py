from __future__ import annotations

import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from autotrainer_site import doctor


class Command(BaseCommand):
    help = "Look at this machine: what is wrong, and the mend. Exit status 1 if something is."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        wrong = 0
        for finding in doctor.examine(settings.AUTOTRAINER):
            wrong += finding.level is doctor.Level.WRONG
            self.stdout.write(f"{finding.level:6} {finding.subject:12} {finding.text}")
        self.stdout.write(f"{wrong} things are wrong." if wrong else "Nothing is wrong.")
        sys.exit(1 if wrong else 0)
