"""`manage.py doctor`, and the other short commands, as a person types them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from gpuworker import groups
from tests.conftest import missing
from tests.e2e.product import CHECKOUT, free_port

NO_MAIL = "Mail: none is set up (EMAIL_URL or AUTOTRAINER_EMINDER_URL)"


def manage(home: Path, *words: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AUTOTRAINER_")}
    ours = {"AUTOTRAINER_HOME": str(home), "AUTOTRAINER_PORT": str(free_port()), "AUTOTRAINER_FLOWER_PORT": "0"}
    argv = [sys.executable, "manage.py", *words]
    return subprocess.run(
        argv, cwd=CHECKOUT, env={**kept, **ours, **(environ or {})}, capture_output=True, text=True, timeout=60, check=False
    )


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, list[tuple[str, str]]]:
    """Subject -> (level, text) of each line."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in done.stdout.splitlines()[:-1]:
        level, subject, text = line.split(None, 2)
        found.setdefault(subject, []).append((level, text))
    return found


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_doctor_finds_nothing_wrong_before_the_first_start(home: Path) -> None:
    done = manage(home, "doctor", environ={"AUTOTRAINER_DEVICES": "sim:2x24GiB"})
    assert done.returncode == 0, done.stdout + done.stderr
    found = findings(done)
    subjects = ["Python", "Shell", "Permissions", "Disk", "Database", "Redis", "Devices", "Ending", "Swaps", "Ports", "Time", "Mail"]
    assert list(found) == subjects
    assert found["Devices"][0][1].startswith("2 (simulated)")
    way = "(cgroup)" if groups.parent_for() else "(subreaper)"
    assert way in found["Ending"][0][1]
    assert done.stdout.endswith("Nothing is wrong.\n")


