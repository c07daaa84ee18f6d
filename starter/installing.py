"""The Python environment that AutoTrainer runs in: made once, then left alone.

A stamp with the hash of the requirements lies in the environment. It is taken away before anything is changed and written
when all is done, so that an interrupted installation is simply gone through again by the next start.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
OUR_PACKAGES = ("autotrainer_site", "gpuworker", "jobs", "starter")
ISOLATED = ("-E", "-s")
"""Python options: the user's PYTHONPATH and ~/.local are for trainings and must not come before our own packages."""

PIP_WHEEL = "pip-26.3-py3-none-any.whl"
PIP_ADDRESS = f"https://files.pythonhosted.org/packages/py3/p/pip/{PIP_WHEEL}"
PIP_SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"


class InstallFailed(Exception):
    """What went wrong and its mend, for people."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A venv or conda environment. Only our own is made to hold exactly the locked packages; from others nothing is removed."""

    prefix: Path
    ours: bool

    @property
    def python(self) -> str:
        return str(self.prefix / "bin" / "python") if self.ours else sys.executable

    @property
    def usable(self) -> bool:
        return os.access(self.python, os.X_OK)

    def installed(self, lock: str) -> bool:
        """Whether exactly this lock has been installed here to the end."""
        try:
            return self.usable and self._stamp(lock).read_text() == self._stamp_text(lock)
        except OSError:
            return False

    def mark(self, lock: str) -> None:
        self._stamp(lock).write_text(self._stamp_text(lock))

    def unmark(self, lock: str) -> None:
        self._stamp(lock).unlink(missing_ok=True)

    def _stamp(self, lock: str) -> Path:
        return self.prefix / f"autotrainer-{lock}.stamp"

    def _stamp_text(self, lock: str) -> str:
        digest = hashlib.sha256((CHECKOUT / lock).read_bytes()).hexdigest()
        return digest if self.ours else f"{digest} {sys.version_info[0]}.{sys.version_info[1]}"


def find() -> Environment:
    """The active venv or conda environment where this Python belongs to it; else `.venv` in the checkout.

    conda's `base` is not taken: it is active by default on many machines and nobody chose it for AutoTrainer.
    """
    own = CHECKOUT / ".venv"
    prefix = os.path.realpath(sys.prefix)
    if prefix == os.path.realpath(own):
        return Environment(own, ours=True)
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if os.environ.get(name) and os.path.realpath(os.environ[name]) == prefix and not _conda_base(name):
            return Environment(Path(sys.prefix), ours=False)
    return Environment(own, ours=True)


def _conda_base(name: str) -> bool:
    return name == "CONDA_PREFIX" and os.environ.get("CONDA_DEFAULT_ENV") == "base"


RUN_LOCK, TEST_LOCK = "requirements.lock", "requirements-test.lock"


def ensure(*, tests: bool = False) -> Environment:
    """An environment with everything in it; quick and offline when it is there already. Raises InstallFailed."""
    environment = find()
    lock = TEST_LOCK if tests else RUN_LOCK
    if environment.installed(lock):
        _offer_client(environment)
        return environment
    folder = CHECKOUT if environment.ours else environment.prefix
    with _alone(folder):
        if not environment.installed(lock):  # another start may have done it while this one waited
            _install(environment, lock)
    _offer_client(environment)
    return environment


_CLIENT = """\
#!/bin/sh
# The command line client of the checkout named below; AutoTrainer.py writes this file.
exec {python} -P -E -s -S -c 'import sys; sys.path.insert(0, sys.argv.pop(1)); from jobs.cli.main import run; run()' {checkout} "$@"
"""
"""Without the environment's packages (-S), which it does not need and which take longer to find than it takes to run."""


def _offer_client(environment: Environment) -> None:
    """`autotrainer` in the environment. What pip has put there under that name stays: it does the same."""
    path = environment.prefix / "bin" / "autotrainer"
    text = _CLIENT.format(python=shlex.quote(environment.python), checkout=shlex.quote(str(CHECKOUT)))
    try:
        if path.exists() and (path.read_text() == text or _CLIENT.splitlines()[1] not in path.read_text()):
            return
        partial = path.with_name(f"autotrainer.{os.getpid()}")
        partial.write_text(text)
        partial.chmod(0o755)
        partial.replace(path)
    except (OSError, UnicodeDecodeError) as exc:
        say(f"(`autotrainer` could not be put into {path.parent}: {exc}. `python3 AutoTrainer.py` does the same.)")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One installer at a time: a lock on the folder itself, which leaves no file behind."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another AutoTrainer.py is installing here; waiting for it.")
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as exc:  # NFS locks no folders
            say(f"(This folder cannot be locked: {exc.strerror}. Do not start a second AutoTrainer.py now.)")
        yield
    finally:
        os.close(fd)


