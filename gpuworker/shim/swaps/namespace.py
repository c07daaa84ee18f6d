"""The way that touches no file: a mount namespace of the command's own, in which the new file lies over the old one.

Works for root, and for everybody else where the kernel gives user namespaces to everybody. The own uid is mapped to itself:
seen from inside, nothing but the file is different, and after the exec no capability is left. Must be called in a process
with a single thread that is about to become the command.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from gpuworker.shim.swaps import paths

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_BIND, _MS_REC, _MS_SLAVE = 4096, 16384, 1 << 19


def enter() -> None:
    """Leave the mount namespace that we share with everybody. Raises OSError where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        uid, gid = os.geteuid(), os.getegid()
        _check(libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "unshare")
        _write("setgroups", "deny")
        _write("uid_map", f"{uid} {uid} 1")
        _write("gid_map", f"{gid} {gid} 1")
    # Slave and not private: what is mounted outside (home directories on demand) still appears inside.
    _mount(None, "/", _MS_REC | _MS_SLAVE)


def overlay(attempt: str, files: Iterable[tuple[str, str, tuple[int, int]]]) -> None:
    """Lay each (file of the attempt directory, target below the working directory, its (device, inode)) over its target.

    Descriptors from before `enter` belong to the old namespace, so everything is opened anew. Raises OSError, BadTarget.
    """
    root = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    folder = os.open(attempt, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for name, target, identity in files:
        source = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        over = paths.open_beneath(root, target, os.O_PATH | os.O_NOFOLLOW)
        found = os.fstat(over)
        if (found.st_dev, found.st_ino) != identity:
            raise paths.BadTarget(f"{target} was replaced by somebody at this moment.")
        _mount(f"/proc/self/fd/{source}", f"/proc/self/fd/{over}", _MS_BIND)
        os.close(source)
        os.close(over)
    os.close(folder)
    os.close(root)


def _mount(source: str | None, target: str, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.mount(source and os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(flags), None), "mount")


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _write(name: str, text: str) -> None:
    fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
