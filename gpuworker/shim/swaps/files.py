"""Small things that are done to files of a swap. Standard library only, and little of it: each shim pays for it."""

from __future__ import annotations

import errno
import os
from typing import Any

try:
    from _sha2 import sha256  # type: ignore[import-not-found]
except ImportError:  # Python 3.11
    from _sha256 import sha256  # type: ignore[import-not-found]
# Not hashlib: it loads OpenSSL, which is a megabyte in a process that has four.

_PIECE = 1 << 20


def hexdigest(data: bytes) -> str:
    return str(sha256(data).hexdigest())


def digest(fd: int) -> str:
    """The sha256 of an open file, in hexadecimal."""
    state, at = sha256(), 0
    while piece := os.pread(fd, _PIECE, at):
        state.update(piece)
        at += len(piece)
    return str(state.hexdigest())


def digest_of(name: str, folder: int) -> str | None:
    """The sha256 of a regular file by its name; None where that is none or cannot be read."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    try:
        return digest(fd)
    except OSError:
        return None  # A directory, for instance.
    finally:
        os.close(fd)


def copy(source: int, target: int, most: int | None = None) -> int:
    """Append the bytes of one open file to another, up to `most`; how many there were."""
    done = 0
    while piece := os.pread(source, _PIECE if most is None else min(_PIECE, most - done), done):
        view = memoryview(piece)
        while view:
            view = view[os.write(target, view) :]
        done += len(piece)
    return done


def dress(fd: int, *, mode: int, owner: tuple[int, int] | None, mtime_ns: int) -> None:
    """Give an open file its looks: the owner where we may, and what we may always."""
    if owner is not None:
        try:
            os.fchown(fd, *owner)
        except PermissionError:
            pass  # Not our file's owner to give: the training reads it as its own account anyway.
    os.fchmod(fd, mode)
    os.utime(fd, ns=(mtime_ns, mtime_ns))


def copy_looks(source: int, target: int) -> None:
    """Mode, owner, times and extended attributes of one open file for another, where possible."""
    looks = os.fstat(source)
    for name in _attributes(source):
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError:
            pass  # Not every file system takes every attribute.
    dress(target, mode=looks.st_mode & 0o7777, owner=(looks.st_uid, looks.st_gid), mtime_ns=looks.st_mtime_ns)


def present(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def remove(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass


def the_job_is_to_blame(exc: OSError) -> bool:
    """Whether a failure lies in what the job asked for (a read-only place) and not in the host (a full disk)."""
    return exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)


def _attributes(fd: int) -> list[Any]:
    try:
        return os.listxattr(fd)
    except OSError:
        return []
