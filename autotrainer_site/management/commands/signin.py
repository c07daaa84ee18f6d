from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError

from autotrainer_site import prepare
from jobs import audit
from jobs.models import User
from jobs.models.audit import About, Act
from jobs.web.onetime import LIFETIME, make_link


class Command(BaseCommand):
    help = "Print a link that signs in once."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user", nargs="?", help="who is signed in; without it the first administrator")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            user = self._user(options["user"])
            self.stdout.write(make_link(user))
            audit.record(None, Act.LINK_MADE, About.PERSON, target=user.get_username(), detail="It signs in once.")
        except DatabaseError as exc:
            sys.exit(f"The database cannot be used ({exc}). Start AutoTrainer once, then ask again.")
        self.stderr.write(f"It signs in {user.get_username()} once, within {LIFETIME.seconds // 60} minutes.")

    def _user(self, name: str | None) -> User:
        if not name:
            return prepare.first_administrator(settings.AUTOTRAINER)
        user = User.objects.filter(username=name, is_active=True).first()
        return user or sys.exit(f"There is no active user {name!r}.")
