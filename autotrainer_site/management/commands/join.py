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
from jobs import audit
from jobs.models import Host
from jobs.models.audit import About, Act


class Command(BaseCommand):
    help = "Let one more GPU machine join: prints the three settings that its `python3 AutoTrainer.py host` needs."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="what the machine shall be called here")

    def handle(self, *args: Any, **options: Any) -> None:
        ours, name = settings.AUTOTRAINER, options["name"]
        if not protocol.valid_host_name(name):
            sys.exit(f"{name!r} is not a host name: letters, digits, '_', '.' and '-', at most 63, beginning with a letter or digit.")
        if ours.redis_url.startswith("unix://"):
            sys.exit(
                "Other machines cannot reach this Redis: it is on a private unix socket. Run one on the network that has a password, "
                "set AUTOTRAINER_REDIS_URL=redis://:PASSWORD@ADDRESS:6379 here, start AutoTrainer again, and ask again."
            )
        try:
            Host.objects.get_or_create(name=name)
            audit.record(None, Act.MADE, About.HOST, target=name, detail="Its key was printed.")
        except DatabaseError as exc:
            sys.exit(f"The database cannot be used ({exc}). Start AutoTrainer once, then ask again.")
        for warning in _warnings(ours.redis_url):
            self.stderr.write(warning)
        redis_url = ours.redis_url
        if redisacl.in_use(redis_url):
            redis_url = redisacl.url_of(redis_url, settings.CLUSTER_KEY, redisacl.host_user(name))
            self.stderr.write("Note: Redis must know this host's user: make its ACL file anew (`manage.py redis_acl`), then ACL LOAD.")
        self.stdout.write(f"AUTOTRAINER_REDIS_URL={redis_url}")
        self.stdout.write(f"AUTOTRAINER_HOST={name}")
        self.stdout.write(f"AUTOTRAINER_HOST_KEY={keys.host_key_hex(ours, name)}")


def _warnings(redis_url: str) -> list[str]:
    """On stderr: stdout holds the three lines and nothing else."""
    address, found = urlsplit(redis_url), []
    if address.hostname in ("localhost", "127.0.0.1", "::1"):
        found.append(
            f"Note: {address.hostname} is this machine only; the other one needs its address on the network in AUTOTRAINER_REDIS_URL."
        )
    if not address.password:
        found.append("Note: this Redis has no password: whoever reaches it can disturb the queue. Set one (requirepass).")
    return found
