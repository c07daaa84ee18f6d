"""Launching: the attempt directory is made, what the shim needs is in it, the zygote forks the shim.

`mkdir` of the directory is the start token: whoever asks a second time gets Duplicate and nothing happens. The spec is on
the disk before anything runs: the shim waits for it together with its own started.json, which saves the launch a wait.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuworker import contacts, failpoints, ownmail, protocol, settings
from gpuworker.attempts import AttemptDir, AttemptState, TakenDevice, attempts_folder, make_private, valid_key
from gpuworker.hotswap import ways
from gpuworker.hotswap.orders import ContentMissing, HotSwap
from gpuworker.protocol import Spec
from gpuworker.shim import locks, processes, records
from gpuworker.shim.ending import STUCK_AFTER_S

log = logging.getLogger(__name__)

ZYGOTE_ANSWER_S = 15.0
ZYGOTE_EXIT_S = 3.0
_SETTLED = (AttemptState.DONE, AttemptState.REFUSED)
ROOM_FOR = ("exit.json", "cut.json")
"""Records of the shim that a full disk must not keep from being written."""
PRODUCT_BIN = settings.CHECKOUT / ".venv" / "bin"


@dataclass(frozen=True, slots=True)
class Launched:
    """The shim has the attempt; it can be reached through `attempt.connect()`."""

    attempt: AttemptDir
    pid: int


@dataclass(frozen=True, slots=True)
class Duplicate:
    """This very dispatch was launched before, whatever has become of it."""

    attempt: AttemptDir


@dataclass(frozen=True, slots=True)
class LaunchRefused:
    """Nothing was started from this dispatch and nothing will be."""

    code: str
    message: str


LaunchedOrRefused = Launched | Duplicate | LaunchRefused


class ZygoteFailed(Exception):
    """No shim was forked, or it died before it could be seen; says why."""


class Launcher:
    """Starts attempts on this host. Thread-safe; a zygote that has died is started again by the next launch."""

    def __init__(
        self,
        config: settings.Settings,
        *,
        lock_folder: Path,
        sim_dir: Path | None = None,
        hotswap: HotSwap | None = None,
        group_parent: str = "",
        stuck_after_s: float = STUCK_AFTER_S,
    ) -> None:
        """`sim_dir`: where trainings on simulated devices tell their load; None on real ones.

        `group_parent`: the folder for the attempts' control groups; empty where none can be made.
        """
        self._settings = config
        self._hotswap = hotswap or HotSwap(config, None, lock_folder=lock_folder, way=ways.Way(ways.JOURNAL))
        self.group_parent, self._stuck_after_s = group_parent, stuck_after_s
        self._lock_folder = lock_folder
        self._sim_dir = sim_dir
        self._mutex = threading.Lock()
        self._zygote = Zygote(config.home, config.host_home)

    def start(self) -> None:
        """Warm up, so that the first launch need not. Raises OSError where the home cannot be written."""
        make_private(attempts_folder(self._settings))
        self._zygote.start()

    def close(self) -> None:
        """Let the zygote go. Shims and trainings stay."""
        self._zygote.close()

    def launch(self, spec: Spec, taken: Sequence[TakenDevice], *, sealed: str = "") -> LaunchedOrRefused:
        key = protocol.attempt_key(spec.job, spec.attempt, spec.fence)
        if not valid_key(key):
            return LaunchRefused("bad_spec", f"{key!r} cannot name an attempt.")
        attempt = AttemptDir(attempts_folder(self._settings) / key)
        try:
            contents = self._hotswap.fetch(spec)
        except ContentMissing as exc:
            return LaunchRefused("content_missing", str(exc))
        try:
            with self._mutex:  # Else two dispatches of one job could each miss the other's directory.
                refusal = self._take_token(attempt)
        except OSError as exc:
            return LaunchRefused("host_storage", f"The attempt directory could not be made: {exc}.")
        return refusal or self._launch(attempt, spec, taken, sealed, contents)

    def _take_token(self, attempt: AttemptDir) -> Duplicate | LaunchRefused | None:
        if attempt.path.is_dir():
            return Duplicate(attempt)
        other = self._living_other(attempt)
        if other is not None:
            return LaunchRefused("job_still_here", f"Attempt {other.attempt} of this job has not ended on this host yet.")
        make_private(attempt.path.parent)
        try:
            attempt.path.mkdir(mode=0o700)
        except FileExistsError:
            return Duplicate(attempt)
        failpoints.hit("agent.directory_made")
        return None

    def _living_other(self, attempt: AttemptDir) -> AttemptDir | None:
        folder = attempt.path.parent
        names = os.listdir(folder) if folder.is_dir() else []
        others = (AttemptDir(folder / name) for name in names if name.startswith(f"{attempt.job}.") and name != attempt.key)
        return next((other for other in others if _may_live(other)), None)

    def _launch(
        self, attempt: AttemptDir, spec: Spec, taken: Sequence[TakenDevice], sealed: str, contents: Mapping[str, bytes]
    ) -> LaunchedOrRefused:
        listed = [[device.uuid, device.index, device.mask] for device in taken]
        try:
            attempt.write("spec.json", {"sealed": sealed, "body": spec.body(), "taken": listed}, durable=False)
            failpoints.hit("agent.spec_written")
            self._hotswap.lay_out(attempt, spec, contents)
            attempt.write("launch.json", self._order(attempt.key, spec, taken), durable=False)
            failpoints.hit("agent.order_written")
            for name in ROOM_FOR:
                records.keep_room(attempt.path, name)
        except OSError as exc:
            shutil.rmtree(attempt.path, ignore_errors=True)
            return LaunchRefused("host_storage", f"The attempt directory could not be written: {exc}.")
        try:
            pid = self._zygote.fork_shim(attempt.path)
        except ZygoteFailed as exc:
            return self._without_answer(attempt, str(exc))
        log.info("launched", extra={"action": "launch", "job_id": spec.number, "attempt": spec.attempt})
        return Launched(attempt, pid)

    def _without_answer(self, attempt: AttemptDir, why: str) -> LaunchedOrRefused:
        message = f"The host could not start a shim: {why}."
        log.error("%s", message, extra={"action": "launch", "attempt_key": attempt.key})
        if attempt.refuse("shim_failed", message):
            return LaunchRefused("shim_failed", message)
        shim = attempt.record("shim.json") or {}
        return Launched(attempt, shim.get("pid", 0))

    def _order(self, key: str, spec: Spec, taken: Sequence[TakenDevice]) -> dict[str, Any]:
        """launch.json: all that the shim knows of its attempt."""
        uuids = sorted(device.uuid for device in taken)
        return {
            "command": spec.command,
            "shell": self._settings.shell,
            "working_dir": spec.working_dir,
            "environment": spec.environment,
            "env": compose_env(spec, taken, config=self._settings, sim_dir=self._sim_dir, inherited=os.environ)
            | self._hotswap.variables(spec),
            "locks": [locks.lock_path(self._lock_folder, uuid) for uuid in uuids],
            "shared": spec.shared,
            "time_limit_s": spec.time_limit_s,
            "kill_grace_s": spec.kill_grace_s,
            "log_limit_bytes": spec.log_limit_bytes,
            "mark": key,
            "cgroup": self.group_parent,
            "stuck_after_s": self._stuck_after_s,
            "contact": contacts.order(spec, self._settings),
            **self._hotswap.order(spec),
        }


def _may_live(other: AttemptDir) -> bool:
    return other.state() not in _SETTLED and other.record("ended.json") is None


# --- the command's environment ------------------------------------------------------------------------------------------


def compose_env(
    spec: Spec, taken: Sequence[TakenDevice], *, config: settings.Settings, sim_dir: Path | None, inherited: Mapping[str, str]
) -> dict[str, str]:
    """The agent's environment without what is ours, below the job's own, below what every command is promised."""
    env = settings.without_ours(inherited)
    _forget_product(env)
    env |= {name: value for name, value in spec.env.items() if name != "AUTOTRAINER_SERVICE"}  # It would look like our orphan.
    _enter_environment(env, spec.environment)
    env["PATH"] = _with_product_last(env.get("PATH") or os.defpath)
    devices = sorted(taken, key=lambda device: (device.index, device.uuid))
    key = protocol.attempt_key(spec.job, spec.attempt, spec.fence)
    env |= {
        "PWD": spec.working_dir,
        "CUDA_VISIBLE_DEVICES": ",".join(device.mask for device in devices),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "PYTHONUNBUFFERED": "1",
        "AUTOTRAINER_JOB_ID": str(spec.number),
        "AUTOTRAINER_JOB_NAME": spec.name,
        "AUTOTRAINER_ATTEMPT": str(spec.attempt),
        "AUTOTRAINER_GPU_UUIDS": ",".join(device.uuid for device in devices),
        "AUTOTRAINER_HOST": config.host,
        "AUTOTRAINER_MAIL": str(attempts_folder(config) / key / ownmail.NAME),
        processes.MARK: key,
    }
    if sim_dir is not None:
        env["AUTOTRAINER_SIM_DIR"] = str(sim_dir)
    return env


def _forget_product(env: dict[str, str]) -> None:
    """The product's own venv is not the user's, even where the agent was started from inside it."""
    env.pop("OLDPWD", None)
    if Path(env.get("VIRTUAL_ENV", "/")).resolve() == PRODUCT_BIN.parent.resolve():
        del env["VIRTUAL_ENV"]


def _enter_environment(env: dict[str, str], prefix: str) -> None:
    """As `activate` would: a venv, or a conda environment, whichever the prefix is."""
    if not prefix:
        return
    kind, other = ("CONDA_PREFIX", "VIRTUAL_ENV") if Path(prefix, "conda-meta").is_dir() else ("VIRTUAL_ENV", "CONDA_PREFIX")
    env[kind] = prefix
    env.pop(other, None)
    env.pop("PYTHONHOME", None)
    env["PATH"] = os.pathsep.join([str(Path(prefix, "bin")), env.get("PATH") or os.defpath])


def _with_product_last(path: str) -> str:
    """`python` is the user's; ours stands last, for machines that have none at all."""
    ours = {PRODUCT_BIN, PRODUCT_BIN.resolve()}
    theirs = [part for part in path.split(os.pathsep) if Path(part) not in ours]
    return os.pathsep.join([*theirs, str(PRODUCT_BIN)])


