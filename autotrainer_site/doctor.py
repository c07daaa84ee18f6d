"""What `manage.py doctor` looks at. Each check stands alone, so that one broken part hides no other."""

from __future__ import annotations

import enum
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from gpuworker import disks, redischeck, shortcomings
from gpuworker.settings import BadSetting, Settings
from jobs import homes
from jobs.notifications import channels
from jobs.notifications.letter import NotSent
from starter import embedded_redis, home, installing, processes, supervisor

GIB = 2**30
DISK_LOW_BYTES = 10 * GIB
LARGEST_SKEW_S = 5.0
OLDEST_REDIS = (6, 2)
NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "lustre", "beegfs", "ceph")


class Level(enum.StrEnum):
    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    subject: str
    text: str
    """What is there; where it is wrong, the mend too."""


def examine(ours: Settings) -> Iterator[Finding]:
    """One or more findings of each check, in reading order."""
    for subject, check in CHECKS:
        for level, text in check(ours):
            yield Finding(level, subject, text)


Check = Callable[[Settings], Iterator[tuple[Level, str]]]


def _python(_ours: Settings) -> Iterator[tuple[Level, str]]:
    environment = installing.find()
    version = ".".join(map(str, sys.version_info[:3]))
    if environment.installed(installing.RUN_LOCK):
        yield Level.OK, f"{version} in {environment.prefix}, with the packages of {installing.RUN_LOCK}"
    else:
        yield (
            Level.NOTE,
            f"{version}; {installing.RUN_LOCK} has not been installed by AutoTrainer.py here: `python3 AutoTrainer.py` does it",
        )


def _shell(ours: Settings) -> Iterator[tuple[Level, str]]:
    if Path(ours.shell).name == "sh":
        yield Level.NOTE, f"{ours.shell} runs the commands: `source` is unknown to it; install bash or set AUTOTRAINER_SHELL"
    else:
        yield Level.OK, ours.shell


def _permissions(ours: Settings) -> Iterator[tuple[Level, str]]:
    if not ours.home.exists():
        yield Level.NOTE, f"{ours.home} is not there yet: the first start makes it"
        return
    if not os.access(ours.home, os.W_OK | os.X_OK):
        yield Level.WRONG, f"{ours.home} cannot be written: make it writable for this user, or set AUTOTRAINER_HOME to another folder"
        return
    kept = ("keys/cluster_key", "keys/cluster_key_previous", "keys/secret_key")
    hosts = (f"hosts/{ours.host}/host_key", f"hosts/{ours.host}/host_key_previous")
    names = ("admin_password", "flower_password", "supervisor.conf", *kept, *hosts)
    exposed = [name for name in names if _others_may_read(ours.home / name)]
    if exposed:
        paths = " ".join(str(ours.home / name) for name in exposed)
        yield Level.WRONG, f"other users may read secrets of ours: chmod 600 {paths}"
    else:
        yield Level.OK, f"{ours.home} is writable, its secrets are this user's alone"


def _others_may_read(path: Path) -> bool:
    try:
        return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)
    except OSError:
        return False


def _disk(ours: Settings) -> Iterator[tuple[Level, str]]:
    place = next(folder for folder in (ours.home, *ours.home.parents) if folder.exists())
    yield _room(disks.room(place), ours.home)
    if not _has_holes(place):
        cut = f"longer than {ours.log_limit_bytes / GIB:g} GiB (AUTOTRAINER_LOG_LIMIT)"
        yield Level.NOTE, f"files on {place} cannot have holes: of a log {cut} only the beginning and the last lines are kept"
    kind = _file_system(place)
    if kind in NETWORK_FILE_SYSTEMS:
        mend = "set AUTOTRAINER_HOME to a folder on a local disk"
        yield Level.WRONG, f"{place} is on a network file system ({kind}), where locks and SQLite do not hold: {mend}"


