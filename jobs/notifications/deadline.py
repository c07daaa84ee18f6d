"""An end to what a server may make us wait in all.

Time-outs of sockets are for each read: a server that sends a byte now and then is never late, and could hold the only one who
sends letters for days. When the time is up the connections are shut, so that whoever reads or writes there fails at once.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextvars import ContextVar

from jobs.notifications.letter import NotSent

LONGEST_S = 300.0
"""Of a letter with its attachments; well below the lease of its row (sending.py)."""

_current: ContextVar[_Deadline | None] = ContextVar("deadline", default=None)


class _Deadline:
    def __init__(self) -> None:
        self.passed = False
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []

    def watch(self, raw: socket.socket) -> None:
        with self._lock:
            self._sockets.append(raw.dup())  # of the same connection, whatever is wrapped around it
        if self.passed:
            self._shut()

    def pass_by(self) -> None:
        self.passed = True
        self._shut()

    def _shut(self) -> None:
        with self._lock:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            for each in self._sockets:
                each.close()
            self._sockets = []


@contextlib.contextmanager
def within(seconds: float | None = None) -> Iterator[None]:
    """What is sent in it, by connections that are given to `watch`, ends by then. Raises NotSent for what that broke off."""
    longest_s = LONGEST_S if seconds is None else seconds
    deadline = _Deadline()
    timer = threading.Timer(longest_s, deadline.pass_by)
    timer.daemon = True
    token = _current.set(deadline)
    timer.start()
    try:
        yield
    except NotSent as exc:
        if deadline.passed:
            raise NotSent(f"The server took longer than {longest_s:g} s in all, and was left: {exc}", unsure=exc.unsure) from exc
        raise
    finally:
        timer.cancel()
        _current.reset(token)
        deadline.close()


def watch(raw: socket.socket) -> socket.socket:
    """A connection that was just made; the same."""
    if deadline := _current.get():
        deadline.watch(raw)
    return raw
