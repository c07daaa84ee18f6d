"""The product's services as processes of ours, without their supervisor: a test kills one and knows which one is dead.

Real web, control worker, agent and Redis on a home of their own; the database is only looked at. Every job that is accepted is
remembered, and `settled` proves in the end that nothing was lost, doubled or left behind.
"""

from __future__ import annotations

import dataclasses
import fcntl
import http.client
import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import psycopg
import redis
from celery import Celery

from gpuworker import failpoints, protocol
from gpuworker import settings as environment
from starter import embedded_redis, supervisor
from tests.e2e.product import CHECKOUT, Product, Refused, command_line, environments, free_port
from tests.faults import oracle
from tests.faults.oracle import Attempt, Job, Run
from tests.waiting import wait_until

HOST = "lab"
WITNESS = CHECKOUT / "tests" / "programs" / "witness.py"
SERVICES = ("redis", "web", "control", "agent")
SECOND = "second control"
SECOND_WEB = "second web"
SECOND_AGENT, SECOND_HOST = "second agent", "lab-2"
PAIR = (*SERVICES, SECOND, SECOND_WEB)
"""Two webs and two control workers, which need a PostgreSQL."""
SETTLE_S = 60.0
KILLED = 137
"""How a test writes down the end of a training that it killed itself."""


