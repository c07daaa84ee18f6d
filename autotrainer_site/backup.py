"""A copy of all that the control plane must not lose, in one file; and how to go on from it among hosts that went on meanwhile.

The file is a tar: `manifest.json`, the database (`database.sqlite3`, or `database.dump` of pg_dump), `keys/…`, the generated
passwords, `logs/…`. Hosts keep what they hold, and Redis needs no copy.

After a restore the database is older than the world. What runs goes on and reports its end; what ended meanwhile is asked of its
host, which remembers for a week. Nothing says what became of jobs that had not started yet, so these are held until a person
has looked. Numbers of jobs and fences begin further on, so that none is given out twice. Keys of hosts that were replaced since
stay so, as far as the database here tells.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection, connections
from django.utils import timezone

from autotrainer_site.prepare import migrate, take_home
from gpuworker.settings import Settings
from jobs import hostkeys, restored
from jobs.leader import LEASE_S
from jobs.models import Leader
from starter import processes

FORMAT = 1
PIECE_BYTES = 64 * 1024
SECRETS = ("admin_password", "flower_password", "keys/cluster_key", "keys/cluster_key_previous", "keys/secret_key")
_MEMBER = re.compile(r"database\.(sqlite3|dump)|manifest\.json|logs/\d+/\d+\.[a-z.]+|" + "|".join(map(re.escape, SECRETS)))


class BackupFailed(Exception):
    """A sentence for whoever asked."""


@dataclass(frozen=True, slots=True)
class Manifest:
    made_at: datetime
    vendor: str
    """sqlite or postgresql."""

    def text(self) -> str:
        return json.dumps({"format": FORMAT, "made_at": self.made_at.isoformat(), "vendor": self.vendor})


# --- making one -----------------------------------------------------------------------------------------------------------


def make(ours: Settings, path: Path, *, logs: bool = True) -> Path:
    """Write the copy, whole or not at all, readable by its owner only. Services may go on meanwhile. Raises OSError, BackupFailed."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        with tarfile.open(fileobj=file, mode="w:gz") as tar, tempfile.TemporaryDirectory(dir=path.parent) as folder:
            manifest = Manifest(timezone.now(), connection.vendor)
            _add_text(tar, "manifest.json", manifest.text())
            database = _dump(Path(folder))
            tar.add(database, database.name)
            for name in SECRETS:
                if (ours.home / name).exists():
                    tar.add(ours.home / name, name)
            for log in sorted(settings.LOGS_HOME.rglob("*")) if logs else ():
                _add_log(tar, log)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return path


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(text.encode()), 0o600
    tar.addfile(member, io.BytesIO(text.encode()))


def _add_log(tar: tarfile.TarFile, path: Path) -> None:
    """As long as it is now; it may grow meanwhile, or be removed."""
    name = f"logs/{path.relative_to(settings.LOGS_HOME)}"
    if not _MEMBER.fullmatch(name):
        return
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        tar.addfile(tar.gettarinfo(name=None, arcname=name, fileobj=file), file)


def _dump(folder: Path) -> Path:
    if connection.vendor == "postgresql":
        path = folder / "database.dump"
        _postgres("pg_dump", "--format=custom", "--no-owner", f"--file={path}")
        return path
    path = folder / "database.sqlite3"
    with contextlib.closing(sqlite3.connect(_database_file())) as source, contextlib.closing(sqlite3.connect(path)) as target:
        source.backup(target)
    return path


def _database_file() -> Path:
    return Path(str(connection.settings_dict["NAME"]))


