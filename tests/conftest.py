"""Fixtures for all tiers. A missing service skips a test locally and fails it where CI is set."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before Django reads its settings: a home of our own, and nothing of the caller's AutoTrainer.
_HOME = tempfile.mkdtemp(prefix="at-tests-")
for _name in [n for n in os.environ if n.startswith("AUTOTRAINER_") or n in ("DATABASE_URL", "EMAIL_URL")]:
    del os.environ[_name]
os.environ["AUTOTRAINER_HOME"] = _HOME
if _url := os.environ.get("AT_DATABASE_URL"):  # a PostgreSQL server to run on instead of SQLite, for whoever has one
    os.environ["DATABASE_URL"] = _url
os.environ["DJANGO_SETTINGS_MODULE"] = "autotrainer_site.settings"  # as an option of pytest it would be read before this file

import django  # noqa: E402
import pytest  # noqa: E402
import redis  # noqa: E402
from servestatic.middleware import ServeStaticMiddleware  # noqa: E402

from gpuworker import dropped  # noqa: E402
from tests.postgres import Postgres, private_postgres, programs  # noqa: E402
from tests.waiting import wait_until  # noqa: E402

django.setup()


def _look_for_static_files_once() -> None:
    """Each test client loads the middleware anew, which would look through them all each time: 50 ms a client."""
    look, found = ServeStaticMiddleware.add_files_from_finders, dict[str, Any]()

    def add(middleware: ServeStaticMiddleware) -> None:
        if not found:
            look(middleware)
            found.update(middleware.files)
        middleware.files.update(found)

    ServeStaticMiddleware.add_files_from_finders = add


_look_for_static_files_once()


def missing(what: str) -> None:
    """Skip here, fail where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI is set")
    pytest.skip(f"{what} is missing")


@dataclass(frozen=True)
class RedisServer:
    url: str
    process: subprocess.Popen[bytes]
    folder: Path

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)


def start_redis(folder: Path) -> RedisServer:
    """A Redis of our own on a private unix socket; the caller ends its process."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if not program:
        missing("redis-server")
    socket = folder / "r.sock"
    process = subprocess.Popen(
        [str(program), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    server = RedisServer(f"unix://{socket}", process, folder)

    def answers() -> bool:
        with server.client() as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

    wait_until(answers, 10, "redis-server answers")
    return server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    folder = Path(tempfile.mkdtemp(prefix="at-redis-"))
    server = start_redis(folder)
    yield server
    server.process.kill()
    server.process.wait()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The session's Redis, emptied."""
    with redis_server.client() as client:
        client.flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The session's PostgreSQL."""
    binaries = programs()
    if not binaries:
        missing("PostgreSQL")
    with private_postgres(Path(binaries or "")) as server:
        yield server


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def forget_floods() -> None:
    """Else what other tests had dropped would keep a line of this one from being told."""
    dropped._kinds.clear()
