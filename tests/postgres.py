"""A PostgreSQL of our own for the tests that need one: private folder, private socket, no port, an account that is not root."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import psycopg.sql

from tests.waiting import wait_until

DATABASE = "postgres"
ACCOUNT = "autotrainer"


@dataclass(frozen=True)
class Postgres:
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """As DATABASE_URL takes it."""
        return self.url_of(DATABASE)

    def url_of(self, name: str) -> str:
        return f"postgres://{ACCOUNT}@{str(self.folder).replace('/', '%2F')}/{name}"

    def fresh(self) -> str:
        """The URL of an empty database of its own."""
        name = f"at_{secrets.token_hex(6)}"
        with psycopg.connect(host=str(self.folder), user=ACCOUNT, dbname=DATABASE, autocommit=True) as connection:
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
        return self.url_of(name)

    def answers(self) -> bool:
        try:
            psycopg.connect(host=str(self.folder), user=ACCOUNT, dbname=DATABASE, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


def programs() -> Path | None:
    """The folder of the newest server's programs; Debian keeps them out of PATH."""
    on_path = shutil.which("postgres")
    if on_path:
        return Path(on_path).resolve().parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]) if p.parts[-3].isdigit() else 0)
    return found[-1].parent if found else None


@contextmanager
def private_postgres(binaries: Path) -> Iterator[Postgres]:
    """Fast rather than durable. The folder's path is short: a socket's may have 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="at-pg-", dir="/tmp"))
    account = _unprivileged()
    if account:
        shutil.chown(folder, account.get("user"), account.get("group"))
    data, quiet = folder / "data", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    clean = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    init = [str(binaries / "initdb"), "-D", str(data), "-U", ACCOUNT, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    process = None
    try:
        subprocess.run(init, check=True, env=clean, cwd="/", **quiet, **account)
        options = {"listen_addresses": "", "unix_socket_directories": str(folder), "fsync": "off", "shared_buffers": "64MB"}
        argv = [str(binaries / "postgres"), "-D", str(data), *[word for item in options.items() for word in ("-c", "=".join(item))]]
        process = subprocess.Popen(argv, env=clean, cwd="/", **quiet, **account)
        server = Postgres(folder, process)
        wait_until(server.answers, 30, "postgres answers")
        yield server
    finally:
        if process:
            _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)  # a fast shutdown: it does not wait for its clients
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGQUIT)
        process.wait(20)


def _unprivileged() -> dict[str, Any]:
    """Whom it runs as: it refuses root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    raise AssertionError("neither an account postgres nor nobody")