def _postgres(program: str, *arguments: str) -> None:
    """pg_dump or pg_restore on our database; its password goes by the environment."""
    found = shutil.which(program) or next((str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))), None)
    if found is None:
        raise BackupFailed(f"{program} is not installed (Debian and Ubuntu: sudo apt install postgresql-client).")
    given: dict[str, Any] = connection.settings_dict
    names = {"PGHOST": "HOST", "PGPORT": "PORT", "PGUSER": "USER", "PGPASSWORD": "PASSWORD", "PGDATABASE": "NAME"}
    environ = os.environ | {name: str(given[key]) for name, key in names.items() if given.get(key)}
    done = subprocess.run([found, *arguments], env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BackupFailed(f"{program} failed: {done.stderr.strip()[-1000:]}")


# --- going on from one ------------------------------------------------------------------------------------------------------


def restore(ours: Settings, path: Path) -> restored.Summary:
    """Put a copy in the place of what is here, which is put aside. Raises BackupFailed, OSError, DatabaseError."""
    with _opened(path) as tar:
        manifest = _manifest(tar)
        _refuse_if_in_use(ours)
        if manifest.vendor != connection.vendor:
            mend = "unset DATABASE_URL" if manifest.vendor == "sqlite" else "set DATABASE_URL to an empty database"
            raise BackupFailed(f"This backup is of {manifest.vendor}, and the database here is {connection.vendor}: {mend}.")
        newer = hostkeys.known()
        aside = ours.home / f"before-restore-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        aside.mkdir(mode=0o700, parents=True)
        _load_database(tar, aside)
        _load_files(tar, ours, aside)
    migrate()
    hostkeys.keep(newer)
    take_home(ours)
    return restored.look_through(made_at=manifest.made_at, aside=aside)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path) as tar:
            wrong = [member.name for member in tar if not member.isfile() or not _MEMBER.fullmatch(member.name)]
            if wrong:
                raise BackupFailed(f"{path} is no backup of AutoTrainer: it holds {wrong[0]!r}.")
            yield tar
    except (tarfile.TarError, EOFError) as exc:
        raise BackupFailed(f"{path} is no backup of AutoTrainer, or it is damaged: {exc}.") from exc


def _manifest(tar: tarfile.TarFile) -> Manifest:
    try:
        file = tar.extractfile("manifest.json")
        told = json.loads(file.read()) if file else {}
        if told["format"] != FORMAT:
            raise BackupFailed("This backup is of a newer AutoTrainer: restore it with that one.")
        return Manifest(datetime.fromisoformat(told["made_at"]), told["vendor"])
    except (KeyError, ValueError, TypeError) as exc:
        raise BackupFailed("This is no backup of AutoTrainer: its manifest.json cannot be read.") from exc


def _refuse_if_in_use(ours: Settings) -> None:
    running = [service.name for service in processes.services(ours.home) if service.name not in ("agent", "redis")]
    if running:
        raise BackupFailed(f"AutoTrainer runs here ({', '.join(running)}): stop it first. Trainings go on.")
    tables = connection.introspection.table_names()
    lately = timezone.now() - timedelta(seconds=LEASE_S)
    if Leader._meta.db_table in tables and Leader.objects.filter(renewed_at__gt=lately).exclude(holder="").exists():
        told = f"A control worker was at work on this database within the last {LEASE_S:.0f} s, on another machine perhaps"
        raise BackupFailed(f"{told}: stop it first. Trainings go on.")


def _load_database(tar: tarfile.TarFile, aside: Path) -> None:
    if connection.vendor == "postgresql":
        _postgres("pg_dump", "--format=custom", "--no-owner", f"--file={aside / 'database.dump'}")
        _extract(tar, "database.dump", aside / "restoring.dump")
        connections.close_all()
        _postgres("pg_restore", "--clean", "--if-exists", "--no-owner", "--single-transaction", "--dbname=", str(aside / "restoring.dump"))
        (aside / "restoring.dump").unlink()
        return
    connections.close_all()
    database = _database_file()
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            database.with_name(database.name + suffix).rename(aside / f"{database.name}{suffix}")
    _extract(tar, "database.sqlite3", database)


def _load_files(tar: tarfile.TarFile, ours: Settings, aside: Path) -> None:
    """Keys and passwords as they were; logs too, unless the backup has none: then those that are here stay."""
    names = [member.name for member in tar if member.name in SECRETS or member.name.startswith("logs/")]
    if any(name.startswith("logs/") for name in names) and settings.LOGS_HOME.exists():
        settings.LOGS_HOME.rename(aside / "logs")
    for name in names:
        target = settings.LOGS_HOME / name.removeprefix("logs/") if name.startswith("logs/") else ours.home / name
        if target.exists():
            (aside / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            target.rename(aside / name)
        _extract(tar, name, target)


def _extract(tar: tarfile.TarFile, name: str, target: Path) -> None:
    source = tar.extractfile(name)
    if source is None:
        raise BackupFailed(f"The backup has no {name}.")
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        while piece := source.read(PIECE_BYTES):
            if piece.strip(b"\0"):
                file.write(piece)
            else:  # the hole of a log that was cut: with its zeros written out the log could fill the disk
                file.seek(len(piece), os.SEEK_CUR)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
