"""`manage.py up`: starts everything, says where it is, and keeps it until it is told to stop.

It imports neither Django nor Celery, since it lives as long as the product: what needs the database is done by short
`manage.py` children. Killed in any way, it takes supervisord and the services with it, and no training.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from gpuworker import settings as environment
from gpuworker.settings import BadSetting, Settings
from starter import embedded_redis, processes, supervisor
from starter.home import CannotStart, check_ports, occupied
from starter.installing import CHECKOUT, ISOLATED, say
from starter.ready import readiness, welcome

READY_HINT_S = 15.0
READY_LIMIT_S = 90.0
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options; a wrong one ends the process with the usage."""
    made = argparse.ArgumentParser(description="Start AutoTrainer and serve until Ctrl-C or SIGTERM.")
    made.add_argument("--demo", action="store_true", help="submit the sample training and show its log; simulated GPUs where there is none")
    made.add_argument("--exit", action="store_true", help="with --demo: stop everything afterwards and exit with the job's exit code")
    made.add_argument("--cancel-jobs", action="store_true", help="when stopping, stop the running trainings too")
    options = made.parse_args(argv)
    if options.exit and not options.demo:
        made.error("--exit goes with --demo only")
    return options


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    os.chdir(CHECKOUT)  # relative paths in settings mean the same here and in the services
    try:
        settings = environment.load()
        with occupied(settings.home):
            return Up(settings, demo=options.demo, once=options.exit, cancel_jobs=options.cancel_jobs).run()
    except (BadSetting, CannotStart, TimeoutError) as exc:
        print(exc, file=sys.stderr)
        return 1


class StopRequest:
    """Whether somebody asked us to stop, and a way to sleep that ends when they do."""

    def __init__(self) -> None:
        self.requested = False
        self._read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write)
        for signum in _STOP_SIGNALS:
            if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup
                signal.signal(signum, self._note)

    def _note(self, _signum: int, _frame: FrameType | None) -> None:
        self.requested = True

    def sleep(self, pidfds: Sequence[int], timeout_s: float | None) -> None:
        """Until a stop is asked for, one of these processes ends, or the time is over."""
        if not self.requested:
            select.select([self._read, *pidfds], [], [], timeout_s)


@dataclass(frozen=True, slots=True)
class Child:
    process: subprocess.Popen[bytes]
    pidfd: int

    @classmethod
    def of(cls, process: subprocess.Popen[bytes]) -> Child:
        return cls(process, os.pidfd_open(process.pid))

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None


