"""`python -m tests.faults.partitions --seconds 1 30 300 [--links …] [--ways …]`: cut the product's wires under load.

Each service has a wire of its own to Redis and to the database (tests/faults/network.py; `--namespaces`: agent or control worker
sits at the far end of a cable instead, tests/faults/namespaces.py). Trainings must go on while one is cut, and everything must have
come right within 60 s after it is mended: jobs over, logs complete, nothing left, and the oracle finds nothing wrong.
"""

from __future__ import annotations

import argparse
import http.client
import http.cookiejar
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starter import embedded_redis
from tests.e2e.product import CHECKOUT, alive, command_line, environments, kill
from tests.faults.namespaces import HUB, Cable, cable
from tests.faults.nemesis import rest
from tests.faults.network import Wire
from tests.faults.stack import HOST, KILLED, SECOND, SECOND_AGENT, SECOND_HOST, SECOND_WEB, SERVICES, Stack
from tests.postgres import Postgres, private_postgres, programs
from tests.waiting import wait_until

CONVERGED_S = 60.0
HOST_LOST_S = 1.5
QUICK = {"AUTOTRAINER_HOST_LOST_S": str(HOST_LOST_S), "AUTOTRAINER_REQUEUE_AFTER_S": "3", "AUTOTRAINER_KILL_GRACE_S": "1"}
LONG_AFTER_S = 3.0
"""A host that is cut off for longer than this must be shown as unreachable."""
PAGE_S = 20.0
"""A page without its database may take this long to say that it has none."""
SINCE_WHEN = "has not been heard from since"
REDIS_PORT, DATABASE_PORT = 6379, 5432

LINKS = {
    "host from Redis": ("agent", "redis"),
    "control from Redis": ("control", "redis"),
    "web from Redis": ("web", "redis"),
    "web from database": ("web", "database"),
    "control from database": ("control", "database"),
}


class Wired(Stack):
    """A stack on a PostgreSQL, with a wire between each service and Redis and between each and the database."""

    def __init__(self, root: Path, postgres: Postgres, *, names: Sequence[str] = SERVICES, devices: str = "sim:4x8GiB") -> None:
        url = postgres.fresh()
        super().__init__(root, devices=devices, names=names, environ={"DATABASE_URL": url} | QUICK)
        self.sockets = {"redis": embedded_redis.embedded_socket(self.home), "database": postgres.folder / ".s.PGSQL.5432"}
        self._database = url.rpartition("/")[2]
        self._browser: urllib.request.OpenerDirector | None = None
        self.wires: dict[tuple[str, str], Wire] = {}
        for name in names:
            if name != "redis":
                self.wires[name, "redis"] = Wire(self.sockets["redis"])
                self.wires[name, "database"] = Wire(self.sockets["database"])
                self.own[name] = self.addresses("127.0.0.1", self.wires[name, "redis"].port, self.wires[name, "database"].port)

    def addresses(self, host: str, redis_port: int, database_port: int) -> dict[str, str]:
        database = f"postgres://autotrainer@{host}:{database_port}/{self._database}"
        open_ = {"AUTOTRAINER_REDIS_OPEN": "true"} if host == HUB else {}  # that network is a cable between two of our namespaces
        return {"AUTOTRAINER_REDIS_URL": f"redis://{host}:{redis_port}/0", "DATABASE_URL": database} | open_

    def move_away(self, far: Cable, *services: str) -> None:
        """From now on these run at the far end of the cable."""
        far.serve(REDIS_PORT, self.sockets["redis"])
        far.serve(DATABASE_PORT, self.sockets["database"])
        for name in services:
            self.stop_service(name)
            self.inside[name] = far.inside()
            self.own[name] = self.addresses(HUB, REDIS_PORT, DATABASE_PORT)
        self.revive()
        wait_until(lambda: self.answers() and self.host_state() == "up", 30, "they work from the far end", every_s=0.1)

    def bring_back(self, *services: str) -> None:
        for name in services:
            self.stop_service(name)
            del self.inside[name]
            self.own[name] = self.addresses("127.0.0.1", self.wires[name, "redis"].port, self.wires[name, "database"].port)
        self.revive()
        wait_until(lambda: self.answers() and self.host_state() == "up", 30, "they are back", every_s=0.1)

    def add_host(self) -> None:
        """A second host, as `manage.py join` lets it in."""
        words = [sys.executable, "manage.py", "join", SECOND_HOST]
        env = self.environ | self.own["agent"]
        told = subprocess.run(words, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=True, timeout=60).stdout
        lines = dict(line.split("=", 1) for line in told.splitlines())
        self.wires[SECOND_AGENT, "redis"] = wire = Wire(self.sockets["redis"])
        self.own[SECOND_AGENT] = lines | {"AUTOTRAINER_REDIS_URL": f"redis://127.0.0.1:{wire.port}/0"}
        self.names = (*self.names, SECOND_AGENT)
        self.revive()
        wait_until(lambda: self.host(SECOND_HOST)["state"] == "up", 30, "the second host is up", every_s=0.1)

    def remove_host(self) -> None:
        self.names = tuple(name for name in self.names if name != SECOND_AGENT)
        self.stop_service(SECOND_AGENT)

    def power_off(self) -> None:
        """The first host is dead, with all that runs on it; what ran there cannot write that down any more."""
        self.kill("agent")
        shims = [json.loads(path.read_text())["pid"] for path in (self.settings.host_home / "attempts").glob("*/shim.json")]
        ours = f"AUTOTRAINER_SIM_DIR={self.settings.host_home}/".encode()
        trainings = [pid for pid, variables in environments() if any(v.startswith(ours) for v in variables)]
        for pid in [pid for pid in shims if b"gpuworker.shim" in command_line(pid)] + trainings:
            kill(pid)
        with self.history.open("a") as file:
            for run in self.runs():
                if run.stopped is None and run.pid in trainings:
                    wait_until(lambda pid=run.pid: not alive(pid), 10, "the training is dead")
                    print("stop", run.job, run.attempt, run.pid, f"{time.monotonic():.6f}", KILLED, ",".join(run.devices) or "-", file=file)

    def host(self, name: str = HOST) -> dict[str, Any]:
        return next(dict(host) for host in self.api("GET", "hosts/")["results"] if host["name"] == name)

    def host_state(self) -> str:
        return str(self.host()["state"])

    def page(self, path: str) -> str:
        """A page as the administrator's browser gets it."""
        site = f"http://localhost:{self.ports['web']}"
        if self._browser is None:
            jar = http.cookiejar.CookieJar()
            self._browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
            self._browser.open(f"{site}/signin/", timeout=20).close()
            token = next(cookie.value for cookie in jar if cookie.name.startswith("autotrainer_csrf"))
            form = {"username": "admin", "password": self.password, "csrfmiddlewaretoken": token}
            self._browser.open(f"{site}/signin/", urllib.parse.urlencode(form).encode(), timeout=20).close()
        with self._browser.open(site + path, timeout=20) as answer:
            return str(answer.read().decode())

    def end_everything(self) -> None:
        super().end_everything()
        for wire in self.wires.values():
            wire.close()