def _room(room: disks.Room | None, home: Path) -> tuple[Level, str]:
    if room is None:
        return Level.NOTE, f"the file system of {home} does not tell how much is free"
    text = f"{room.free_bytes / GIB:.1f} GiB free for {home}"
    if room.low:
        return Level.WRONG, shortcomings.low_disk(room, home)
    return (Level.NOTE if room.free_bytes < DISK_LOW_BYTES else Level.OK), text


def _has_holes(place: Path) -> bool:
    """Whether the middle of a log can be given back to the disk; True where that cannot be tried."""
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            return disks.can_punch(file.fileno())
    except OSError:
        return True


def _file_system(path: Path) -> str:
    """The type of the file system that a path is on; '' where /proc does not tell."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return ""
    real = os.path.realpath(path)
    fitting = [(len(m[1]), m[2]) for m in mounts if os.path.commonpath([real, m[1].replace("\\040", " ")]) == m[1].replace("\\040", " ")]
    return max(fitting)[1] if fitting else ""


def _database(ours: Settings) -> Iterator[tuple[Level, str]]:
    where = "DATABASE_URL" if ours.database_url else str(ours.home / "autotrainer.sqlite3")
    if not ours.database_url and not (ours.home / "autotrainer.sqlite3").exists():
        yield Level.NOTE, f"{where} is not there yet: the first start makes it"
        return
    try:
        executor = MigrationExecutor(connection)
        pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError as exc:
        yield Level.WRONG, f"{where} cannot be used ({str(exc).strip()}): mend the address, or the server"
        return
    if not pending and ours.database_url and (wrong := homes.wrong(ours.home)):
        yield Level.WRONG, wrong
        return
    if pending:
        yield Level.NOTE, f"{where} is of an older version: the next start brings it up to date, after a backup"
    else:
        yield Level.OK, where


def _redis(ours: Settings) -> Iterator[tuple[Level, str]]:
    if ours.redis_embedded:
        try:
            yield Level.OK, f"{embedded_redis.find_server()} is run by `up`"
        except home.CannotStart as exc:
            yield Level.WRONG, str(exc)
            return
        if not any(service.name == "redis" for service in processes.services(ours.home)):
            return
    try:
        with redis.Redis.from_url(ours.redis_url, socket_timeout=5, socket_connect_timeout=5, decode_responses=True) as client:
            yield from _redis_server(client, ours)
    except redis.RedisError as exc:
        yield Level.WRONG, f"it does not answer ({exc}): start it, or mend AUTOTRAINER_REDIS_URL"


def _redis_server(client: Any, ours: Settings) -> Iterator[tuple[Level, str]]:
    info = client.info("server")
    version = str(info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        yield Level.WRONG, f"version {version} is too old: install 6.2 or newer"
    else:
        yield Level.OK, f"version {version} answers"
    try:
        redischeck.refuse_open(client, ours)
    except BadSetting as exc:
        yield Level.WRONG, str(exc)
    if not ours.redis_embedded and client.info("persistence").get("aof_enabled") == 0:
        yield Level.NOTE, "it keeps nothing on disk: with `appendonly yes` a restart of it disturbs nobody"
    memory = client.info("memory")
    if memory.get("maxmemory_policy", "noeviction") != "noeviction":
        yield Level.WRONG, f"it forgets keys when its memory is full ({memory['maxmemory_policy']}): set maxmemory-policy noeviction"
    seconds, micros = client.time()
    skew_s = abs(time.time() - seconds - micros / 1e6)
    if skew_s > LARGEST_SKEW_S:
        yield Level.WRONG, f"its clock and this machine's differ by {skew_s:.0f} s: run a time service (chrony, systemd-timesyncd) on both"


def _devices(ours: Settings) -> Iterator[tuple[Level, str]]:
    answer = _probe("gpuworker.probe")
    if answer.returncode:
        yield Level.WRONG, (answer.stderr.strip().splitlines() or ["the devices cannot be read"])[-1]
        return
    found = json.loads(answer.stdout)
    if found["error"]:
        yield Level.WRONG, shortcomings.unread(found["error"])
    elif not found["devices"]:
        yield Level.NOTE, shortcomings.NO_DEVICES
    else:
        names = ", ".join(sorted({device["name"] for device in found["devices"]}))
        yield Level.OK, f"{len(found['devices'])} ({found['source']}): {names}"


def _probe(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The host's own side is asked in a process of its own: NVML is not for this one."""
    argv = [*supervisor.PYTHON, module, *words]
    return subprocess.run(argv, cwd=installing.CHECKOUT, capture_output=True, text=True, check=False)


