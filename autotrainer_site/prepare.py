"""What must be there before the services start: the schema, the first administrator, this host's row and key, passwords."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import redis
from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from autotrainer_site import keys
from gpuworker import redischeck
from gpuworker.settings import Settings
from jobs import homes, hostkeys
from jobs.models import Host, User
from jobs.states import Role

BACKUPS_KEPT = 5


def migrate() -> bool:
    """Bring the database to the present schema, SQLite with a backup first; False if it was there already."""
    executor = MigrationExecutor(connection)
    if not executor.migration_plan(executor.loader.graph.leaf_nodes()):
        return False
    if connection.vendor == "sqlite" and executor.loader.applied_migrations:
        back_up(Path(connection.settings_dict["NAME"]), settings.AUTOTRAINER.home / "backups")
    call_command("migrate", interactive=False, verbosity=0)
    return True


def back_up(database: Path, folder: Path) -> Path:
    """A copy of the SQLite database as it is now, readable by the owner only; older ones than the last few go."""
    folder.mkdir(exist_ok=True, mode=0o700)
    path = folder / f"autotrainer-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.sqlite3"
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with contextlib.closing(sqlite3.connect(database)) as source, contextlib.closing(sqlite3.connect(partial)) as target:
        source.backup(target)
    partial.replace(path)
    for old in sorted(folder.glob("autotrainer-*.sqlite3"))[:-BACKUPS_KEPT]:
        old.unlink()
    return path


def look_at_redis(ours: Settings) -> list[str]:
    """What is to be mended of a Redis that is not our own; raises BadSetting where nobody should start with it."""
    if ours.redis_embedded:
        return []
    with redis.Redis.from_url(ours.redis_url, socket_timeout=5, socket_connect_timeout=5) as client:
        try:
            redischeck.refuse_open(client, ours)
            return [f"Redis: {warning}." for warning in redischeck.warnings(client)]
        except redis.RedisError as exc:
            return [f"Redis does not answer yet ({exc}). Jobs start when it does; AUTOTRAINER_REDIS_URL says where it is."]


def take_home(ours: Settings) -> None:
    """From now on the database goes with this AUTOTRAINER_HOME."""
    homes.take(keys.kept(ours.home / homes.FILE, length=16))


def first_administrator(ours: Settings) -> User:
    """The administrator that the sign-in link is for; made, with a generated password where none is set, if there is none."""
    administrators = User.objects.filter(is_superuser=True, is_active=True)
    if found := administrators.filter(username=ours.admin_user).first() or administrators.order_by("pk").first():
        return found
    password = ours.admin_password or keys.kept(ours.home / "admin_password", length=12, words=True)
    user, _ = User.objects.get_or_create(username=ours.admin_user)
    user.is_superuser = user.is_active = True
    user.role = Role.ADMIN
    user.set_password(password)
    user.save()
    return user


def this_host(ours: Settings) -> None:
    """The row and the key of the agent on this machine. Its folder is the agent's; the keys are all that we write there.

    The previous one is the last that the agent had, as long as that is valid.
    """
    row, _ = Host.objects.get_or_create(name=ours.host)
    cluster_keys = (keys.cluster_key(ours), *filter(None, [keys.previous_cluster_key(ours)]))
    newest, *older = [f"{key.hex()}\n" for key in hostkeys.derived(cluster_keys, ours.host, row.key_generations)]
    ours.host_home.mkdir(parents=True, exist_ok=True, mode=0o700)
    current, previous = ours.host_home / "host_key", ours.host_home / "host_key_previous"
    had = [path.read_text() for path in (current, previous) if path.exists()]
    if found := [text for text in had if text in older]:
        _leave_key(previous, found[0])
    else:
        previous.unlink(missing_ok=True)
    _leave_key(current, newest)  # last: whatever happens now, the key that the agent had is not lost


def _leave_key(path: Path, text: str) -> None:
    if path.exists() and path.read_text() == text:
        return
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)


def flower_password(ours: Settings) -> str:
    return keys.kept(ours.home / "flower_password", length=12, words=True)