# --- ways to cut --------------------------------------------------------------------------------------------------------

Cut = Callable[[Stack, Wire, float], None]
"""Cuts a wire for so many seconds. It is mended by the caller, whatever happens."""


def _blackhole(stack: Stack, wire: Wire, seconds: float) -> None:
    wire.cut()
    rest(seconds)


def _there(stack: Stack, wire: Wire, seconds: float) -> None:
    wire.cut(back=False)
    rest(seconds)


def _back(stack: Stack, wire: Wire, seconds: float) -> None:
    wire.cut(there=False)
    rest(seconds)


def _reset(stack: Stack, wire: Wire, seconds: float) -> None:
    wire.reset()
    rest(seconds)


def _flapping(stack: Stack, wire: Wire, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        wire.reset()
        rest(0.2)
        wire.mend()
        rest(0.3)


def _slow(stack: Stack, wire: Wire, seconds: float) -> None:
    wire.slow(0.3)
    rest(seconds)


def _redis_restarted(stack: Stack, wire: Wire, seconds: float) -> None:
    wire.cut()
    rest(seconds / 2)
    stack.kill("redis", number=signal.SIGKILL)
    stack.revive()
    rest(seconds / 2)


WAYS: dict[str, Cut] = {
    "blackhole": _blackhole,
    "only there": _there,
    "only back": _back,
    "reset": _reset,
    "flapping": _flapping,
    "slow": _slow,
    "Redis restarted inside": _redis_restarted,
}


# --- one partition ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Healed:
    """What one partition came to. `ended`: how many trainings came to their end while it lasted."""

    link: str
    way: str
    seconds: float
    converged_s: float
    ended: int
    restarts: int

    def __str__(self) -> str:
        return (
            f"{self.link}, {self.way}, {self.seconds:g} s: {self.ended} trainings ended meanwhile, all right after {self.converged_s:.1f} s"
        )


def partition(stack: Wired, link: str, way: str, seconds: float, *, wire: Wire | Cable | None = None) -> Healed:
    """Cut, mend, wait until everything has come right. Raises AssertionError."""
    service, what = LINKS[link]
    cut = wire or stack.wires[service, what]
    long, short, retried = _load(stack, seconds)
    restarts = stack.restarts
    try:
        WAYS[way](stack, cut, seconds)  # type: ignore[arg-type] # a cable is cut and mended like a wire
        _look_while_cut(stack, service, way, seconds)
        ended = len({run.job for run in stack.runs() if run.stopped is not None} & {*short, retried})
    finally:
        cut.mend()
    mended = time.monotonic()
    for gate in long:
        gate.touch()
    stack.submit_surely(stack.witness())
    stack.settle(CONVERGED_S)
    attempts = {job.id: len(job.attempts) for job in stack.jobs()}
    wrong = [f"job {job} had {attempts[job]} attempts" for job in short if attempts[job] != 1]
    assert not wrong, wrong
    if way not in ("flapping", "slow") and what == "redis" and service == "agent" and seconds > 1:
        assert ended >= len(short), "a training waited for the network"
    return Healed(link, way, seconds, time.monotonic() - mended, ended, stack.restarts - restarts)


def _load(stack: Wired, seconds: float) -> tuple[list[Path], list[int], int]:
    """Two trainings that outlast the cut (their gates), one that ends in the middle of it, and one that fails once; others wait."""
    gates = [stack.gate(), stack.gate()]
    outlasting = [stack.submit_surely(stack.witness(gate=gate)) for gate in gates]
    short = [stack.submit_surely(stack.witness(7, seconds=min(seconds / 2, 10)))]
    retried = stack.submit_surely(stack.witness(3, 0, seconds=min(seconds / 2, 1)), max_retries=1, retry_delay_s=0.5)
    wait_until(lambda: all(stack.began(job) for job in (*outlasting, *short, retried)), 60, "the load runs")
    for _ in range(2):
        stack.submit_surely(stack.witness(seconds=0.1))
    return gates, short, retried


def _look_while_cut(stack: Wired, service: str, way: str, seconds: float) -> None:
    if way in ("flapping", "slow"):
        return
    if service == "agent" and seconds >= LONG_AFTER_S:
        host = stack.host()
        assert host["state"] == "unreachable", host
        assert SINCE_WHEN in host["reason"], host
        page = stack.page("/")
        assert "Unreachable" in page, "the overview does not say that the host is unreachable"
        assert SINCE_WHEN in page, "the overview does not say since when"
        running = next(job.id for job in stack.jobs() if job.state == "running")
        assert SINCE_WHEN in stack.page(f"/jobs/{running}/"), "a job's page does not say that its host is unreachable"
    if service == "web":
        began = time.monotonic()
        assert _status(stack, "/healthz") == 200
        assert time.monotonic() - began < PAGE_S, "a page that needs nothing has waited"
        assert _status(stack, "/readyz") == 503
        assert time.monotonic() - began < PAGE_S, f"/readyz took {time.monotonic() - began:.1f} s"


def _status(stack: Wired, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", stack.ports["web"], timeout=60)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


# --- the sweep ----------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> int:
    options = _parse(argv)
    if not (binaries := programs()):
        sys.exit("PostgreSQL is missing: install it, or put its `postgres` on PATH.")
    names = [*SERVICES, SECOND, SECOND_WEB] if options.pair else SERVICES
    wrong = 0
    with private_postgres(binaries) as server, Wired(Path(tempfile.mkdtemp(prefix="at-faults-")), server, names=names) as stack:
        for seconds in options.seconds:
            for link in options.links or LINKS:
                for way in options.ways or WAYS:
                    if not options.namespaces:
                        wrong += not _tried(stack, link, way, seconds)
                    elif LINKS[link][0] != "web" and way not in ("reset", "flapping", "slow"):
                        wrong += not _tried_far_away(stack, link, way, seconds)
        print(f"{len(stack.accepted)} jobs, {len(stack.runs())} starts; {stack.restarts} services started again", flush=True)
    print(f"{wrong} went wrong." if wrong else "All has come right each time.")
    return bool(wrong)


def _tried_far_away(stack: Wired, link: str, way: str, seconds: float) -> bool:
    """With everything of this service behind the cable."""
    service = LINKS[link][0]
    with cable() as far:
        stack.move_away(far, service)
        tried = _tried(stack, link, way, seconds, far)
        stack.bring_back(service)
    return tried


def _tried(stack: Wired, link: str, way: str, seconds: float, far: Cable | None = None) -> bool:
    try:
        print(f"{'cable' if far else 'wire'}: {partition(stack, link, way, seconds, wire=far)}", flush=True)
    except AssertionError as exc:
        print(f"{link}, {way}, {seconds:g} s: WRONG: {exc}\n{stack.told(int(os.environ.get('AT_TOLD', '3000')))}", flush=True)
        stack.settle(600)
        return False
    return True


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    made = argparse.ArgumentParser(prog="python -m tests.faults.partitions", description=(__doc__ or "").partition("\n\n")[0])
    made.add_argument("--seconds", type=float, nargs="+", default=[1, 30, 300])
    made.add_argument("--links", nargs="+", choices=sorted(LINKS))
    made.add_argument("--ways", nargs="+", choices=sorted(WAYS))
    made.add_argument("--namespaces", action="store_true", help="cut a cable between namespaces; agent or control worker is behind it")
    made.add_argument("--pair", action="store_true", help="two webs and two control workers")
    return made.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
