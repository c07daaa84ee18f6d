"""Our own services as /proc shows them: for `status`, and to end what an earlier start has left behind.

A service carries AUTOTRAINER_HOME and AUTOTRAINER_SERVICE in its environment. Trainings, their shims and the zygote do not
carry the second name, and are left out by their command lines as well: they are never ended here.
"""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path

SUPERVISOR = "supervisor"


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    pid: int
    started_ticks: int
    """Clock ticks since boot."""

    @property
    def uptime_s(self) -> float:
        up_s = float(Path("/proc/uptime").read_text().split()[0])
        return max(0.0, up_s - self.started_ticks / os.sysconf("SC_CLK_TCK"))


def services(home: Path) -> list[Service]:
    """The services that run on this home, by name."""
    real_home = os.path.realpath(home)
    found = (_service(pid, real_home) for pid in _pids())
    return sorted((service for service in found if service), key=lambda service: (service.name, service.pid))


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and int(entry) != os.getpid()]


def _service(pid: int, real_home: str) -> Service | None:
    try:
        folder = Path(f"/proc/{pid}")
        if folder.stat().st_uid != os.getuid():
            return None
        environ = dict(item.split(b"=", 1) for item in (folder / "environ").read_bytes().split(b"\0") if b"=" in item)
        name = environ.get(b"AUTOTRAINER_SERVICE")
        if not name or os.path.realpath(environ.get(b"AUTOTRAINER_HOME", b"")) != os.fsencode(real_home):
            return None
        if b"gpuworker.shim" in (folder / "cmdline").read_bytes():
            return None
        stat = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None  # it has ended, or is somebody else's
    return None if stat[0] in "ZX" else Service(os.fsdecode(name), pid, int(stat[19]))


def sweep(home: Path, *, patience_s: float = 5.0) -> int:
    """End all services of this home: the supervisor at once, so that it starts nothing again; the others by SIGTERM, then SIGKILL.

    Answers how many there were. The caller holds the home's lock, so no living `up` owns them.
    """
    ended: set[int] = set()
    deadline = time.monotonic() + patience_s
    while left := services(home):
        late = time.monotonic() > deadline
        if time.monotonic() > deadline + patience_s:
            raise TimeoutError(f"these processes do not end: {', '.join(f'{s.name} ({s.pid})' for s in left)}")
        for service in left:
            if late or service.name == SUPERVISOR:
                _signal(service, home, signal.SIGKILL)
            elif service.pid not in ended:
                _signal(service, home, signal.SIGTERM)
            ended.add(service.pid)
        time.sleep(0.05)
    return len(ended)


def _signal(service: Service, home: Path, signum: signal.Signals) -> None:
    """Through a pidfd, looked at again once it is held: a pid alone may have become somebody else's."""
    try:
        fd = os.pidfd_open(service.pid)
    except OSError:
        return
    try:
        if _service(service.pid, os.path.realpath(home)) == service:
            signal.pidfd_send_signal(fd, signum)
            select.select([fd], [], [], 0.02)
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)