class Up:
    """One run of the product on one home, whose lock the caller holds."""

    def __init__(self, settings: Settings, *, demo: bool, once: bool, cancel_jobs: bool) -> None:
        self.settings, self.demo, self.once, self.cancel_jobs = settings, demo, once, cancel_jobs
        self.stop_request = StopRequest()
        self.environ = supervisor.service_environ(settings, self._demo_devices() if demo else {})

    def run(self) -> int:
        """Exit status: 0 after a stop that was asked for, the demo job's exit code, else 1."""
        if left := processes.sweep(self.settings.home):
            say(f"Ended {left} services of an earlier start; running trainings go on.")
        check_ports(self.settings)
        redis_argv = self._redis_argv()
        facts = self._prepare()
        login = f"admin:{facts['flower_password']}" if self.settings.flower_port else ""
        services = supervisor.programs(self.settings, redis_argv=redis_argv, flower_login=login)
        configuration = supervisor.write_configuration(self.settings.home, services)
        if self.stop_request.requested:
            return 0
        supervisord = Child.of(supervisor.start(configuration, self.environ))
        try:
            return self._serve(supervisord, facts)
        finally:
            self._stop(supervisord)

    def _demo_devices(self) -> dict[str, str]:
        if self.settings.devices != "auto" or _has_gpu():
            return {}
        say("No NVIDIA GPU was found: the demo uses four simulated ones of 24 GiB.")
        return {"AUTOTRAINER_DEVICES": "sim:4x24GiB"}

    def _redis_argv(self) -> list[str]:
        if not self.settings.redis_embedded:
            return []
        return [embedded_redis.find_server(), str(embedded_redis.configure(self.settings.home))]

    def _prepare(self) -> dict[str, str]:
        """Migrations, the first administrator, this host's row and key; answers what the welcome needs. Raises CannotStart."""
        done = subprocess.run(_manage("prepare"), cwd=CHECKOUT, env=self.environ, stdout=subprocess.PIPE, process_group=0, check=False)
        if done.returncode:
            raise CannotStart(
                "AutoTrainer could not be prepared; what is wrong stands above. `manage.py doctor` looks at the whole machine."
            )
        facts: dict[str, str] = json.loads(done.stdout)
        return facts

    def _serve(self, supervisord: Child, facts: Mapping[str, str]) -> int:
        if not self._until_ready(supervisord):
            return 0 if self.stop_request.requested else 1
        say(welcome(self.settings, facts, self.environ))
        code = self._run_demo(supervisord) if self.demo and not self.stop_request.requested else 0
        if self.once:
            return code
        while not self.stop_request.requested and not supervisord.ended:
            self.stop_request.sleep([supervisord.pidfd], None)
        return self._ended(supervisord)

    def _ended(self, supervisord: Child) -> int:
        if self.stop_request.requested:
            return 0
        print("supervisord has ended, so everything stops; running trainings go on. Start AutoTrainer again.", file=sys.stderr)
        return 1

    def _until_ready(self, supervisord: Child) -> bool:
        """Whether all parts answer. Past the limit it goes on serving, except for a demo that runs once: a part may come back."""
        began = time.monotonic()
        hinted = 0.0
        while not self.stop_request.requested and not supervisord.ended:
            if not (trouble := readiness(self.settings)):
                return True
            waited = time.monotonic() - began
            if waited > READY_LIMIT_S and self.once:
                print(f"AutoTrainer is not ready after {waited:.0f} s: {trouble}", file=sys.stderr)
                return False
            if waited - hinted > READY_HINT_S:
                hinted = waited
                say(f"Not ready after {waited:.0f} s: {trouble} The services' logs are in {self.settings.home / 'service-logs'}.")
            self.stop_request.sleep([supervisord.pidfd], 0.1 if waited < READY_HINT_S else 1.0)
        if not self.stop_request.requested:
            self._ended(supervisord)
        return False

    def _run_demo(self, supervisord: Child) -> int:
        demo = Child.of(subprocess.Popen(_manage("demo"), cwd=CHECKOUT, env=self.environ, process_group=0))
        while not (demo.ended or supervisord.ended or self.stop_request.requested):
            self.stop_request.sleep([demo.pidfd, supervisord.pidfd], None)
        if not demo.ended:
            demo.process.kill()
        code = demo.process.wait()
        return code if code >= 0 else 130

    def _stop(self, supervisord: Child) -> None:
        if not self.once:
            say("Stopping. " + ("Running trainings are stopped too." if self.cancel_jobs else "Running trainings go on."))
        supervisor.stop(supervisord.process, self.settings.home)
        if self.cancel_jobs:
            argv = [*supervisor.PYTHON, "gpuworker.stopall"]
            subprocess.run(argv, cwd=CHECKOUT, env=self.environ, process_group=0, check=False)


def _manage(*words: str) -> list[str]:
    return [sys.executable, *ISOLATED, str(CHECKOUT / "manage.py"), *words]


def _has_gpu() -> bool:
    """What the host's own side finds; in a process of its own, since NVML is not for this one."""
    answer = subprocess.run([*supervisor.PYTHON, "gpuworker.probe"], cwd=CHECKOUT, stdout=subprocess.PIPE, check=False)
    return answer.returncode == 0 and bool(json.loads(answer.stdout)["devices"])
