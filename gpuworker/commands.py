"""What the control plane may tell a running agent besides tasks: to end an attempt. Sealed, expiring, said once."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gpuworker import dropped, protocol
from gpuworker.protocol import Kind, Stop

if TYPE_CHECKING:
    from gpuworker.link import Link
    from gpuworker.runner import Runner

log = logging.getLogger(__name__)

_NONCE = re.compile(r"[0-9a-f]{16,64}")


class Stops:
    """Takes in sealed stop commands. Never raises: whoever can write into Redis can send anything."""

    def __init__(self, nonces: Path, link: Link, runner: Runner) -> None:
        self._nonces, self._link, self._runner = nonces, link, runner

    def take(self, sealed: object) -> bool:
        """Whether it was a command for us, and new. Returns at once: its execution must not hold up Celery's event loop."""
        try:
            order = self._opened(sealed)
        except (protocol.BadEnvelope, protocol.BadMessage) as exc:
            dropped.warn(log, "A stop command was dropped: %s", exc, action=dropped.Drop.STOP)
            return False
        if not first_time(self._nonces, order.nonce, expires_at=order.expires_at):
            return False
        threading.Thread(target=self._execute, args=(order,), name="stop", daemon=True).start()
        return True

    def _opened(self, sealed: object) -> Stop:
        if not isinstance(sealed, str):
            raise protocol.BadEnvelope("not a text")
        order = Stop.read(protocol.unseal(Kind.STOP, self._link.host, sealed, self._link.keys))
        if order.expires_at < time.time():
            raise protocol.BadEnvelope(f"it expired {time.time() - order.expires_at:.0f} s ago")
        if not _NONCE.fullmatch(order.nonce):
            raise protocol.BadMessage("Stop.nonce: not hexadecimal")
        return order

    def _execute(self, order: Stop) -> None:
        try:
            self._runner.stop(order)
        except Exception:
            log.exception("A stop command failed; the control plane repeats it", extra={"action": "stop_failed"})


def first_time(folder: Path, nonce: str, *, expires_at: float) -> bool:
    """Remember a nonce on disk until its command has expired; False where it lies there already."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _forget_expired(folder)
    try:
        os.close(os.open(folder / nonce, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    os.utime(folder / nonce, (expires_at, expires_at))
    return True


def _forget_expired(folder: Path) -> None:
    for path in folder.iterdir():
        try:
            if path.stat().st_mtime < time.time():
                path.unlink()
        except FileNotFoundError:
            pass  # Another command's thread was quicker.
