"""Processes by evidence: who they are, who descends from whom, who carries an attempt's mark.

A process is (boot id, pid, start time in clock ticks since boot); a pid alone names nobody.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import Any

from gpuworker.shim.cgroup import Group

MARK = "AUTOTRAINER_MARK"
Table = dict[int, "Process"]


class Process:
    """One line of the process table."""

    __slots__ = ("parent", "pid", "session", "start_ticks", "zombie")

    def __init__(self, pid: int, parent: int, session: int, start_ticks: int, zombie: bool) -> None:
        self.pid, self.parent, self.session, self.start_ticks, self.zombie = pid, parent, session, start_ticks, zombie


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None where there is none (a zombie is none)."""
    process = read_process(pid)
    return None if process is None or process.zombie else process.start_ticks


def read_process(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rfind(b")") + 2 :].split()  # The name in parentheses may hold anything.
    # A leader whose main thread has ended looks like a zombie while its other threads work on.
    zombie = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]), zombie)


def table() -> Table:
    """All processes that can be seen."""
    found = (read_process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {process.pid: process for process in found if process}


def descendants(roots: Iterable[int], processes: Table) -> list[Process]:
    """Children, their children and so on, zombies too; without the roots."""
    children: dict[int, list[Process]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    todo = list(roots)
    while todo:
        born = children.pop(todo.pop(), [])
        found += born
        todo += [process.pid for process in born]
    return found


def marked(mark: str, processes: Table) -> list[Process]:
    """Processes that were started with this attempt's mark in their environment."""
    return [process for process in processes.values() if _carries(process.pid, f"{MARK}={mark}".encode())]


def tree(mark: str, leader: tuple[int, int] | None = None, below: Iterable[int] = (), group: Group | None = None) -> list[Process]:
    """What lives of an attempt: by its mark, by its leader's session, below the given pids, in its control group, and whatever
    descends from these.

    `leader`: (pid, start_ticks) of the command's shell; its session finds what has written over its own environment
    (setproctitle). Invisible once the shim is dead and without a group, so for locks and devices to tell: emptied environment
    *and* own session.
    """
    processes = table()
    found = {process.pid: process for process in marked(mark, processes)}
    # Read after the table: a pid that was given out again meanwhile has another start there, and is not signalled.
    found |= {pid: processes[pid] for pid in (group.pids() if group else ()) if pid in processes}
    if leader is not None and _session_is_ours(*leader, processes):
        found |= {process.pid: process for process in processes.values() if process.session == leader[0]}
    found |= {process.pid: process for process in descendants({*below, *found}, processes)}
    return [process for process in found.values() if not process.zombie and process.pid != os.getpid()]


def describe(process: Process) -> dict[str, Any]:
    """For people: its pid, its program's name, and its state in the kernel's letter (D: waits for a device or a disk)."""
    try:
        with open(f"/proc/{process.pid}/stat", "rb") as file:
            text = file.read().decode(errors="replace")
    except OSError:
        text = "(?) X"
    name, state = text[text.find("(") + 1 : text.rfind(")")], text[text.rfind(")") + 2 :][:1]
    return {"pid": process.pid, "program": name, "state": state}


def send_signal(process: Process, signum: int) -> bool:
    """Signal this very process; False where it has ended or may not be signalled. Never a later one with its pid."""
    pidfd = _pidfd(process.pid)
    try:
        now = read_process(process.pid)
        if now is None or now.start_ticks != process.start_ticks:
            return False
        if pidfd is None:
            os.kill(process.pid, signum)
        else:
            signal.pidfd_send_signal(pidfd, signum)
    except OSError:
        return False
    finally:
        if pidfd is not None:
            os.close(pidfd)
    return True


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None  # A kernel before 5.3, where a pid has to do; or it has ended, as will be seen.


def _carries(pid: int, entry: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return entry in file.read().split(b"\0")
    except OSError:
        return False  # Ended, or another account's.


def _session_is_ours(leader: int, ticks: int, processes: Table) -> bool:
    """While a session has members its leader's pid is not given out again; a stranger with that pid has its own session."""
    return leader not in processes or processes[leader].start_ticks == ticks
