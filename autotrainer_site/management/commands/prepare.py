from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError

from autotrainer_site import clitoken, prepare
from gpuworker.settings import BadSetting
from jobs import homes
from jobs.web.onetime import make_link


class Command(BaseCommand):
    help = "Make the database, the first administrator and this host's key ready (`up` does this); prints JSON."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--new-home", action="store_true", help="AUTOTRAINER_HOME takes the place of the one that the database goes with"
        )
        parser.add_argument("--without-host", action="store_true", help="no agent will run on this machine")

    def handle(self, *args: Any, **options: Any) -> None:
        ours = settings.AUTOTRAINER
        try:
            if prepare.migrate():
                self.stderr.write("The database is up to date now.")
            if ours.database_url and (wrong := homes.wrong(ours.home)) and not options["new_home"]:
                sys.exit(wrong)
            prepare.take_home(ours)
            administrator = prepare.first_administrator(ours)
            if not options["without_host"]:
                prepare.this_host(ours)
            clitoken.leave(ours, administrator)
            link = make_link(administrator)
        except DatabaseError as exc:
            where = "DATABASE_URL" if ours.database_url else ours.home
            sys.exit(f"The database ({where}) cannot be used: {exc}".strip())
        try:
            for warning in prepare.look_at_redis(ours):
                self.stderr.write(warning)
        except BadSetting as exc:
            sys.exit(str(exc))
        self.stdout.write(json.dumps({"link": link, "flower_password": prepare.flower_password(ours)}))