def test_doctor_names_each_thing_that_is_wrong_with_its_mend(home: Path) -> None:
    assert manage(home, "prepare").returncode == 0
    (home / "admin_password").chmod(0o644)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = manage(home, "doctor", environ={"AUTOTRAINER_PORT": port, "AUTOTRAINER_REDIS_URL": "redis://127.0.0.1:9"})
    found = findings(done)
    assert done.returncode == 1
    assert found["Permissions"] == [("wrong", f"other users may read secrets of ours: chmod 600 {home / 'admin_password'}")]
    assert "AUTOTRAINER_PORT" in found["Ports"][0][1]
    assert "AUTOTRAINER_REDIS_URL" in found["Redis"][0][1]
    assert found["Database"][0][0] == "ok"
    assert done.stdout.endswith("3 things are wrong.\n")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str, str], Path]]:
    """Mounts a file system of our own."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(kind: str, options: str) -> Path:
        argv = ["mount", "-t", kind, "-o", options, "none", str(folder)]
        if os.getuid() or subprocess.run(argv, capture_output=True, check=False).returncode:
            missing("permission to mount a small disk")
        return folder

    yield mount
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def test_doctor_says_when_the_disk_is_low(small_disk: Callable[[str, str], Path]) -> None:
    folder = small_disk("tmpfs", "size=20m")
    (folder / "ballast").write_bytes(b"x" * (19 * 2**20))
    found = findings(manage(folder / "home", "doctor"))["Disk"]
    assert [level for level, _ in found] == ["wrong"]
    assert "nothing new starts on this host" in found[0][1]


def test_doctor_says_when_files_can_have_no_holes(small_disk: Callable[[str, str], Path]) -> None:
    folder = small_disk("ramfs", "mode=700")
    (known, holes) = findings(manage(folder / "home", "doctor"))["Disk"]
    assert known == ("note", f"the file system of {folder / 'home'} does not tell how much is free")
    assert holes[0] == "note"
    assert "cannot have holes: of a log longer than 5 GiB (AUTOTRAINER_LOG_LIMIT) only the beginning" in holes[1]


def test_doctor_says_that_nvml_is_missing_where_it_is_asked_for(home: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has an NVIDIA driver")
    done = manage(home, "doctor", environ={"AUTOTRAINER_DEVICES": "nvml"})
    level, text = findings(done)["Devices"][0]
    assert (done.returncode, level) == (1, "wrong")
    assert "AUTOTRAINER_DEVICES=none" in text


@pytest.mark.parametrize("word", ["doctor", "status", "check", "signin"])
def test_any_command_refuses_a_bad_setting_in_one_sentence(home: Path, word: str) -> None:
    done = manage(home, word, environ={"AUTOTRAINER_HEARTBEAT_S": "soon"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "AUTOTRAINER_HEARTBEAT_S: 'soon' is not a number of seconds.\n"


@pytest.mark.parametrize("app", ["autotrainer_site", "gpuworker"])
def test_celery_refuses_a_bad_setting_in_one_sentence(home: Path, app: str) -> None:
    environ = {"PATH": os.environ["PATH"], "AUTOTRAINER_HOME": str(home), "AUTOTRAINER_PORT": "http"}
    argv = [sys.executable, "-m", "celery", "-A", app, "report"]
    done = subprocess.run(argv, cwd=CHECKOUT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "AUTOTRAINER_PORT: 'http' is not a port" in done.stderr
    assert "Traceback" not in done.stderr


def test_status_says_that_nothing_runs(home: Path) -> None:
    assert manage(home, "prepare").returncode == 0
    done = manage(home, "status")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [f"AutoTrainer on {home}: not running", "", "Jobs: none yet", NO_MAIL]


def test_join_prints_exactly_the_three_settings_that_another_machine_needs(home: Path) -> None:
    assert manage(home, "prepare").returncode == 0
    url = "redis://:secret@192.0.2.7:6379"
    done = manage(home, "join", "gpu-b", environ={"AUTOTRAINER_REDIS_URL": url})
    lines = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert list(lines) == ["AUTOTRAINER_REDIS_URL", "AUTOTRAINER_HOST", "AUTOTRAINER_HOST_KEY"]
    assert (lines["AUTOTRAINER_REDIS_URL"], lines["AUTOTRAINER_HOST"]) == (url, "gpu-b")
    assert len(bytes.fromhex(lines["AUTOTRAINER_HOST_KEY"])) == 32
    again = manage(home, "join", "gpu-b", environ={"AUTOTRAINER_REDIS_URL": url})
    assert again.stdout == done.stdout
    assert done.stderr == ""


def test_join_refuses_the_embedded_redis_and_says_what_to_do(home: Path) -> None:
    assert manage(home, "prepare").returncode == 0
    done = manage(home, "join", "gpu-b")
    assert (done.returncode, done.stdout) == (1, "")
    assert "AUTOTRAINER_REDIS_URL=redis://" in done.stderr


def test_join_refuses_a_name_that_cannot_be_one(home: Path) -> None:
    done = manage(home, "join", "gpu b", environ={"AUTOTRAINER_REDIS_URL": "redis://:x@192.0.2.7:6379"})
    assert done.returncode == 1
    assert "is not a host name" in done.stderr


def test_signin_prints_a_new_link_each_time(home: Path) -> None:
    assert manage(home, "prepare").returncode == 0
    first, second = manage(home, "signin"), manage(home, "signin", "admin")
    assert first.returncode == second.returncode == 0
    assert first.stdout.startswith("http://localhost:")
    assert first.stdout != second.stdout
    assert "There is no active user 'nobody'." in manage(home, "signin", "nobody").stderr


def test_probe_tells_the_devices_as_json(home: Path) -> None:
    environ = {**os.environ, "AUTOTRAINER_HOME": str(home), "AUTOTRAINER_DEVICES": "sim:3x8GiB"}
    answer = subprocess.check_output([sys.executable, "-m", "gpuworker.probe"], cwd=CHECKOUT, env=environ)
    assert [device["memory_total_mib"] for device in json.loads(answer)["devices"]] == [8192] * 3
