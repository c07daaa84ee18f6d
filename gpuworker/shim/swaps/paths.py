"""Where the target of a swap is: beneath the working directory and through no link, whoever changes the tree meanwhile."""

from __future__ import annotations

import ctypes
import errno
import os
import stat

_OPENAT2 = 437  # the same number on all architectures that have it
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08
_NOT_HERE = (errno.ENOSYS, errno.EPERM, errno.E2BIG, errno.EAGAIN)
"""A kernel before 5.6, a sandbox that does not know the call, or somebody who renames directories at this moment."""


class BadTarget(Exception):
    """A target that must not be swapped; the text says why. Nothing has been touched."""


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class Place:
    """A target's directory as an open descriptor, its name there, and what is there now."""

    __slots__ = ("folder", "found", "missing", "name", "target")

    def __init__(self, folder: int, target: str, missing: tuple[str, ...], found: os.stat_result | None) -> None:
        self.folder, self.target, self.missing, self.found = folder, target, missing, found
        """`folder` is the deepest directory that exists, `missing` are those below it that do not."""
        self.name = target.rpartition("/")[2]

    def close(self) -> None:
        os.close(self.folder)


def locate(root: int, target: str) -> Place:
    """Find a target beneath the directory `root`; the caller closes it. Raises BadTarget, OSError."""
    parts = target.split("/")
    if not all(parts) or ".." in parts or "." in parts or "\0" in target:
        raise BadTarget(f"{target}: not a plain path below the working directory.")
    try:
        folder, depth = _deepest(root, parts[:-1])
    except OSError as exc:
        raise BadTarget(f"{target}: {_why(exc)}.") from None
    missing = tuple(parts[depth:-1])
    try:
        return Place(folder, target, missing, None if missing else _regular(folder, target, parts[-1]))
    except BaseException:
        os.close(folder)
        raise


def open_beneath(root: int, path: str, flags: int) -> int:
    """Open `path` beneath the directory `root`; OSError ELOOP for a link on the way, EXDEV for a way out."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)
    fd: int = ctypes.CDLL(None, use_errno=True).syscall(_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
    if fd >= 0:
        return fd
    code = ctypes.get_errno()
    if code in _NOT_HERE:
        return open_step_by_step(root, path, flags)
    raise OSError(code, os.strerror(code), path)


def open_step_by_step(root: int, path: str, flags: int) -> int:
    """The same without openat2: each directory on its own, none through a link."""
    *folders, name = path.split("/")
    if ".." in (*folders, name) or path.startswith("/"):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    at = os.dup(root)
    try:
        for folder in folders:
            below = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    finally:
        os.close(at)


def _deepest(root: int, folders: list[str]) -> tuple[int, int]:
    """The deepest of these nested directories that exists, and how many of them do."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    for depth in range(len(folders), 0, -1):
        try:
            return open_beneath(root, "/".join(folders[:depth]), flags), depth
        except FileNotFoundError:
            continue
    return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root), 0


def _regular(folder: int, target: str, name: str) -> os.stat_result | None:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise BadTarget(f"{target}: {exc.strerror}.") from None
    if not stat.S_ISREG(found.st_mode):
        raise BadTarget(f"{target} is {_kind(found.st_mode)}: only regular files can be swapped.")
    return found


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    return "a directory" if stat.S_ISDIR(mode) else "a device, socket or pipe"


def _why(exc: OSError) -> str:
    if exc.errno in (errno.ELOOP, errno.ENOTDIR):
        return "a symbolic link, or something else that is no directory, stands on its way"
    if exc.errno == errno.EXDEV:
        return "its way leads out of the working directory"
    return exc.strerror or str(exc)