def _install(environment: Environment, lock: str) -> None:
    for name in (RUN_LOCK, TEST_LOCK):
        environment.unmark(name)
    if environment.ours and not environment.usable:
        _make_venv(environment)
    count = sum(line[:1].isalnum() for line in (CHECKOUT / lock).read_text().splitlines())
    where = ".venv" if environment.ours else str(environment.prefix)
    say(f"Installing {count} packages into {where}. This happens once and needs the network.")
    uv = _uv()
    if not (uv and _with_uv(uv, environment, lock)):
        _with_pip(environment, lock)
    subprocess.run([environment.python, *ISOLATED, "-m", "compileall", "-q", *OUR_PACKAGES], cwd=CHECKOUT, check=False)
    environment.mark(lock)
    if lock == TEST_LOCK:
        environment.mark(RUN_LOCK)  # it holds all of the other, in the same versions
    say("Installed.")


def _make_venv(environment: Environment) -> None:
    say(f"Making {environment.prefix} with Python {sys.version_info[0]}.{sys.version_info[1]}.")
    argv = [sys.executable, *ISOLATED, "-m", "venv", "--clear", "--without-pip", str(environment.prefix)]
    code, output = _run(argv)
    if code:
        raise InstallFailed(f"{environment.prefix} could not be made:\n{output}")


def _uv() -> str | None:
    homes = [os.path.expanduser("~/.local/bin"), os.path.expanduser("~/.cargo/bin")]
    return shutil.which("uv") or shutil.which("uv", path=os.pathsep.join(homes))


def _with_uv(uv: str, environment: Environment, lock: str) -> bool:
    """False where uv did not get it done: pip may know mirrors (pip.conf) that uv does not."""
    what = ["sync", lock] if environment.ours else ["install", "-r", lock]
    code, output = _run([uv, "pip", *what, "--require-hashes", "--compile-bytecode", "--python", environment.python])
    if code:
        say(f"uv could not install the packages, so pip is tried. uv said:\n{_indented(output)}")
    return code == 0


def _with_pip(environment: Environment, lock: str) -> None:
    options = ["--require-hashes", "--no-input", "--disable-pip-version-check", "--no-warn-script-location", "--progress-bar", "off"]
    code, output = _run([*_pip(environment), "install", *options, "-r", lock], counting=True)
    if code:
        raise InstallFailed(
            f"{_indented(output)}\nThe packages could not be installed (pip ended with {code}). Mend what it names above "
            "(most often the network or a proxy) and start again: it goes on where it stopped."
        )


def _pip(environment: Environment) -> list[str]:
    """How to run pip for the environment. A venv of ours has none of its own: making one costs seconds, or needs Debian's python3-venv."""
    if not environment.ours and importlib.util.find_spec("pip"):
        return [sys.executable, *ISOLATED, "-m", "pip"]
    wheel = _local_pip_wheel()
    if wheel is None and importlib.util.find_spec("pip"):
        return [sys.executable, *ISOLATED, "-m", "pip", "--python", environment.python]
    return [environment.python, *ISOLATED, f"{wheel or _fetched_pip_wheel(environment)}/pip"]


def _local_pip_wheel() -> Path | None:
    """The wheel that came with this Python: ensurepip's, or the folder where a distribution keeps such wheels."""
    ensurepip = importlib.util.find_spec("ensurepip")
    folders = [Path(ensurepip.origin).parent / "_bundled"] if ensurepip and ensurepip.origin else []
    if packaged := sysconfig.get_config_var("WHEEL_PKG_DIR"):
        folders.append(Path(packaged))
    folders.append(Path("/usr/share/python-wheels"))
    return next((wheel for folder in folders for wheel in sorted(folder.glob("pip-*.whl"), reverse=True)), None)


def _fetched_pip_wheel(environment: Environment) -> Path:
    import urllib.request  # 15 ms that no other start needs

    say("This Python has no pip; fetching it.")
    try:
        with urllib.request.urlopen(PIP_ADDRESS, timeout=60) as answer:
            data = answer.read()
    except OSError as exc:
        raise InstallFailed(
            f"pip could not be fetched ({exc}). Install it (Debian: apt install python3-pip), or uv, and start again."
        ) from exc
    if hashlib.sha256(data).hexdigest() != PIP_SHA256:
        raise InstallFailed(f"{PIP_ADDRESS} did not answer with the expected file. Install pip or uv and start again.")
    path = environment.prefix / PIP_WHEEL
    path.write_bytes(data)
    return path


def _run(argv: Sequence[str], *, counting: bool = False) -> tuple[int, str]:
    """Exit status and the end of the output; on a terminal it shows how many packages pip has collected."""
    kept: deque[str] = deque(maxlen=25)
    shown = counting and sys.stdout.isatty()
    collected = 0
    process = subprocess.Popen(
        argv, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    with process:
        for line in process.stdout or ():
            kept.append(line)
            if shown and line.startswith("Collecting "):
                collected += 1
                print(f"\r  {collected} collected: {line.split()[1][:50]:50}", end="", flush=True)
    if shown:
        print("\r" + " " * 75, end="\r", flush=True)
    return process.returncode, "".join(kept)


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines()).rstrip("\n")


def say(text: str) -> None:
    print(text, flush=True)
