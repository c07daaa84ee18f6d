"""What the Python processes of an attempt are doing just now, by `py-spy`, where this host has it.

Looked at without halting them. Bounded in time, in number and in size: a program that hangs is looked at, whatever it is.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gpuworker.attempts import AttemptDir, attempts_folder, valid_key
from gpuworker.questions import Question
from gpuworker.settings import Settings

MOST_PROCESSES = 8
LONGEST_BYTES = 6 * 1024
"""Of one process."""
ONE_S, ALL_S = 4.0, 10.0


class Stacks:
    def __init__(self, config: Settings) -> None:
        self._folder = attempts_folder(config)

    def of(self, question: Question) -> list[dict[str, Any]]:
        """`{pid, stack}` of each; empty where py-spy is not here, or nothing of the attempt lives. Raises ValueError."""
        key = question.args.get("attempt", "")
        if not valid_key(key):
            raise ValueError("no such attempt")
        program = shutil.which("py-spy", path=os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)]))
        attempt = AttemptDir(self._folder / key)
        if program is None or not attempt.path.is_dir():
            return []
        until = time.monotonic() + ALL_S
        pids = sorted(process.pid for process in attempt.tree() if _is_python(process.pid))[:MOST_PROCESSES]
        return [{"pid": pid, "stack": _stack(program, pid, min(ONE_S, until - time.monotonic()))} for pid in pids]


def _is_python(pid: int) -> bool:
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith(("python", "pypy"))
    except OSError:
        return False


def _stack(program: str, pid: int, longest_s: float) -> str:
    """As it says it; or why it says nothing, since that stands in its place."""
    if longest_s <= 0:
        return "not looked at: the others took too long"
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    command = [program, "dump", "--nonblocking", "--pid", str(pid)]
    try:
        spy = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as exc:
        return f"py-spy could not be started: {exc}"
    with spy:
        said = _heard(spy, time.monotonic() + longest_s)
        spy.kill()
    text = said[:LONGEST_BYTES].decode(errors="replace").strip()
    return (text or f"py-spy has said nothing in {longest_s:.0f} s") + ("\n…" if len(said) > LONGEST_BYTES else "")


def _heard(spy: subprocess.Popen[bytes], until: float) -> bytes:
    """What it says until it ends, has said enough, or time is up."""
    said = b""
    if spy.stdout is None:
        return said
    ready = select.poll()
    ready.register(spy.stdout, select.POLLIN)
    while len(said) <= LONGEST_BYTES and ready.poll(max(0.0, until - time.monotonic()) * 1000):
        if not (data := os.read(spy.stdout.fileno(), LONGEST_BYTES)):
            break
        said += data
    return said
