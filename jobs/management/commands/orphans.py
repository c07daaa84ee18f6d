from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from jobs import capacity, orphans
from jobs.scheduling import words


class Command(BaseCommand):
    help = "List the attempts that hosts run and this database does not know, or end one of them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--end", metavar="KEY", help="end this one on its host: TERM, the grace, KILL")

    def handle(self, *args: Any, **options: Any) -> None:
        if key := options["end"]:
            host = orphans.end(key)
            if not host:
                sys.exit(f"No host that is heard runs {key} as an orphan, or Redis took no message.")
            self.stdout.write(f"{host} was told to end {key}.")
            return
        found = orphans.all_of(capacity.hosts_now())
        for key, (host, orphan) in found.items():
            self.stdout.write(f"{key}\t{host}\t{words.orphan(orphan)}\t{', '.join(orphan.devices)}")
        if not found:
            self.stderr.write("No host that is heard runs anything that the database does not know.")
