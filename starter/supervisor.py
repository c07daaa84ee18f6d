"""supervisord: its configuration, its start and its stop.

Redis is a group of its own with the lower priority, so that it starts first and stops last; the others stop all at once
(programs outside a group are stopped one after the other). Each is run by starter/service.py, which lets it die with
supervisord. Nothing here signals a process group: the agent's children, trainings among them, go on.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from gpuworker import protocol
from gpuworker.settings import Settings, embedded_socket, without_ours
from starter import processes
from starter.installing import CHECKOUT, ISOLATED

STOP_WAIT_S = 7
"""SIGTERM to SIGKILL for one service; with Redis after the others all must be gone within 10 s."""
STOP_LIMIT_S = 9.0

PYTHON = (sys.executable, *ISOLATED, "-m")
_WRAPPER = (sys.executable, "-I", "-S", str(Path(__file__).with_name("service.py")))


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    argv: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)
    group: str = "autotrainer"
    wrapper: Sequence[str] = ()
    """Options of starter/service.py."""


def programs(settings: Settings, *, redis_argv: Sequence[str], flower_login: str) -> list[Program]:
    """The services; `redis_argv` is empty where Redis is not ours to run, `flower_login` where Flower is off."""
    after = ("--after", str(embedded_socket(settings.home))) if redis_argv else ()
    found = [Program("redis", redis_argv, group="broker")] if redis_argv else []
    found += [
        Program("web", web_argv(settings)),
        Program("control", control_argv(settings.host), wrapper=after),
        Program("agent", agent_argv(settings.host), wrapper=after),
    ]
    if flower_login:
        found.append(Program("flower", flower_argv(settings.flower_port), {"FLOWER_BASIC_AUTH": flower_login}, wrapper=after))
    return found


def web_argv(settings: Settings) -> list[str]:
    where = ["--host", settings.bind, "--port", str(settings.port)]
    options = ["--timeout-graceful-shutdown", "3", "--no-access-log", "--lifespan", "off", "--ws", "none"]
    if not settings.url.startswith("https:"):
        # No proxy is in front: X-Forwarded-For would let anybody on this machine be any address, which the limit of tries counts by.
        options.append("--no-proxy-headers")
    return [*PYTHON, "uvicorn", "autotrainer_site.asgi:application", *where, *options]


def control_argv(host: str) -> list[str]:
    pool = ["-P", "threads", "-c", "8", "-Q", protocol.CONTROL_QUEUE, "-n", f"control@{host}"]
    return [*PYTHON, "celery", "-A", "autotrainer_site", "worker", *pool, "--without-gossip", "--without-mingle", "-l", "INFO"]


def agent_argv(host: str) -> list[str]:
    pool = ["-P", "threads", "-c", "128", "-Q", protocol.host_queue(host), "-n", protocol.node_name(host)]
    return [*PYTHON, "celery", "-A", "gpuworker", "worker", *pool, "--without-gossip", "--without-mingle", "-l", "INFO"]


def flower_argv(port: int) -> list[str]:
    options = ["--address=127.0.0.1", f"--port={port}", "--read_only", "--max_tasks=5000"]
    return [*PYTHON, "celery", "-A", "gpuworker", "flower", *options]


def service_environ(settings: Settings, extra: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """What all services inherit: the user's environment with our settings, but without another program's Django, Celery or Flower."""
    kept = set(without_ours(os.environ))
    ours = {k: v for k, v in os.environ.items() if k in kept or k.startswith("AUTOTRAINER_") or k in ("DATABASE_URL", "EMAIL_URL")}
    return ours | {"AUTOTRAINER_HOME": str(settings.home)} | dict(extra)


def write_configuration(home: Path, services: Sequence[Program]) -> Path:
    """`supervisor.conf` (0600: it holds Flower's password) and the folder of the services' logs."""
    logs = home / "service-logs"
    logs.mkdir(exist_ok=True, mode=0o700)
    path = home / "supervisor.conf"
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(_configuration(home, logs, services))
    return path


def _configuration(home: Path, logs: Path, services: Sequence[Program]) -> str:
    sections = [_section("supervisord", _supervisord(home, logs))]
    sections += [_section(f"program:{program.name}", _program(program, logs)) for program in services]
    for priority, group in enumerate(dict.fromkeys(program.group for program in services), 1):
        members = ",".join(program.name for program in services if program.group == group)
        sections.append(_section(f"group:{group}", {"programs": members, "priority": str(priority)}))
    return "\n".join(sections)


def _supervisord(home: Path, logs: Path) -> dict[str, str]:
    values = {
        "nodaemon": "true",
        "silent": "true",
        "logfile": _escaped(str(logs / "supervisor.log")),
        "logfile_maxbytes": "10MB",
        "logfile_backups": "3",
        "childlogdir": _escaped(str(logs)),
        "pidfile": _escaped(str(home / "supervisor.pid")),
        "directory": _escaped(str(CHECKOUT)),
    }
    return values | ({"user": "root"} if os.getuid() == 0 else {})  # else it warns at each start


def _program(program: Program, logs: Path) -> dict[str, str]:
    environ = {"AUTOTRAINER_SERVICE": program.name, **program.environ}
    return {
        "command": _escaped(shlex.join([*_WRAPPER, *program.wrapper, "--", *program.argv])),
        "environment": ",".join(f'{name}="{_escaped(value)}"' for name, value in environ.items()),
        "autorestart": "true",
        "startsecs": "1",
        "startretries": "1000000",  # each waits a second longer than the one before
        "stopsignal": "TERM",
        "stopwaitsecs": str(STOP_WAIT_S if program.group != "broker" else 2),
        "stopasgroup": "false",
        "killasgroup": "false",
        "redirect_stderr": "true",
        "stdout_logfile": _escaped(str(logs / f"{program.name}.log")),
        "stdout_logfile_maxbytes": "10MB",
        "stdout_logfile_backups": "3",
    }


def _section(name: str, values: Mapping[str, str]) -> str:
    return f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in values.items())


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def start(configuration: Path, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """supervisord in a process group of its own (Ctrl-C is for `up` alone), ended by the kernel when `up` ends."""
    argv = [*_WRAPPER, "--", *PYTHON, "supervisor.supervisord", "-c", str(configuration)]
    return subprocess.Popen(
        argv,
        cwd=CHECKOUT,
        env={**environ, "AUTOTRAINER_SERVICE": processes.SUPERVISOR},
        stdin=subprocess.DEVNULL,
        process_group=0,
    )


def stop(supervisord: subprocess.Popen[bytes], home: Path) -> None:
    """All services are gone when this returns, within 10 s; trainings go on."""
    supervisord.terminate()
    try:
        supervisord.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        supervisord.kill()
        supervisord.wait()
    with contextlib.suppress(TimeoutError):
        processes.sweep(home, patience_s=0.5)
