"""The product as a user starts it: `manage.py up` with a home and ports of its own and simulated devices; ended by pid."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from tests.waiting import wait_until

CHECKOUT = Path(__file__).resolve().parent.parent.parent
TERMINAL = ("completed", "failed", "cancelled")
_NOT_INHERITED = re.compile(r"AUTOTRAINER_|DATABASE_URL|EMAIL_URL|DJANGO_|CELERY_|FLOWER_|PYTEST|PYTHONWARNINGS")


class Refused(Exception):
    """An answer of the API that is not what the caller needs."""


class Product:
    """One installation below `root`: `home` is its state, `work` a working directory for jobs."""

    def __init__(self, root: Path, *, devices: str = "sim:2x24GiB", environ: Mapping[str, str] | None = None) -> None:
        self.home, self.work, self.output = root / "home", root / "work", root / "output.txt"
        self.home.mkdir(mode=0o700)
        self.work.mkdir()
        self.port, self.token = free_port(), ""
        self.environ = {name: value for name, value in os.environ.items() if not _NOT_INHERITED.match(name)} | {
            "AUTOTRAINER_HOME": str(self.home),
            "AUTOTRAINER_PORT": str(self.port),
            "AUTOTRAINER_URL": f"http://localhost:{self.port}",
            "AUTOTRAINER_FLOWER_PORT": "0",
            "AUTOTRAINER_DEVICES": devices,
            "AUTOTRAINER_HEARTBEAT_S": "1",
            **(environ or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.end_everything()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end_everything()

    # --- starting and stopping ---

    def start(self) -> None:
        """Start on the same home and ports as before; returns when /readyz says yes."""
        self.spawn()
        self.wait_until_ready()

    def spawn(self) -> None:
        """Start it and wait for nothing."""
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "up"],
                cwd=CHECKOUT,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        wait_until(self._ready, 60, f"/readyz of the product says yes\n{self.told()}", every_s=0.1)
        if not self.token:
            self.token = self.sign_in("admin", self.password)

    def stop(self, limit_s: float = 20) -> None:
        """SIGTERM, as Ctrl-C and service managers do; trainings go on."""
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the product still runs {limit_s:g} s after SIGTERM\n{self.told()}") from None

    def kill_all_but_trainings(self) -> None:
        """SIGKILL to every process of ours but the shims; the trainings do not carry the home."""

        def killed() -> bool:
            ours = [pid for pid in self._of_this_home() if b"gpuworker.shim" not in command_line(pid)]
            for pid in ours:
                kill(pid)
            return not ours

        wait_until(killed, 20, "all services are dead")
        assert self.process is not None
        self.process.wait(5)

    def end_everything(self) -> None:
        """Whatever still runs on this home, trainings too. Only processes that carry this home's mark are touched."""

        def nothing_left() -> bool:
            left = list(self._processes())
            for pid in left:
                kill(pid)
            return not left

        if self.process is not None:
            if self.process.poll() is None:
                self.process.terminate()
                try:
                    self.process.wait(15)
                except subprocess.TimeoutExpired:
                    self.process.kill()
            wait_until(nothing_left, 20, "every process of the product has ended", every_s=0.1)
            self.process.wait(5)

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"`manage.py up` ended with {self.process.returncode}\n{self.told()}"
        try:
            return self.request("GET", "/readyz")[0] == 200
        except OSError:
            return False

    # --- looking at it ---

    @property
    def password(self) -> str:
        return (self.home / "admin_password").read_text().strip()

    def told(self, size: int = 4000) -> str:
        """The end of what it printed and of its services' logs, for a person who reads a failure."""
        logs = [self.output, *(path for path in sorted(self.home.rglob("*.log")) if not self._of_a_job(path))]
        return "\n".join(f"--- {path.name} ---\n{path.read_bytes()[-size:].decode(errors='replace')}" for path in logs if path.exists())

    def _of_a_job(self, path: Path) -> bool:
        return "attempts" in path.parts or path.name.removesuffix(".log").isdigit()

    def _processes(self) -> Iterator[int]:
        home = f"AUTOTRAINER_HOME={self.home}".encode()
        sim_dir = f"AUTOTRAINER_SIM_DIR={self.home}/".encode()
        for pid, variables in environments():
            if home in variables or any(v.startswith(sim_dir) for v in variables):
                yield pid

    def _of_this_home(self) -> Iterator[int]:
        home = f"AUTOTRAINER_HOME={self.home}".encode()
        return (pid for pid, variables in environments() if home in variables)

    def pids(self, service: str) -> list[int]:
        """Processes of one of our services: web, control, agent, redis."""
        mark, home = f"AUTOTRAINER_SERVICE={service}".encode(), f"AUTOTRAINER_HOME={self.home}".encode()
        return [pid for pid, variables in environments() if mark in variables and home in variables]

    def agent_pid(self) -> int:
        """The host agent itself: not its shims and zygote, which carry the same environment."""
        (pid,) = [pid for pid in self.pids("agent") if b"gpuworker.shim" not in command_line(pid) and b"gpuworker" in command_line(pid)]
        return pid

    def trainings(self, job_id: int) -> list[int]:
        """Processes of a job's command."""
        mark, sim_dir = f"AUTOTRAINER_JOB_ID={job_id}".encode(), f"AUTOTRAINER_SIM_DIR={self.home}/".encode()
        return [pid for pid, variables in environments() if mark in variables and any(v.startswith(sim_dir) for v in variables)]

    # --- its API ---

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Status and body of an answer; `path` is below /api/v1/ unless it begins with a slash."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {"Content-Type": "application/json", "Accept": "*/*"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            whole = path if path.startswith("/") else f"/api/v1/{path}"
            connection.request(method, whole, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """The parsed answer of a call that must succeed."""
        status, data = self.request(method, path, body)
        if status >= 300:
            raise Refused(f"{method} {path} answered {status}: {data[:500].decode(errors='replace')}")
        return json.loads(data) if data else None

    def sign_in(self, username: str, password: str) -> str:
        return str(self.api("POST", "auth/login/", {"username": username, "password": password})["token"])

    def sign_in_link(self) -> str:
        """A link that works once, from `manage.py signin`."""
        done = subprocess.run(
            [sys.executable, "manage.py", "signin"], cwd=CHECKOUT, env=self.environ, capture_output=True, text=True, timeout=30, check=True
        )
        return re.findall(r"http://\S+/signin/\S+", done.stdout)[0]

    def submit(self, command: str, **fields: Any) -> dict[str, Any]:
        job = {"name": "walk", "command": command, "working_dir": str(self.work), "min_gpus": 1, "max_gpus": 1, **fields}
        answer: dict[str, Any] = self.api("POST", "jobs/", job)
        return answer

    def job(self, job_id: int) -> dict[str, Any]:
        answer: dict[str, Any] = self.api("GET", f"jobs/{job_id}/")
        return answer

    def wait(self, job_id: int, *states: str, timeout_s: float = 30) -> dict[str, Any]:
        """The job once it is in one of these states (any terminal one where none is named)."""
        wanted, last = states or TERMINAL, dict[str, Any]()

        def reached() -> bool:
            last.update(self.job(job_id))
            assert last["state"] in wanted or last["state"] not in TERMINAL, f"job {job_id} is {last['state']}, not {wanted}: {last}"
            return last["state"] in wanted

        try:
            wait_until(reached, timeout_s, f"job {job_id} is {' or '.join(wanted)}", every_s=0.1)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\nthe job: {last}") from None
        return last

    def log(self, job_id: int, attempt: int | None = None) -> bytes:
        which = "" if attempt is None else f"?attempt={attempt}"
        status, data = self.request("GET", f"jobs/{job_id}/log/{which}")
        if status != 200:
            raise Refused(f"the log of job {job_id} answered {status}: {data[:300]!r}")
        return data

    def events(self, job_id: int) -> list[dict[str, Any]]:
        return list(self.api("GET", f"jobs/{job_id}/events/?limit=200")["results"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environments() -> Iterator[tuple[int, set[bytes]]]:
    """The pid and environment of each process that we may look at."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                yield int(entry.name), set((entry / "environ").read_bytes().split(b"\0"))
            except OSError:
                continue  # it has ended, or is not ours


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return b""


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