# --- the zygote ---------------------------------------------------------------------------------------------------------


class Zygote:
    """The agent's end of the process that forks shims. Thread-safe: one request at a time."""

    def __init__(self, home: Path, host_home: Path) -> None:
        self._home = home
        self._words = host_home / "shim.log"
        self._mutex = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        with self._mutex:
            self._living()

    def close(self) -> None:
        with self._mutex:
            self._let_go()

    def fork_shim(self, attempt: Path) -> int:
        """The pid of a shim that others can see and reach. Raises ZygoteFailed; then it may still come, late."""
        with self._mutex:
            try:
                answer = self._ask(json.dumps(str(attempt)).encode() + b"\n")
            except (OSError, EOFError, ValueError) as exc:
                self._let_go()
                raise ZygoteFailed(str(exc) or type(exc).__name__) from exc
        if "pid" not in answer:
            raise ZygoteFailed(answer.get("error", "no answer"))
        return int(answer["pid"])

    def _ask(self, line: bytes) -> dict[str, Any]:
        try:
            return self._exchange(line)
        except (BrokenPipeError, ConnectionResetError):
            self._let_go()  # It died with our line unread (else we would see an end of file), so asking again is safe.
            return self._exchange(line)

    def _exchange(self, line: bytes) -> dict[str, Any]:
        control = self._living()
        control.sendall(line)
        answer = b""
        while not answer.endswith(b"\n"):
            data = control.recv(65536)
            if not data:
                raise EOFError("the zygote died over it")
            answer += data
        value = json.loads(answer)
        return value if isinstance(value, dict) else {}

    def _living(self) -> socket.socket:
        """The control socket of a zygote that lives, a fresh one where it does not."""
        if self._control is None or self._process is None or self._process.poll() is not None:
            self._let_go()
            self._control = self._spawn()
        return self._control

    def _spawn(self) -> socket.socket:
        make_private(self._words.parent)
        ours, theirs = socket.socketpair()
        ours.settimeout(ZYGOTE_ANSWER_S)
        words = os.open(self._words, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._process = subprocess.Popen(
                # Without site and the user's PYTHON variables: the standard library is all it needs.
                [sys.executable, "-E", "-s", "-S", "-m", "gpuworker.shim", str(self._home), str(theirs.fileno())],
                cwd=settings.CHECKOUT,
                env=settings.without_ours(os.environ) | failpoints.environ() | {"AUTOTRAINER_HOME": str(self._home)},
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(words)
        return ours

    def _let_go(self) -> None:
        """Close our end, at which it exits; it has nothing to finish."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(ZYGOTE_EXIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
