from __future__ import annotations

import json
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError

from autotrainer_site import prepare
from jobs.web.onetime import make_link


class Command(BaseCommand):
    help = "Make the database, the first administrator and this host's key ready (`up` does this); prints JSON."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        ours = settings.AUTOTRAINER
        try:
            if prepare.migrate():
                self.stderr.write("The database is up to date now.")
            administrator = prepare.first_administrator(ours)
            prepare.this_host(ours)
            link = make_link(administrator)
        except DatabaseError as exc:
            where = "DATABASE_URL" if ours.database_url else ours.home
            sys.exit(f"The database ({where}) cannot be used: {exc}".strip())
        self.stdout.write(json.dumps({"link": link, "flower_password": prepare.flower_password(ours)}))
