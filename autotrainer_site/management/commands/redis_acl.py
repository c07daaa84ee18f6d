from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError

from autotrainer_site import redisacl
from jobs import hostkeys
from jobs.models import Host


class Command(BaseCommand):
    help = (
        "Prints an ACL file for a Redis that hosts share: a user for the control plane, and one for each host that has joined, who can "
        "touch nothing but its own keys and queue. Needs Redis 7 or Valkey. Make it anew and `ACL LOAD` it when a host joins."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--out", metavar="FILE", help="write it there (0640, at one stroke) and not to the terminal")

    def handle(self, *args: Any, **options: Any) -> None:
        ours = settings.AUTOTRAINER
        if ours.redis_embedded:
            sys.exit("The Redis here is AutoTrainer's own, on a private unix socket: nobody else can reach it, and it needs no users.")
        try:
            hosts = {host.name: host.key_generations for host in sorted(Host.objects.all(), key=str)}
        except DatabaseError as exc:
            sys.exit(f"The database cannot be used ({exc}). Start AutoTrainer once, then ask again.")
        database = urlsplit(ours.redis_url).path.strip("/")
        text = "\n".join(redisacl.lines(hostkeys.cluster_keys(), hosts, database=int(database) if database.isdecimal() else 0)) + "\n"
        if options["out"]:
            _write(Path(options["out"]), text)
        else:
            self.stdout.write(text, ending="")
        if not redisacl.in_use(ours.redis_url):
            told = redisacl.url_of(ours.redis_url, settings.CLUSTER_KEY, redisacl.CONTROL_USER)
            self.stderr.write(f"When Redis has loaded it (aclfile), set here: AUTOTRAINER_REDIS_URL={told}")
            self.stderr.write("Then `manage.py join NAME` prints each host's own address.")


def _write(path: Path, text: str) -> None:
    """Readable by its group, so that Redis, which has an account of its own, can be let in. It holds hashes and no passwords."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as exc:
        sys.exit(f"{path} cannot be written: {exc}.")
