"""A control group (v2) of its own for each attempt: its members cannot leave it by forking, and one write kills them all.

Not every machine lets us make one (gpuworker/groups.py); then the subreaper and the marker have to do.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Iterator
from typing import Any

PREFIX = "autotrainer-"
_CLONE3 = 435  # on all architectures
_CLONE_INTO_CGROUP = 0x200000000
# Looked up here, in the zygote: each look-up in a shim would cost it memory of its own. All keep the interpreter's lock.
_CloneArgs = ctypes.c_uint64 * 11
_syscall = ctypes.PyDLL(None, use_errno=True).syscall
_before_fork, _after_fork_child, _after_fork_parent = (
    getattr(ctypes.pythonapi, f"PyOS_{name}") for name in ("BeforeFork", "AfterFork_Child", "AfterFork_Parent")
)


class Group:
    """One attempt's group. A path alone names nobody after a reboot or a removal: the inode has to be the same."""

    def __init__(self, path: str) -> None:
        """Raises OSError where there is none."""
        self.path = path
        self.inode = os.stat(path).st_ino

    @property
    def record(self) -> dict[str, Any]:
        return {"path": self.path, "inode": self.inode}

    def fork(self) -> int:
        """As os.fork, with the child born in here. Raises OSError.

        Moving a process into a group costs 6 to 15 ms (the kernel waits for all others to see it), being born in it nothing.
        """
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _clone_into(folder)
        finally:
            os.close(folder)

    def take_in(self, pid: int) -> None:
        self._write("cgroup.procs", str(pid))

    def populated(self) -> bool:
        """Whether a process lives in it or below. A group that has gone had none: the kernel removes no other.

        Raises OSError where it cannot be told: unknown is never empty.
        """
        try:
            return "populated 1" in read_file(os.path.join(self.path, "cgroup.events"))
        except FileNotFoundError:
            return False
        except OSError as exc:
            if exc.errno == errno.ENODEV:  # Removed while it was being read.
                return False
            raise

    def pids(self) -> list[int]:
        """All of them, those in groups that the command made itself too."""
        words = [word for folder in _below(self.path) for word in read_or_nothing(os.path.join(folder, "cgroup.procs")).split()]
        return [int(word) for word in words if word != "0"]  # 0: in another pid namespace

    def kill(self) -> None:
        """SIGKILL to everybody, those being forked too. Before Linux 5.14 nothing: the pids are there to be signalled."""
        try:
            self._write("cgroup.kill", "1")
        except OSError:
            pass

    def memory_kills(self) -> int | None:
        """How many of its processes the kernel has ended for lack of memory; None where it does not count them."""
        lines = [line.split() for line in read_or_nothing(os.path.join(self.path, "memory.events")).splitlines()]
        return next((int(line[1]) for line in lines if line[0] == "oom_kill"), None)

    def remove(self) -> bool:
        """False while somebody is in it."""
        try:
            for folder in reversed(list(_below(self.path))):
                os.rmdir(folder)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def _write(self, name: str, text: str) -> None:
        fd = os.open(os.path.join(self.path, name), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def make(parent: str, mark: str) -> Group | None:
    """A new group for an attempt; None where none can be made, or none is wanted (an empty `parent`)."""
    if not parent:
        return None
    path = os.path.join(parent, PREFIX + mark)
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass  # Its maker was killed before it could start anybody.
    except OSError:
        return None
    try:
        return Group(path)
    except OSError:
        return None


def _below(folder: str) -> Iterator[str]:
    """A group and all in it, each before those in it."""
    for path, _, _ in os.walk(folder):
        yield path


def read_or_nothing(path: str) -> str:
    try:
        return read_file(path)
    except OSError:
        return ""


def read_file(path: str) -> str:
    """A small file of the kernel's, without the memory that Python's own files take."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    data = b""
    try:
        while piece := os.read(fd, 65536):
            data += piece
    finally:
        os.close(fd)
    return data.decode(errors="replace")


def _clone_into(folder: int) -> int:
    args = _CloneArgs(_CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, folder)
    _before_fork()
    pid = int(_syscall(_CLONE3, args, ctypes.sizeof(args)))
    if pid == 0:
        _after_fork_child()
    else:
        _after_fork_parent()
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone3")
    return pid
