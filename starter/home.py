"""AUTOTRAINER_HOME: made, writable, and one `up` at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpuworker.settings import Settings


class CannotStart(Exception):
    """One sentence: what is in the way and how to mend it."""


@contextmanager
def occupied(home: Path) -> Iterator[None]:
    """Hold this home for one running `up`; raises CannotStart. The lock ends with the process, however that ends."""
    path = home / "up.lock"
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise CannotStart(
            f"AUTOTRAINER_HOME ({home}) cannot be written ({exc.strerror}): make it writable for this user, or set another."
        ) from exc
    try:
        _take(fd, home)
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(fd)


def _take(fd: int, home: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        raise CannotStart(
            f"AutoTrainer already runs on {home} (process {holder}): stop that one first, or give this one another AUTOTRAINER_HOME."
        ) from None
    except OSError as exc:
        raise CannotStart(f"{home} cannot be locked ({exc.strerror}): set AUTOTRAINER_HOME to a folder on a local disk.") from exc


def check_ports(settings: Settings) -> None:
    """Raises CannotStart where a port of ours is taken."""
    _check_port(settings.bind, settings.port, "AUTOTRAINER_PORT", "the page")
    if settings.flower_port:
        _check_port("127.0.0.1", settings.flower_port, "AUTOTRAINER_FLOWER_PORT", "Flower")


def _check_port(address: str, port: int, setting: str, what: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except (OSError, OverflowError) as exc:
            raise CannotStart(_port_sentence(exc, address, port, setting=setting, what=what)) from exc


def _port_sentence(exc: Exception, address: str, port: int, *, setting: str, what: str) -> str:
    number = getattr(exc, "errno", None)
    if number == errno.EADDRINUSE:
        return f"Port {port} on {address}, for {what}, is used by another program: stop it, or set {setting} to a free port."
    if number == errno.EACCES:
        return f"Port {port}, for {what}, is reserved for root: set {setting} to a port of 1024 or more."
    if isinstance(exc, socket.gaierror) or number == errno.EADDRNOTAVAIL:
        return f"AUTOTRAINER_BIND: {address!r} is not an address of this machine: set it to 127.0.0.1, 0.0.0.0 or one of its own."
    return f"Port {port} on {address}, for {what}, cannot be opened ({exc}): set {setting} to another."
