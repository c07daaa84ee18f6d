from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand
from django.db import DatabaseError

from jobs import audit, invitations
from jobs.models import User
from jobs.models.audit import About, Act
from jobs.notifications.letter import NotSent
from jobs.states import Role


class Command(BaseCommand):
    help = "Print a link with which a person chooses a password: a new one, who is added, or one who has forgotten it."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user", help="the name to sign in with")
        parser.add_argument("--role", choices=[str(role) for role in Role], help="of somebody new; submitter without it")
        parser.add_argument("--email", default="", help="of somebody new")
        parser.add_argument("--mail", action="store_true", help="mail the link instead of printing it")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            person = self._person(options)
            if options["mail"]:
                self.stdout.write(f"Mailed to {invitations.mail_link(person, actor=None)}.")
            else:
                self.stdout.write(invitations.make_link(person, actor=None))
        except DatabaseError as exc:
            sys.exit(f"The database cannot be used ({exc}). Start AutoTrainer once, then ask again.")
        except NotSent as exc:
            sys.exit(str(exc))
        self.stderr.write(f"With it {person.get_username()} chooses a password, once, within {invitations.LIFETIME.days} days.")

    def _person(self, options: dict[str, Any]) -> User:
        name = options["user"]
        if found := User.objects.filter(username=name).first():
            if options["role"] or options["email"]:
                sys.exit(f"There is a user {name!r} already: change role and mail address in the admin.")
            return found if found.is_active else sys.exit(f"The account of {name!r} is closed: open it in the admin first.")
        person = User(username=name, role=options["role"] or Role.SUBMITTER, email=options["email"])
        person.set_unusable_password()
        try:
            person.full_clean()
        except ValidationError as exc:
            sys.exit("\n".join(f"{field}: {' '.join(said)}" for field, said in exc.message_dict.items()))
        person.save()
        audit.record(None, Act.MADE, About.PERSON, target=name, detail=f"Invited as {person.role}.")
        return person
