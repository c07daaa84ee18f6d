"""`python3 AutoTrainer.py` as a person types it, in a copy of the checkout whose lock names one tiny package."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.waiting import wait_until

CHECKOUT = Path(__file__).resolve().parent.parent.parent
FAKE_MANAGE = "import json, os, sys\nprint(json.dumps({'argv': sys.argv, 'python': sys.executable, 'environ': dict(os.environ)}))\n"


class Copy:
    """A checkout with the launcher's files, a `manage.py` that says how it was called, and a lock with one local wheel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("starter", "gpuworker"):
            shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("jobs", "autotrainer_site"):
            (folder / name).mkdir()
        shutil.copy(CHECKOUT / "AutoTrainer.py", folder)
        (folder / "manage.py").write_text(FAKE_MANAGE)
        self.lock("1.0")

    def lock(self, version: str) -> None:
        wheel = make_wheel(self.folder, version)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        (self.folder / "requirements.lock").write_text(f"tinything @ {wheel.as_uri()} --hash=sha256:{digest}\n")

    @property
    def venv(self) -> Path:
        return self.folder / ".venv"

    def start(self, *words: str, python: str | None = None, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        argv = [python or base_python(), str(self.folder / "AutoTrainer.py"), *words]
        return subprocess.run(argv, env=clean_environ(environ), capture_output=True, text=True, timeout=100, check=False)

    def installed_version(self) -> str:
        code = "from importlib.metadata import version; print(version('tinything'))"
        return subprocess.check_output([self.venv / "bin/python", "-c", code], text=True).strip()


def base_python() -> str:
    """A Python outside any venv, as a newcomer's is."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def clean_environ(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AUTOTRAINER_", "VIRTUAL_ENV", "CONDA_", "PYTHON", "UV_", "PIP_"))}
    return {**kept, "PATH": "/usr/bin:/bin", **(extra or {})}


def make_wheel(folder: Path, version: str) -> Path:
    """The smallest wheel that pip takes."""
    info = f"tinything-{version}.dist-info"
    files = {
        "tinything.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tinything\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{name},sha256={_digest(text)},{len(text)}" for name, text in files.items()] + [f"{info}/RECORD,,"]
    path = folder / f"tinything-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in {**files, f"{info}/RECORD": "\n".join(record) + "\n"}.items():
            wheel.writestr(name, text)
    return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "checkout")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    made = Copy(tmp_path_factory.mktemp("installed") / "checkout")
    first = made.start()
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Installing 1 package" in first.stdout
    return made


def said(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    """What the fake manage.py was told."""
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_script_is_readable_for_old_pythons() -> None:
    source = (CHECKOUT / "AutoTrainer.py").read_text(encoding="ascii")
    ast.parse(source, feature_version=(3, 4))
    assert 'f"' not in source


def test_script_says_which_python_it_needs_when_this_one_is_old() -> None:
    code = "import runpy, sys; sys.version_info = (3, 8, 1, 'final', 0); runpy.run_path('AutoTrainer.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "AutoTrainer needs Python 3.11 or newer, this is 3.8.\n")


@pytest.mark.parametrize("words", [["tset"], ["--exit"], ["--dmeo"], ["host", "gpu-b"]])
def test_script_refuses_what_it_does_not_know_before_it_installs_anything(copy: Copy, words: Sequence[str]) -> None:
    done = copy.start(*words)
    assert done.returncode == 2
    assert "AutoTrainer.py" in done.stderr
    assert not copy.venv.exists()


def test_host_names_each_setting_that_is_missing(copy: Copy) -> None:
    done = copy.start("host", environ={"AUTOTRAINER_HOST": "gpu-b"})
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["AUTOTRAINER_REDIS_URL", "AUTOTRAINER_HOST_KEY"]
    assert "manage.py join" in done.stderr


def test_first_start_makes_the_environment_and_becomes_manage_up(installed: Copy) -> None:
    assert installed.installed_version() == "1.0"
    told = said(installed.start("--demo", "--exit"))
    assert told["argv"] == [str(installed.folder / "manage.py"), "up", "--demo", "--exit"]
    assert told["python"] == str(installed.venv / "bin/python")


def test_later_start_installs_nothing_and_leaves_the_users_environment_alone(installed: Copy) -> None:
    began = time.monotonic()
    done = installed.start(environ={"HTTPS_PROXY": "http://127.0.0.1:9", "PYTHONPATH": "/nowhere"})
    took_s = time.monotonic() - began
    environ = said(done)["environ"]
    assert isinstance(environ, dict)
    assert len(done.stdout.splitlines()) == 1  # what the fake manage.py says
    assert environ["PATH"] == "/usr/bin:/bin"
    assert environ["PYTHONPATH"] == "/nowhere"
    assert took_s < 2


def test_start_leaves_the_command_line_client_in_the_environment(installed: Copy, tmp_path: Path) -> None:
    shutil.copytree(CHECKOUT / "jobs" / "cli", installed.folder / "jobs" / "cli", dirs_exist_ok=True)
    program = installed.venv / "bin" / "autotrainer"
    (tmp_path / "argparse.py").write_text("raise SystemExit('the folder that somebody is in is no place to import from')")
    done = subprocess.run([program, "submit", "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: autotrainer submit")


def test_command_of_that_name_which_pip_has_installed_stays(installed: Copy) -> None:
    path = installed.venv / "bin" / "autotrainer"
    ours = path.read_text()
    program(path, "#!/bin/sh\necho theirs\n")
    said(installed.start())
    assert "theirs" in path.read_text()
    path.write_text(ours.replace("-P", "-P -v"))
    said(installed.start())
    assert path.read_text() == ours


def test_changed_lock_is_installed_by_the_next_start(copy: Copy) -> None:
    said(copy.start())
    copy.lock("2.0")
    said(copy.start())
    assert copy.installed_version() == "2.0"


def test_pip_is_tried_when_uv_fails(copy: Copy, tmp_path: Path) -> None:
    program(tmp_path / "bin/uv", "#!/bin/sh\necho no such index >&2\nexit 2\n")
    done = copy.start(environ={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"})
    said(done)
    assert "no such index" in done.stdout
    assert copy.installed_version() == "1.0"


def test_pip_of_the_system_is_used_when_python_came_without_wheels(copy: Copy) -> None:
    code = "from starter import installing; installing._local_pip_wheel = lambda: None; installing.ensure()"
    done = subprocess.run(
        [base_python(), "-c", code], cwd=copy.folder, env=clean_environ(), capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert copy.installed_version() == "1.0"


def test_next_start_repairs_an_installation_that_was_killed(copy: Copy, tmp_path: Path) -> None:
    started = tmp_path / "started"
    program(tmp_path / "bin/uv", f"#!/bin/sh\ntouch {started}\nexec sleep 60\n")
    argv = [base_python(), str(copy.folder / "AutoTrainer.py")]
    first = subprocess.Popen(
        argv, env=clean_environ({"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}), stdout=subprocess.DEVNULL, process_group=0
    )
    wait_until(started.exists, 20, "the installer runs")
    os.killpg(first.pid, 9)
    first.wait()
    said(copy.start())
    assert copy.installed_version() == "1.0"


def test_two_first_starts_at_once_install_one_after_the_other(copy: Copy) -> None:
    argv = [base_python(), str(copy.folder / "AutoTrainer.py")]
    both = [subprocess.Popen(argv, env=clean_environ(), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    texts = [process.communicate(timeout=100)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("Installing" in text for text in texts) == 1
    assert sum("waiting for it" in text for text in texts) == 1


def test_package_that_cannot_be_had_is_told_with_the_mend(copy: Copy) -> None:
    for wheel in copy.folder.glob("*.whl"):
        wheel.unlink()
    done = copy.start()
    assert done.returncode == 1
    assert "tinything" in done.stderr
    assert "start again" in done.stderr


def test_active_environment_is_used_and_nothing_is_removed_from_it(copy: Copy, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    subprocess.run([base_python(), "-m", "venv", str(theirs)], check=True, timeout=100)
    own = next((theirs / "lib").glob("python3*")) / "site-packages" / "precious.py"
    own.write_text("")
    done = copy.start(python=str(theirs / "bin/python"), environ={"VIRTUAL_ENV": str(theirs)})
    assert said(done)["python"] == str(theirs / "bin/python")
    assert own.exists()
    assert (own.parent / "tinything.py").exists()
    assert not copy.venv.exists()


def test_base_environment_of_conda_is_left_alone(copy: Copy, tmp_path: Path) -> None:
    prefix = os.path.realpath(sys.base_prefix)
    done = copy.start(environ={"CONDA_PREFIX": prefix, "CONDA_DEFAULT_ENV": "base"})
    assert said(done)["python"] == str(copy.venv / "bin/python")