def _ending(ours: Settings) -> Iterator[tuple[Level, str]]:
    """Of the running agent, since it may have been started elsewhere (a systemd unit); else of an agent started from here."""
    agent = next((service.pid for service in processes.services(ours.home) if service.name == "agent"), "self")
    answer = _probe("gpuworker.probe", "--groups", str(agent))
    parent = answer.stdout.strip()
    if answer.returncode:
        yield Level.WRONG, (answer.stderr.strip().splitlines() or ["it cannot be told how trees are ended here"])[-1]
    elif parent:
        yield Level.OK, f"each training has a control group of its own below {parent}: nothing that it started gets away (cgroup)"
    else:
        yield Level.NOTE, shortcomings.NO_GROUPS


def _swaps(_ours: Settings) -> Iterator[tuple[Level, str]]:
    answer = _probe("gpuworker.hotswap.probe")
    if answer.returncode:
        yield Level.WRONG, (answer.stderr.strip().splitlines() or ["how files are swapped cannot be found out"])[-1]
        return
    way = json.loads(answer.stdout)
    if way["name"] == "mount":
        yield Level.OK, "a swapped file is seen by its job alone (mount namespace)"
    else:
        mend = "run the agent as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone, kernel.apparmor_restrict_*)"
        yield Level.NOTE, f"a swapped file is seen by everybody while its job runs (no mount namespace: {way['note']}): {mend}"


def _ports(ours: Settings) -> Iterator[tuple[Level, str]]:
    if any(service.name == "web" for service in processes.services(ours.home)):
        yield Level.OK, f"{ours.port} serves the page"
        return
    try:
        home.check_ports(ours)
    except home.CannotStart as exc:
        yield Level.WRONG, str(exc)
    else:
        yield Level.OK, f"{ours.port}" + (f" and {ours.flower_port} are" if ours.flower_port else " is") + " free"


def _time(ours: Settings) -> Iterator[tuple[Level, str]]:
    now = time.strftime("%Y-%m-%d %H:%M")
    program = shutil.which("timedatectl")
    argv = [program or "", "show", "--property=NTPSynchronized", "--value"]
    answer = subprocess.run(argv, capture_output=True, text=True, timeout=5, check=False).stdout.strip() if program else ""
    if answer == "no":
        yield Level.NOTE, f"{now}: this clock is not synchronised; several machines need a time service (chrony, systemd-timesyncd)"
    else:
        yield Level.OK, f"{now}, zone {ours.time_zone}, host {ours.host} ({socket.gethostname()})"


def _mail(_ours: Settings) -> Iterator[tuple[Level, str]]:
    way = channels.for_mail()
    if not way:
        yield Level.NOTE, "none is set up: nobody is told how a job went; set EMAIL_URL or AUTOTRAINER_EMINDER_URL"
        return
    try:
        yield Level.OK, channels.BY_NAME[way].check()
    except NotSent as exc:
        setting = "EMAIL_URL" if way == "smtp" else "AUTOTRAINER_EMINDER_URL"
        yield Level.WRONG, f"{exc} Mails wait meanwhile, for a week. Look at the service, and at {setting}"


CHECKS: tuple[tuple[str, Check], ...] = (
    ("Python", _python),
    ("Shell", _shell),
    ("Permissions", _permissions),
    ("Disk", _disk),
    ("Database", _database),
    ("Redis", _redis),
    ("Devices", _devices),
    ("Ending", _ending),
    ("Swaps", _swaps),
    ("Ports", _ports),
    ("Time", _time),
    ("Mail", _mail),
)
