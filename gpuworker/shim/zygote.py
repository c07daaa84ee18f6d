"""Forks shims: a launch costs a fork and not an interpreter's start. Holds nothing of any attempt.

Single-threaded. If it dies the shims live on and the agent starts another; if the agent dies it goes.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from typing import Any

from gpuworker.failpoints import hit
from gpuworker.shim import hostmemory, shim
from gpuworker.shim.rehearsal import rehearse

_LONGEST_LINE = 64 * 1024
_GAP_BYTES = 16 * 1024


def serve(control: socket.socket) -> None:
    """Answer requests (one line: an attempt directory's path as a JSON string) until the agent's end closes."""
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):  # SIGCHLD: ended shims leave no zombie
        signal.signal(signum, signal.SIG_IGN)
    hostmemory.keep()
    os.chdir("/")
    rehearse()
    gc.collect()
    gc.disable()
    gc.freeze()  # Else the first collection in each shim would copy all these pages.
    _filling = _fill_gaps()
    buffer = b""
    try:
        while data := control.recv(_LONGEST_LINE):
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                control.sendall(json.dumps(_fork_shim(json.loads(line), control)).encode() + b"\n")
    except (ConnectionResetError, BrokenPipeError):
        pass  # The agent was killed.


def _fill_gaps() -> list[object]:
    """Occupies the free places between the objects that are here. Must be kept.

    A shim that made its objects there would copy a page for each; so it makes them close together, in pages of its own.
    """
    small = [float(number) for number in range(_GAP_BYTES // 32)]
    return [*small, *(bytes(size - b"".__sizeof__()) for size in range(48, 513, 16) for _ in range(_GAP_BYTES // size))]


def _fork_shim(path: str, control: socket.socket) -> dict[str, Any]:
    """Answers once the shim has written shim.json and can be reached, or has failed to."""
    ready, told = os.pipe()
    hit("zygote.asked")
    try:
        pid = os.fork()
    except OSError as exc:
        os.close(ready)
        os.close(told)
        return {"error": f"fork: {exc}"}
    if pid == 0:
        os.close(ready)
        control.close()
        _be_shim(path, told)
    hit("zygote.forked")
    os.close(told)
    with open(ready, "rb") as file:
        up = file.read(1)
    return {"pid": pid} if up else {"error": f"the shim of {path} failed; its words are in shim.log"}


def _be_shim(path: str, told: int) -> None:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        shim.keep(path, told)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        raise
    finally:
        os._exit(code)
