from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

import redis
from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError

from autotrainer_site import keys
from jobs import hostlink
from jobs.models import Host

SET = "AUTOTRAINER_CLUSTER_KEY is set, so the keys are yours to keep: put it into AUTOTRAINER_CLUSTER_KEY_PREVIOUS and set another one."
AGAIN = "Start AutoTrainer again here, so that its services go by it."


class Command(BaseCommand):
    help = "Tells which hosts go by which cluster key; makes another one, and forgets the one before (SECURITY.md, Replacing keys)."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--new", action="store_true", help="make another key; the present one is valid beside it")
        what.add_argument("--forget-previous", action="store_true", help="end that: only the new key is valid")
        parser.add_argument("--force", action="store_true", help="forget it though hosts still go by it, or cannot be heard")

    def handle(self, *args: Any, **options: Any) -> None:
        ours = settings.AUTOTRAINER
        previous = ours.keys_home / keys.PREVIOUS
        if options["new"]:
            if ours.cluster_key:
                sys.exit(SET)
            if previous.exists() or ours.cluster_key_previous:
                sys.exit("The last key is being replaced still. End that first: `manage.py cluster_key --forget-previous`.")
            keys.replace_cluster_key(ours)
            self.stdout.write(f"There is another cluster key, and the one before is valid beside it. {AGAIN}")
            self.stdout.write("Then give each host its new key (`manage.py join NAME`), and say `manage.py cluster_key --forget-previous`.")
        elif options["forget_previous"]:
            self._forget(previous, force=options["force"])
        else:
            self._tell()

    def _forget(self, previous: Any, *, force: bool) -> None:
        if settings.AUTOTRAINER.cluster_key_previous:
            sys.exit("AUTOTRAINER_CLUSTER_KEY_PREVIOUS is set: unset it, and start AutoTrainer again.")
        if not previous.exists():
            sys.exit("There is no previous key.")
        behind = [name for name, new in self._by_host().items() if new is False]
        if behind and not force:
            names = ", ".join(behind)
            sys.exit(f"Still with the previous key: {names}. They would be heard no more: give them their new one (`manage.py join NAME`).")
        previous.unlink()
        self.stdout.write(f"Only the new key is valid. {AGAIN}")

    def _tell(self) -> None:
        told = {True: "the new key", False: "the previous key", None: "not heard"}
        if settings.CLUSTER_KEY_PREVIOUS is None:
            told[True] = "the cluster key"
        replaced = set(Host.objects.exclude(key_generation_before=None).values_list("name", flat=True))
        for name, new in self._by_host().items():
            own = "; its own key is being replaced (`manage.py join --rotate`)" if name in replaced else ""
            self.stdout.write(f"{name:24} {told[new]}{own}")

    def _by_host(self) -> dict[str, bool | None]:
        try:
            return hostlink.by_new_key(Host.objects.order_by("name").values_list("name", flat=True))
        except (DatabaseError, redis.RedisError) as exc:
            sys.exit(f"The hosts cannot be looked at ({exc}). Start AutoTrainer, then ask again.")