class Stack(Product):
    def __init__(
        self, root: Path, *, devices: str = "sim:4x8GiB", names: Sequence[str] = SERVICES, environ: Mapping[str, str] | None = None
    ) -> None:
        self.plan = root / "plan"
        self.names = tuple(names)
        self.ports = {"web": 0, SECOND_WEB: free_port()}
        super().__init__(
            root,
            devices=devices,
            environ={
                "AUTOTRAINER_HOST": HOST,
                "AUTOTRAINER_HEARTBEAT_S": "0.3",
                "AUTOTRAINER_KILL_GRACE_S": "8",
                "AUTOTRAINER_SWAP_WAY": "journal",  # the other one leaves nothing to put back
                failpoints.FLAG: "1",
                failpoints.VARIABLE: f"@{self.plan}",
                **(environ or {}),
            },
        )
        self.ports["web"] = self.port
        self.history, self.gates = root / "history", root / "gates"
        self.gates.mkdir()
        self.settings = environment.load({k: v for k, v in self.environ.items() if k.startswith("AUTOTRAINER_") or k == "DATABASE_URL"})
        self.client = redis.Redis.from_url(self.settings.redis_url, socket_timeout=2)
        self.services: dict[str, subprocess.Popen[bytes]] = {}
        self.own: dict[str, Mapping[str, str]] = {}
        """By service: what it is given beside what all are given."""
        self.inside: dict[str, Sequence[str]] = {}
        """By service: what goes before its command line."""
        self.accepted: list[int] = []
        self._originals: dict[str, tuple[int, bytes] | None] = {}
        self.shims_killed = 0
        self.hosts_lost: set[int] = set()
        """Jobs of which an attempt may have been lost with its host."""
        self.restarts = 0

    # --- services -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        embedded_redis.configure(self.home)
        self.launch("redis")
        prepare = [sys.executable, "manage.py", "prepare"]
        with (self.home / "prepare.log").open("ab") as log:
            subprocess.run(prepare, cwd=CHECKOUT, env=self.environ, stdout=log, stderr=log, check=True, timeout=60)
        self.revive()
        wait_until(self.answers, 60, f"/readyz says yes\n{self.told()}", every_s=0.1)
        self.token = self.token or self.sign_in("admin", self.password)
        wait_until(lambda: self.rows("SELECT 1 FROM jobs_host WHERE state = 'up'"), 30, "the host is up", every_s=0.1)
        self.restarts = 0

    def answers(self) -> bool:
        """Webs, database, Redis, scheduler and control worker are there."""
        return all(self.ready(name) for name in self.names if name in self.ports)

    def ready(self, web: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[web], timeout=20)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def launch(self, name: str) -> None:
        with (self.home / f"{name}.log").open("ab") as log:
            self.services[name] = subprocess.Popen(
                [*self.inside.get(name, ()), *self._argv(name)],
                cwd=CHECKOUT,
                env=self.environ | self.own.get(name, {}) | {"AUTOTRAINER_SERVICE": name},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _argv(self, name: str) -> list[str]:
        if name == "redis":
            return [embedded_redis.find_server(), str(self.home / "redis" / "redis.conf")]
        if name in self.ports:
            return supervisor.web_argv(dataclasses.replace(self.settings, port=self.ports[name]))
        hosts = {"control": HOST, SECOND: "second"}
        agent = SECOND_HOST if name == SECOND_AGENT else HOST
        real = supervisor.control_argv(hosts[name]) if name in hosts else supervisor.agent_argv(agent)
        quick = {"autotrainer_site": "tests.faults.quick_control", "gpuworker": "tests.faults.quick_host"}
        return [quick.get(word, word) for word in real]

    def dead(self) -> list[str]:
        return [name for name in self.names if name not in self.services or self.services[name].poll() is not None]

    def revive(self) -> list[str]:
        """Start again what has died, as a supervisor would."""
        gone = self.dead()
        for name in gone:
            self.launch(name)
        self.restarts += len(gone)
        return gone

    def kill(self, *names: str, number: int = signal.SIGKILL) -> None:
        """As one blow: all of them are signalled before anybody is waited for."""
        for name in names:
            self.services[name].send_signal(number)
        if number == signal.SIGKILL:
            for name in names:
                self.services[name].wait(10)

    def stop_service(self, name: str) -> None:
        """SIGTERM, as an upgrade does, until it has ended."""
        self.services[name].terminate()
        self.services[name].wait(20)

    def is_stopped(self, name: str) -> bool:
        return _stat(self.services[name].pid)[:1] == ["T"]

    def end_everything(self) -> None:
        for process in self.services.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
        for process in self.services.values():
            process.wait(10)
        self.client.close()

        def nothing_left() -> bool:
            left = list(self._processes())
            for pid in left:
                _kill(pid)
            return not left

        wait_until(nothing_left, 20, "every process of the stack has ended", every_s=0.1)
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    # --- failpoints -----------------------------------------------------------------------------------------------------

    def arm(self, *points: str) -> None:
        """`name:action[@n]` each; what was armed before is forgotten, and may fire again."""
        self.disarm()
        self._write_plan(points)

    def disarm(self) -> set[str]:
        """From now on nothing fires; what has, since it was armed."""
        self._write_plan(())
        found = {path.name.removesuffix(".fired") for path in (self.home / "failpoints").glob("*.fired")}
        for path in (self.home / "failpoints").glob("*"):
            path.unlink()
        return found

    def _write_plan(self, points: Sequence[str]) -> None:
        fresh = self.plan.with_suffix(".new")
        fresh.write_text("\n".join(points))
        fresh.replace(self.plan)

    def wake(self) -> None:
        """Whoever of ours stands still, goes on."""
        for pid in self._processes():
            if _stat(pid)[0] == "T":
                _kill(pid, signal.SIGCONT)

    def fired(self, name: str) -> bool:
        return (self.home / "failpoints" / f"{name}.fired").exists()

    # --- jobs -----------------------------------------------------------------------------------------------------------

    def witness(self, *codes: int, seconds: float = 0.2, gate: Path | None = None) -> str:
        words = [self.history, gate or "-", seconds, *(codes or (0,))]
        return f"exec {sys.executable} -I -S {WITNESS} {' '.join(map(str, words))}"

    def gate(self) -> Path:
        """A file that a witness waits for; `touch` opens it."""
        return self.gates / uuid.uuid4().hex

    def submit_surely(self, command: str, **fields: Any) -> int:
        """As a careful client does: the same key again until there is an answer. What is dead is started again meanwhile."""
        job = {"name": "witness", "command": command, "working_dir": str(self.work), "min_gpus": 1, "max_gpus": 1, **fields}
        number = int(self._surely("POST", "jobs/", job, key=uuid.uuid4().hex)["id"])
        self.accepted.append(number)
        return number

    def offer_again(self, attempt: Path) -> None:
        """As Celery does when a visibility timeout passes: the same message once more, however it has ended meanwhile."""
        record = json.loads((attempt / "spec.json").read_text())
        with Celery("repeating", set_as_current=False) as app:
            app.config_from_object(environment.celery_conf(self.settings, "test"))
            uid = record["body"]["job"]
            app.send_task(protocol.TRAIN_TASK, args=[uid, record["sealed"]], task_id=uid, queue=protocol.host_queue(HOST))

    def keep_an_eye_on(self, name: str, content: bytes | None) -> None:
        """A file of the working directory that must be the very same at every settlement; None: it must not be there."""
        path = self.work / name
        if content is not None and not path.exists():
            path.write_bytes(content)
        self._originals[name] = None if content is None else (path.stat().st_ino, content)

    def cancel_surely(self, job: int) -> None:
        self._surely("POST", f"jobs/{job}/cancel/", {})

    def _surely(self, method: str, path: str, body: Any = None, *, key: str = "") -> Any:
        webs = itertools.cycle([name for name in self.names if name in self.ports])

        def answer() -> Any:
            web = next(webs)
            try:
                return self._call(method, path, body, key=key, port=self.ports[web])
            except (OSError, http.client.HTTPException):
                if web in self.dead():
                    self.launch(web)
                    self.restarts += 1
                return None

        return wait_until(answer, SETTLE_S, f"{method} {path} is answered", every_s=0.1)

    def _call(self, method: str, path: str, body: Any, *, key: str, port: int) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        try:
            connection.request(method, f"/api/v1/{path}", json.dumps(body), headers | ({"Idempotency-Key": key} if key else {}))
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.status == 409:
            return {"conflict": True}  # over already
        if answer.status >= 300:
            raise Refused(f"{method} {path} answered {answer.status}: {data[:300]!r}")
        return json.loads(data)

    # --- looking --------------------------------------------------------------------------------------------------------

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        if self.settings.database_url:
            with psycopg.connect(self.settings.database_url) as postgres:
                found = postgres.execute(query).fetchall()  # type: ignore[arg-type] # our own words
            return [tuple(value.hex if isinstance(value, uuid.UUID) else value for value in row) for row in found]
        with closing(sqlite3.connect(self.home / "autotrainer.sqlite3", timeout=20)) as database:
            return database.execute(query).fetchall()

    def jobs(self) -> list[Job]:
        attempts: dict[int, list[Attempt]] = {}
        for job, *attempt in self.rows("SELECT job_id, number, outcome, exit_code FROM jobs_attempt ORDER BY number"):
            attempts.setdefault(job, []).append(Attempt(*attempt))
        found = self.rows("SELECT id, state, wait_code, max_retries FROM jobs_job")
        return [Job(*job, tuple(attempts.get(job[0], ()))) for job in found]

    def runs(self) -> list[Run]:
        return oracle.read_history(self.history)

    def began(self, job: int) -> bool:
        return any(run.job == job for run in self.runs())

    def unsettled(self) -> list[int]:
        return [job.id for job in self.jobs() if job.state not in oracle.TERMINAL and job.state != "held"]

    def leftovers(self) -> list[str]:
        """What must not be there any more when every job is over."""
        return [
            *(f"claim of {uuid!r} by {value!r}" for uuid, value in self._claims().items()),
            *(f"lock {path.name} is held" for path in self._locks() if _is_held(path)),
            *(f"process {pid}: {command_line(pid)!r}" for pid in self._left_running()),
            *(f"attempt {path.name} is not settled: {sorted(p.name for p in path.iterdir())}" for path in self.attempts() if _owes(path)),
            *(f"swapped file {path}" for path in self.work.rglob(".autotrainer-*")),
            *(f"{name} is not what it was" for name, was in self._originals.items() if self._now(name) != was),
        ]

    def _now(self, name: str) -> tuple[int, bytes] | None:
        path = self.work / name
        return (path.stat().st_ino, path.read_bytes()) if path.parent.exists() and path.exists() else None

    def _claims(self) -> dict[Any, Any]:
        found = self.asked(lambda client: client.hgetall(protocol.claims_key(HOST)))
        return {"Redis": "away"} if found is None else found

    def asked(self, call: Callable[[redis.Redis], Any]) -> Any:
        """Redis' answer; None while it is away."""
        try:
            return call(self.client)
        except (redis.ConnectionError, redis.TimeoutError):
            return None

    def _locks(self) -> list[Path]:
        return sorted((self.settings.host_home / "locks").glob("*.lock"))

    def attempts(self) -> list[Path]:
        folder = self.settings.host_home / "attempts"
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def offered(self) -> list[Path]:
        """Attempt directories with a spec; a refusal may have none."""
        return [path for path in self.attempts() if (path / "spec.json").exists()]

    def _left_running(self) -> Iterator[int]:
        """Trainings by their mark; shims: all but the one zygote, the youngest process that has the agent as its parent."""
        folder, home = f"AUTOTRAINER_SIM_DIR={self.home}/".encode(), f"AUTOTRAINER_HOME={self.home}".encode()
        agent = self.services["agent"].pid
        for pid, variables in environments():
            training = any(variable.startswith(folder) for variable in variables)
            shim = home in variables and b"gpuworker.shim" in command_line(pid) and _parent(pid) != agent
            if training or shim:
                yield pid

    def wrong_logs(self) -> list[str]:
        """Stored logs that are not, byte for byte, what their training wrote."""
        found = []
        for run in self.runs():
            name = f"job {run.job} attempt {run.attempt}"
            ended = run.stopped is not None and run.code != KILLED
            said = f"{name} begins\n" + (f"{name} ends with {run.code}\n" if ended else "")
            path = self.home / "logs" / str(run.job) / f"{run.attempt}.log"
            stored = path.read_text() if path.exists() else ""
            if stored != said:
                found.append(f"the log of {run} holds {stored!r}, and it wrote {said!r}")
        return found

    # --- the proof ------------------------------------------------------------------------------------------------------

    def settle(self, timeout_s: float = SETTLE_S) -> None:
        """Until every job is over and nothing is left, with everything that dies started again; then the oracle judges."""

        for what, look in (("every job is over", self.unsettled), ("nothing is left", self.leftovers), ("logs are true", self.wrong_logs)):
            self._until_none(look, timeout_s, what)
        wrong = oracle.judge(self.runs(), self.jobs(), accepted=self.accepted, shims_killed=self.shims_killed, hosts_lost=self.hosts_lost)
        assert not wrong, wrong

    def _until_none(self, look: Callable[[], Sequence[Any]], timeout_s: float, what: str) -> None:
        found: list[Any] = []

        def none() -> bool:
            self.revive()
            found[:] = look()
            return not found

        try:
            wait_until(none, timeout_s, what, every_s=0.05)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{found}") from None


def _is_held(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _owes(path: Path) -> bool:
    """Whether the control plane has not acknowledged all of an attempt directory yet."""
    there = {entry.name for entry in path.iterdir()}
    return "ack-refused" not in there and not {"ack-ended", "ack-log"} <= there


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _stat(pid: int) -> list[str]:
    """State, parent and so on; of a process that has ended, as if it had been a stranger's."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["X", "0"]


def _kill(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
