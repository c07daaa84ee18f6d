"""Who swaps which file on this machine: one lock file per target, held open by the shim and by its command's tree.

Overlays of a mount namespace share a target; who replaces the file itself has it alone. The lock is inherited, so that it
holds as long as the command sees the file, even where the shim is killed; and it names its attempt, so that a file whose
original has not been put back yet is in use until that is done, whoever died meanwhile.
"""

from __future__ import annotations

import fcntl
import json
import os
from typing import Any

from gpuworker.shim import locks, records
from gpuworker.shim.swaps import files
from gpuworker.shim.swaps.paths import Place

RECORD = "swap.json"
UNFINISHED = ("preparing", "swapped")


class InUse(Exception):
    """Another job swaps the same file now; says which. This one waits for it."""


def take(folder: str, place: Place, holder: dict[str, Any], *, alone: bool) -> int:
    """The lock of a target, as a descriptor to keep open. Raises InUse, OSError."""
    path = _path(folder, place)
    for _ in range(10):
        fd = locks.open_lock(path)
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            if _still_named(fd, path):
                _refuse_unfinished(fd, place, holder)
                if alone:
                    _sign(fd, holder)
                return fd
        except BlockingIOError:
            message = _words(place, _signed(fd))
            os.close(fd)
            raise InUse(message) from None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise InUse(f"{place.target}: its lock is being replaced again and again.")


def give_back(fd: int, *, alone: bool) -> None:
    """Only once the original is back: an empty lock is nobody's."""
    if alone:
        os.ftruncate(fd, 0)
    os.close(fd)


def _path(folder: str, place: Place) -> str:
    at = os.fstat(place.folder)
    below = "/".join((*place.missing, place.name))
    name = files.hexdigest(f"{at.st_dev}:{at.st_ino}:{below}".encode())[:32]
    return os.path.join(folder, f"autotrainer-swap-{name}.lock")


def _still_named(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False


def _refuse_unfinished(fd: int, place: Place, holder: dict[str, Any]) -> None:
    """The lock is free, but who had it last may not have put the original back yet: its agent will."""
    last = _signed(fd)
    if last.get("attempt", holder["attempt"]) == holder["attempt"]:
        return
    record = records.read_record(last["attempt"], RECORD) if os.path.isdir(last["attempt"]) else None
    if record and record.get("state") in UNFINISHED:
        raise InUse(_words(place, last))


def _sign(fd: int, holder: dict[str, Any]) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps(holder).encode(), 0)


def _signed(fd: int) -> dict[str, Any]:
    """Who has signed the lock; empty where nobody has, or where it is not ours to believe."""
    try:
        told = json.loads(os.pread(fd, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return told if isinstance(told, dict) and isinstance(told.get("attempt", ""), str) else {}


def _words(place: Place, holder: dict[str, Any]) -> str:
    number = holder.get("number")
    who = f"job #{number}" if isinstance(number, int) else "another job"
    return f"{place.target} is swapped by {who} now; it can be swapped again when that one has ended."
