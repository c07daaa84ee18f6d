"""Device locks: one file per device for all accounts and installations of a machine, held by open descriptors.

The command inherits the descriptors, so that a device stays locked until the last process that kept them has ended,
even where the shim is killed. Free means more than an open lock (docs/how-it-works.md, "A device is free when").
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Sequence

PATIENCE_S = 0.5
"""How long a taken lock is tried again: a probe, or a shim that has written its last record, lets go within this."""
_HIGH = 100
"""Shell scripts use small descriptor numbers for themselves; `exec 3>file` must not drop a lock."""


class Taken(Exception):
    """Somebody else has the device; says which lock."""


def lock_path(folder: str | os.PathLike[str], uuid: str) -> str:
    return os.path.join(folder, f"autotrainer-{uuid.replace('/', '_')}.lock")


def take_all(paths: Sequence[str], *, shared: bool = False) -> list[int]:
    """Descriptors of all locks, in the order given, `shared` with others who share. Raises Taken, or OSError for a lock
    that cannot be used."""
    deadline = time.monotonic() + PATIENCE_S
    held: list[int] = []
    try:
        for path in paths:
            held.append(_take_patiently(path, deadline, fcntl.LOCK_SH if shared else fcntl.LOCK_EX))
    except BaseException:
        drop(held)
        raise
    return held


def drop(held: list[int]) -> None:
    while held:
        os.close(held.pop())


def _take_patiently(path: str, deadline: float, how: int) -> int:
    while True:
        try:
            return take(path, how)
        except (Taken, PermissionError):  # A file that another account makes at this instant may not be open to us yet.
            if time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def take(path: str, how: int = fcntl.LOCK_EX) -> int:
    """A descriptor of the lock, taken at once. Raises Taken, or OSError."""
    for _ in range(10):
        fd = open_lock(path)
        if _locked(fd, path, how):
            return fd
        os.close(fd)
    raise Taken(f"The lock {path} is being replaced again and again.")


def open_lock(path: str) -> int:
    """A lock file, made where it is missing, not locked yet."""
    low = _open(path)
    try:
        return fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    finally:
        os.close(low)


def _open(path: str) -> int:
    """Without O_CREAT first: in a sticky folder the kernel refuses O_CREAT on another account's file."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        pass
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return os.open(path, flags)
    os.fchmod(fd, 0o666)  # The umask took the others' rights away.
    return fd


def _locked(fd: int, path: str, how: int) -> bool:
    """False where the file was replaced meanwhile. Raises Taken; the descriptor is closed then."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
        named = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError as exc:
        os.close(fd)
        if exc.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise Taken(f"The device lock {path} is taken by another process on this machine.") from None
        raise
    return os.path.samestat(named, os.fstat(fd))
