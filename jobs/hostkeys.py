"""Which keys a host may have, and what makes one of them invalid without touching another host's.

A host's key comes from the cluster key, the host's name and a generation, which its row keeps: 0 in the beginning, and for each
key that replaced another the second in which it was made, so that none comes again after an old backup was restored. All
processes read the rows, so that a replaced key is known everywhere within FRESH_S, without a restart.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import time
from collections.abc import Sequence

from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.db.models import QuerySet

from gpuworker import protocol
from jobs import audit, eventphrases
from jobs.models import Host
from jobs.models.audit import About, Act

log = logging.getLogger(__name__)

FRESH_S = 1.0
Generations = tuple[int, ...]
"""Those that are valid, the newest first."""


# --- the keys ---------------------------------------------------------------------------------------------------------------


def valid(host: str) -> tuple[bytes, ...]:
    """What this host may have sealed with, the newest first: several while its own key, the cluster key, or both are being replaced."""
    return derived(cluster_keys(), host, _rows.generations(host))


def by_new_cluster_key(host: str) -> tuple[bytes, ...]:
    return derived((settings.CLUSTER_KEY,), host, _rows.generations(host))


def cluster_keys() -> tuple[bytes, ...]:
    return (settings.CLUSTER_KEY, *filter(None, [settings.CLUSTER_KEY_PREVIOUS]))


@functools.lru_cache(maxsize=1024)
def derived(cluster_keys: tuple[bytes, ...], host: str, generations: Generations) -> tuple[bytes, ...]:
    pairs = itertools.product(generations, cluster_keys)
    return tuple(protocol.derive_host_key(key, host, generation) for generation, key in pairs)


class _Rows:
    """What the rows of all hosts say, read together. Threads may race here: at worst one reads them once more."""

    def __init__(self) -> None:
        self._found: dict[str, Generations] | None = None
        self.look_afresh()

    def look_afresh(self) -> None:
        """Whoever asks next reads them anew."""
        self._looked_at = -math.inf

    def generations(self, host: str) -> Generations:
        """Raises DatabaseError where the database has never answered; later what it said last is gone by."""
        if self._found is None or time.monotonic() - self._looked_at > FRESH_S:
            try:
                self._found = {row.name: row.key_generations for row in _replaced()}
            except DatabaseError:
                if self._found is None:
                    raise
            self._looked_at = time.monotonic()
        return self._found.get(host, (0,))


def _replaced() -> QuerySet[Host]:
    return Host.objects.exclude(key_generation=0).only("name", "key_generation", "key_generation_before")


_rows = _Rows()
look_afresh = _rows.look_afresh


# --- replacing one ------------------------------------------------------------------------------------------------------------


def replace(name: str, *, at_once: bool) -> bool:
    """Give a host another key; the one before is valid until the new one is heard, or, `at_once`, no more.

    False where the last replacement is not over, which only `at_once` ends. Raises Host.DoesNotExist.
    """
    with transaction.atomic():
        host = Host.objects.select_for_update().get(name=name)
        if host.key_generation_before is not None and not at_once:
            return False
        host.key_generation_before = None if at_once else host.key_generation
        host.key_generation = max(host.key_generation + 1, int(time.time()))
        host.save(update_fields=["key_generation", "key_generation_before"])
        told = eventphrases.KEY_OUTDATED if at_once else eventphrases.KEY_BEING_REPLACED
        audit.record(None, Act.KEY_REPLACED, About.HOST, target=name, detail=told)
    look_afresh()
    return True


def has_new_key(host: Host, key: bytes) -> bool:
    """Whether a host whose key is being replaced has sealed with the new one."""
    return host.key_generation_before is not None and key in derived(cluster_keys(), host.name, (host.key_generation,))


def settle(host: Host) -> None:
    """It has: the one before is valid no more."""
    if Host.objects.filter(pk=host.pk, key_generation=host.key_generation).update(key_generation_before=None):
        log.info("%s goes by its new key; the one before is valid no more", host.name, extra={"action": "key_settled"})
        look_afresh()


# --- going on from a backup ---------------------------------------------------------------------------------------------------


def known() -> list[Host]:
    """The hosts whose keys were replaced; none where the database is empty, or of a version that could not replace one."""
    table = Host._meta.db_table
    with connection.cursor() as cursor:
        if table not in connection.introspection.table_names(cursor):
            return []
        columns = {column.name for column in connection.introspection.get_table_description(cursor, table)}
    return list(_replaced()) if {"key_generation", "key_generation_before"} <= columns else []


def keep(newer: Sequence[Host]) -> None:
    """After a backup was restored: what was replaced since, or outdated, stays so, also of hosts that the backup does not know."""
    for host in newer:
        Host.objects.get_or_create(name=host.name)
        behind = Host.objects.filter(name=host.name, key_generation__lte=host.key_generation)
        behind.update(key_generation=host.key_generation, key_generation_before=host.key_generation_before)
    look_afresh()
