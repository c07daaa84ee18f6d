"""Runs one service so that it dies with its supervisor: `python -I -S service.py [--after SOCKET] -- PROGRAM ARGUMENTS…`.

After a kill -9 of supervisord its services would live on, and the next start would put a second set beside them. The signal
is asked for here, between fork and exec; it is not inherited by children, so a training never dies of it.
`--after` waits for the embedded Redis to answer, since a Celery worker that finds no broker tries again only seconds later.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time

PR_SET_PDEATHSIG = 1
LONGEST_WAIT_S = 15.0


def main(argv: list[str]) -> None:
    own, program = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("The supervisor is gone.")
    if own[:1] == ["--after"]:
        wait_for(own[1])
    os.execv(program[0], program)  # noqa: S606 - no shell is wanted


def wait_for(path: str) -> None:
    """Until a Redis answers at this socket, or too much time has passed: the service then says better what is wrong."""
    deadline = time.monotonic() + LONGEST_WAIT_S
    while not _answers(path) and time.monotonic() < deadline:
        time.sleep(0.02)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(path)
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")  # while its data is loading it answers -LOADING
        except OSError:
            return False


if __name__ == "__main__":
    main(sys.argv[1:])
