from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError

from autotrainer_site import keys, redisacl
from gpuworker import protocol
from jobs import audit, hostkeys
from jobs.models import Host
from jobs.models.audit import About, Act

BESIDE = (
    "Note: its key before is valid until its agent is heard with the new one. On the host, set these lines, put the key before into "
    "AUTOTRAINER_HOST_KEY_PREVIOUS, and start the agent again; trainings go on."
)
NO_MORE = (
    "Note: its key before is valid no more. An agent that has it is heard no more, and is refused when it starts again; what it runs "
    "goes on. If the machine is yours still: set these lines, give it no AUTOTRAINER_HOST_KEY_PREVIOUS, and start its agent again."
)
ACL = "Note: Redis must know this host's user: make its ACL file anew (`manage.py redis_acl`), then ACL LOAD."
ACL_BESIDE = (
    "Note: make Redis's ACL file anew (`manage.py redis_acl`) and ACL LOAD it before the host takes its new lines: its password is a "
    "new one too. Do both once more when the new one is heard, so that the old password is good for nothing."
)
ACL_NO_MORE = "Note: make Redis's ACL file anew now (`manage.py redis_acl`), then ACL LOAD: until then the old password opens Redis."


class Command(BaseCommand):
    help = (
        "Let one more GPU machine join: prints the three settings that its `python3 AutoTrainer.py host` needs. With --rotate: gives "
        "one that has joined another key, and prints them anew (SECURITY.md, Replacing keys)."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="what the machine shall be called here")
        parser.add_argument("--rotate", action="store_true", help="another key for this host alone; the one before stays valid until then")
        parser.add_argument("--now", action="store_true", help="with --rotate: not even until then, since others know it")

    def handle(self, *args: Any, **options: Any) -> None:
        ours, name, rotate = settings.AUTOTRAINER, options["name"], options["rotate"]
        if options["now"] and not rotate:
            sys.exit("--now says how a key is replaced: give --rotate too.")
        if not protocol.valid_host_name(name):
            sys.exit(f"{name!r} is not a host name: letters, digits, '_', '.' and '-', at most 63, beginning with a letter or digit.")
        if ours.redis_url.startswith("unix://"):
            sys.exit(
                "Other machines cannot reach this Redis: it is on a private unix socket. Run one on the network that has a password, "
                "set AUTOTRAINER_REDIS_URL=redis://:PASSWORD@ADDRESS:6379 here, start AutoTrainer again, and ask again."
            )
        try:
            host = _replaced(name, at_once=options["now"]) if rotate else _joined(name)
        except DatabaseError as exc:
            sys.exit(f"The database cannot be used ({exc}). Start AutoTrainer once, then ask again.")
        redis_url, acl = ours.redis_url, redisacl.in_use(ours.redis_url)
        if acl:
            user = redisacl.host_user(name)
            redis_url = redisacl.url_of(redis_url, settings.CLUSTER_KEY, user, generation=host.key_generation)
        for note in [*_warnings(ours.redis_url), *_notes(rotate=rotate, now=options["now"], acl=acl)]:
            self.stderr.write(note)
        if rotate and name == ours.host:
            self.stderr.write("Note: it is this machine's own host: start AutoTrainer again here, and its agent has the new key.")
        self.stdout.write(f"AUTOTRAINER_REDIS_URL={redis_url}")
        self.stdout.write(f"AUTOTRAINER_HOST={name}")
        self.stdout.write(f"AUTOTRAINER_HOST_KEY={keys.host_key_hex(ours, name, host.key_generation)}")


def _joined(name: str) -> Host:
    host, _ = Host.objects.get_or_create(name=name)
    audit.record(None, Act.MADE, About.HOST, target=name, detail="Its key was printed.")
    return host


def _replaced(name: str, *, at_once: bool) -> Host:
    try:
        if not hostkeys.replace(name, at_once=at_once):
            sys.exit(
                f"The key of {name} is being replaced still: its agent has not been heard with the new one, which `manage.py join {name}` "
                "prints again. `--rotate --now` makes yet another one, and ends all before it at once."
            )
    except Host.DoesNotExist:
        sys.exit(f"No host {name} has joined, so there is no key to replace. `manage.py join {name}` lets it join.")
    return Host.objects.get(name=name)


def _notes(*, rotate: bool, now: bool, acl: bool) -> list[str]:
    """On stderr: stdout holds the three lines and nothing else."""
    if not rotate:
        return [ACL] if acl else []
    return [NO_MORE if now else BESIDE, *([ACL_NO_MORE if now else ACL_BESIDE] if acl else [])]


def _warnings(redis_url: str) -> list[str]:
    """What is wrong with the address of Redis."""
    address, found = urlsplit(redis_url), []
    if address.hostname in ("localhost", "127.0.0.1", "::1"):
        found.append(
            f"Note: {address.hostname} is this machine only; the other one needs its address on the network in AUTOTRAINER_REDIS_URL."
        )
    if not address.password:
        found.append("Note: this Redis has no password: whoever reaches it can disturb the queue. Set one (requirepass).")
    return found
