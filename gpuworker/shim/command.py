"""The user's command: a child that waits for "go" and then becomes the shell."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from gpuworker.shim import hostmemory
from gpuworker.shim.cgroup import Group


class NotPrepared(Exception):
    """The child could not do what it had to do before "go"; it has ended."""


class Command:
    """A child that has not been let go yet. `group`: the one it is in, so that all it will ever fork is; None for none."""

    def __init__(
        self,
        launch: Mapping[str, Any],
        log: int,
        locks: Sequence[int],
        group: Group | None = None,
        first: Callable[[], None] | None = None,
    ) -> None:
        """Fork it in the present working directory; it inherits the log as stdout and stderr, and the locks.

        `first` is done in the child, and waited for. Raises NotPrepared where that raised.
        """
        ready, told = os.pipe() if first else (-1, -1)
        go, self._go = os.pipe()
        self._failure, failure = os.pipe()
        self.pid, self.group = _fork(group)
        if self.pid == 0:
            os.close(self._go)  # Else it would not notice that the shim has died before "go".
            if first:
                os.close(ready)
                _prepare(first, told)
            _become(launch, go=go, failure=failure, log=log, locks=locks)
        os.close(go)
        os.close(failure)
        if first:
            os.close(told)
            with open(ready, "rb") as file:
                why = file.read().decode(errors="replace")
            if why:
                self.forget()
                raise NotPrepared(why)

    def go(self) -> OSError | None:
        """Let it run; what kept the shell from being executed, else None."""
        os.write(self._go, b"g")
        os.close(self._go)
        with open(self._failure, "rb") as file:
            text = file.read()
        return OSError(int(text), os.strerror(int(text))) if text else None

    def forget(self) -> None:
        """Never let it run: it ends by itself."""
        os.close(self._go)
        os.close(self._failure)


def _fork(group: Group | None) -> tuple[int, Group | None]:
    """As os.fork; and the group that the child is in, if it could be brought into one."""
    if group is None:
        return os.fork(), None
    try:
        return group.fork(), group
    except OSError:
        pid = os.fork()  # A kernel before 5.7, or a container's filter: moved while it waits for "go".
    try:
        if pid:
            group.take_in(pid)
    except OSError:
        group.remove()
        return pid, None
    return pid, group


def _prepare(first: Callable[[], None], told: int) -> None:
    """In the child: do it, or say why not and end. Nothing said, and the pipe closed, means done."""
    try:
        first()
    except BaseException as exc:
        os.write(told, (str(exc) or type(exc).__name__).encode())
        os._exit(127)
    os.close(told)


def _become(launch: Mapping[str, Any], *, go: int, failure: int, log: int, locks: Sequence[int]) -> NoReturn:
    """In the child: wait, then execute. Never returns into the shim's code."""
    try:
        if os.read(go, 1) != b"g":
            os._exit(0)
        os.setsid()
        hostmemory.offer()
        _plain_signals()
        nothing = os.open("/dev/null", os.O_RDONLY)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        for lock in locks:
            os.set_inheritable(lock, True)
        os.execve(launch["shell"], [launch["shell"], "-c", launch["command"]], launch["env"])  # noqa: S606 - it is the shell
    except OSError as exc:
        os.write(failure, str(exc.errno).encode())
    except ValueError:  # A NUL byte
        os.write(failure, str(22).encode())
    finally:
        os._exit(127)


def _plain_signals() -> None:
    """As a login shell would start it: nothing that we or our ancestors ignored stays ignored."""
    signal.set_wakeup_fd(-1)
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
