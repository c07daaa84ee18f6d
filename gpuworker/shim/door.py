"""The shim's socket: pushes events to whoever listens, takes requests, and never waits for anybody."""

from __future__ import annotations

import json
import math
import os
import select
import socket
from collections.abc import Mapping
from typing import Any

NAME = "control.sock"
_LONGEST_LINE = 64 * 1024
_MOST_CLIENTS = 32


def socket_path(folder: int) -> str:
    """A short name for the socket of an open attempt directory: socket addresses end at 108 bytes, homes need not."""
    return f"/proc/self/fd/{folder}/{NAME}"


class Door:
    """Listens in the attempt directory, and wakes for one more descriptor (the shim's signals)."""

    def __init__(self, folder: int) -> None:
        self.phase = "launching"
        self._clients: dict[int, tuple[socket.socket, bytearray]] = {}
        self._poll = select.poll()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener.bind(socket_path(folder))
        self._listener.listen(4 * _MOST_CLIENTS)
        self._poll.register(self._listener, select.POLLIN)

    def watch(self, fd: int) -> None:
        """Also wake when `fd` can be read; it is emptied."""
        self._poll.register(fd, select.POLLIN)

    def pump(self, timeout_s: float | None) -> list[dict[str, Any]]:
        """The requests that came, after at most `timeout_s` (None: however long). An empty list where something else woke."""
        # poll(2) takes no more than 24 days; waking up once an hour costs nothing.
        wait_ms = None if timeout_s is None else math.ceil(1000 * min(max(timeout_s, 0.0), 3600.0))
        requests: list[dict[str, Any]] = []
        for fd, _ in self._poll.poll(wait_ms):
            if fd == self._listener.fileno():
                for fresh in self._accept():
                    requests += self._read(fresh)  # It may have asked before we let it in.
            elif fd in self._clients:
                requests += self._read(fd)
            else:
                _empty(fd)
        return requests

    def push(self, event: str, body: Mapping[str, Any] | None = None) -> None:
        """Tell all clients, and those that have connected but were not let in yet."""
        self._accept()
        for fd in list(self._clients):
            self._send(fd, {"event": event, **(body or {})})

    def close(self) -> None:
        for fd in list(self._clients):
            self._drop(fd)
        self._listener.close()

    def _accept(self) -> list[int]:
        fresh: list[int] = []
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return fresh  # Nobody waits, or the one who did has gone.
            if len(self._clients) >= _MOST_CLIENTS:
                client.close()
                continue
            client.setblocking(False)
            self._clients[client.fileno()] = (client, bytearray())
            self._poll.register(client, select.POLLIN)
            fresh.append(client.fileno())
            self._send(client.fileno(), {"event": "state", "phase": self.phase})

    def _send(self, fd: int, message: Mapping[str, Any]) -> None:
        client, line = self._clients[fd][0], json.dumps(message, separators=(",", ":")).encode() + b"\n"
        try:
            if client.send(line) < len(line):
                client.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            client.shutdown(socket.SHUT_WR)  # Too slow: the records tell it everything when it comes back.
        except OSError:
            pass  # Gone, maybe after a request that is still to be read.

    def _read(self, fd: int) -> list[dict[str, Any]]:
        client, buffer = self._clients[fd]
        try:
            data = client.recv(_LONGEST_LINE)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        buffer += data
        *lines, rest = bytes(buffer).split(b"\n")
        if not data or len(rest) > _LONGEST_LINE:
            self._drop(fd)
        buffer[:] = rest
        return [request for line in lines if (request := _request(line)) is not None]

    def _drop(self, fd: int) -> None:
        client, _ = self._clients.pop(fd)
        self._poll.unregister(fd)
        client.close()


def _request(line: bytes) -> dict[str, Any] | None:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return request if isinstance(request, dict) else None


def _empty(fd: int) -> None:
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        pass
