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
    def __init__(self, app: Celery, worker: subprocess.Popen[bytes]) -> None:
        self._app, self.pid = app, worker.pid

    def submit(self, argv: list[str]) -> None:
        self._app.send_task("run", (argv,))


@contextmanager
def bare_celery(folder: Path, threads: int) -> Iterator[Peer]:
    """A worker that is ready; it and its Redis are ended by pid."""
    folder.mkdir()
    socket = folder / "redis.sock"
    broker = f"redis+socket://{socket}"
    redis = _start([_redis_program(), "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)], folder / "redis.txt")
    worker = None
    try:
        _wait(socket.exists, 10, "the peer's Redis makes its socket")
        argv = [sys.executable, "-m", "celery", "-A", "benchmarks.peer_app", "worker", "-P", "threads", "-c", str(threads)]
        worker = _start([*argv, "-n", "peer@localhost", "--loglevel", "WARNING"], folder / "celery.txt", PEER_BROKER=broker)
        app = Celery("peer", broker=broker, set_as_current=False)
        app.conf.task_ignore_result = True
        _wait(lambda: app.control.ping(timeout=0.3), 30, "the peer's worker answers")
        yield Peer(app, worker)
        app.close()
    finally:
        for process in (worker, redis):
            if process is not None:
                process.kill()
                process.wait()


def _redis_program() -> str:
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if not program:
        raise Broken("no redis-server and no valkey-server: the peer needs one. Install redis-server.")
    return program


def _start(argv: list[str], output: Path, **environ: str) -> subprocess.Popen[bytes]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    with output.open("wb") as file:
        return subprocess.Popen(argv, cwd=CHECKOUT, env=inherited | environ, stdin=subprocess.DEVNULL, stdout=file, stderr=file)


def _wait(done: Callable[[], object], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise Broken(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.05)
