"""Is it alive, and can it work? For supervisors and load balancers; answers anybody, so it tells no secrets."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from django.utils import timezone

from gpuworker import disks
from jobs import homes
from jobs.models import Leader

LEADER_FRESH_S = 15.0
_REDIS_TIMEOUT_S = 1.0

_migrated = False


def refuse_to_serve() -> None:
    """End a process that would do harm to this database, or could do nothing with it, and say why."""
    if why := _harm():
        sys.exit(why)


def _harm() -> str:
    """Empty where the database does not answer yet: that passes, and /readyz tells it."""
    ours = settings.AUTOTRAINER
    try:
        if missing := _migrations():
            return f"The database is behind this version of AutoTrainer: {missing} (`python3 AutoTrainer.py` does it by itself)."
        return homes.wrong(ours.home) if ours.database_url else ""
    except DatabaseError:
        return ""


def healthz(request: HttpRequest) -> JsonResponse:
    """The process answers; nothing else is asked."""
    return JsonResponse({"status": "ok"})


def readyz(request: HttpRequest) -> JsonResponse:
    """Everything that a job needs to get through; 503 with the failing parts otherwise."""
    parts = {name: _say(check) for name, check in _CHECKS.items()}
    failing = [name for name, said in parts.items() if said != "ok"]
    body = {"status": "unavailable" if failing else "ok", "failing": failing, "parts": parts}
    answer = JsonResponse(body, status=503 if failing else 200)
    answer._has_been_logged = True  # type: ignore[attr-defined] # asked every second at a start: no error each time
    return answer


def _say(check: Callable[[], str]) -> str:
    try:
        return check() or "ok"
    except DatabaseError as exc:
        return f"the database does not answer ({type(exc).__name__})"


def _database() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return ""


def _migrations() -> str:
    """Asked until it is true: nothing takes a migration back under a running server."""
    global _migrated
    if not _migrated:
        executor = MigrationExecutor(connection)
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
        _migrated = not missing
        return f"{len(missing)} migrations are not applied: run manage.py prepare" if missing else ""
    return ""


def _redis() -> str:
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=_REDIS_TIMEOUT_S, socket_connect_timeout=_REDIS_TIMEOUT_S) as client:
            client.ping()
    except (redis.RedisError, OSError) as exc:
        return f"Redis does not answer ({type(exc).__name__})"
    return ""


def _scheduler() -> str:
    """The leader renews its row from inside a control worker: a fresh one is evidence of both."""
    renewed_at = Leader.objects.exclude(holder="").values_list("renewed_at", flat=True).order_by("-renewed_at").first()
    if renewed_at is None:
        return "no control worker schedules"
    age_s = (timezone.now() - renewed_at) / timedelta(seconds=1)
    return "" if age_s < LEADER_FRESH_S else f"no control worker has scheduled for {age_s:.0f} s"


def _disk() -> str:
    """Where the stored logs, and mostly the database, lie."""
    try:
        room = disks.room(settings.AUTOTRAINER.home)
    except OSError as exc:
        return f"the disk cannot be looked at ({exc.strerror})"
    if room is None or not room.low:
        return ""
    return f"{room.free_bytes >> 20} MiB free, {room.least_bytes >> 20} MiB are needed"


_CHECKS = {"database": _database, "migrations": _migrations, "redis": _redis, "scheduler": _scheduler, "disk": _disk}
