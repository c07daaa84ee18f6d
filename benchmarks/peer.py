"""A bare Celery worker with the threads pool and a Redis of its own on a private unix socket, without persistence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from celery import Celery

from benchmarks.payload import Broken

CHECKOUT = Path(__file__).resolve().parent.parent
_NOT_INHERITED = ("DJANGO_SETTINGS_MODULE", "CELERY_")


class Peer:
    def __init__(self, app: Celery, worker: subprocess.Popen[bytes], broker: str) -> None:
        self._app, self.pid, self.broker = app, worker.pid, broker

    def submit(self, argv: list[str]) -> None:
        self._app.send_task("run", (argv,))


@contextmanager
def bare_celery(folder: Path, threads: int) -> Iterator[Peer]:
    """A worker that is ready."""
    folder.mkdir()
    argv = [sys.executable, "-m", "celery", "-A", "benchmarks.peer_app", "worker", "-P", "threads", "-c", str(threads)]
    argv += ["-n", "peer@localhost", "--loglevel", "WARNING"]
    with private_redis(folder) as url:
        broker = f"redis+socket{url.removeprefix('unix')}"
        with _running(argv, folder / "celery.txt", PEER_BROKER=broker) as worker:
            app = Celery("peer", broker=broker, set_as_current=False)
            app.conf.task_ignore_result = True
            _wait(lambda: app.control.ping(timeout=0.3), 30, "the peer's worker answers")
            yield Peer(app, worker, broker)
            app.close()


@contextmanager
def private_redis(folder: Path) -> Iterator[str]:
    """The address of one on a unix socket in this folder, without persistence."""
    socket = folder / "redis.sock"
    with _running([_redis_program(), "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)], folder / "redis.txt"):
        _wait(socket.exists, 10, "the Redis makes its socket")
        yield f"unix://{socket}"


def _redis_program() -> str:
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if not program:
        raise Broken("no redis-server and no valkey-server: the peer needs one. Install redis-server.")
    return program


@contextmanager
def _running(argv: list[str], output: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """Ended by pid."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    with output.open("wb") as file:
        process = subprocess.Popen(argv, cwd=CHECKOUT, env=inherited | environ, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _wait(done: Callable[[], object], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise Broken(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.05)
