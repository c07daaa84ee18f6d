"""What a device backend answers, and what all backends share. A missing reading is None and never 0."""

from __future__ import annotations

import enum
import os
import pwd
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from gpuworker.protocol import DeviceReading

Training = tuple[tuple[str, ...], list[int]]
"""A living attempt: the UUIDs of its devices and the pids of its processes."""
Trainings = Callable[[], Sequence[Training]]
MIB = 1024 * 1024


class Link(enum.IntEnum):
    """How two devices of a host reach each other; the higher, the nearer."""

    SYSTEM = 1
    """Over the link between two processors."""
    NODE = 2
    """Over two host bridges of one processor."""
    HOST_BRIDGE = 3
    SWITCHES = 4
    SWITCH = 5
    BOARD = 6
    NVLINK = 7


@dataclass(frozen=True, slots=True)
class Reading:
    """All devices at one instant, before anybody has judged whose processes those are."""

    devices: tuple[DeviceReading, ...] = ()
    error: str = ""
    """Why the inventory is not known. With it, `devices` says nothing: an empty tuple is not "no devices"."""
    process_utilization: Mapping[tuple[str, int], float] = field(default_factory=dict)
    """(device UUID, pid) -> percent. A pair that is missing is unknown."""


class DeviceBackend(Protocol):
    @property
    def source(self) -> str:
        """nvml, simulated or none: how a heartbeat names this backend."""

    @property
    def lock_folder(self) -> Path:
        """Where the lock files of these devices lie."""

    def read(self, trainings: Sequence[Training] = (), only: Collection[str] = ()) -> Reading:
        """Everything about all devices, or about those in `only`. Never raises, returns within `LONGEST_READ_S`.

        `trainings` is who of ours runs where: simulated devices cannot know it otherwise.
        """

    def mask_token(self, uuid: str) -> str:
        """How CUDA_VISIBLE_DEVICES names this device: its index by the last reading; the UUID for a MIG slice."""


LONGEST_READ_S = 5.0
"""NVML can hang in the kernel for ever; a reader gives up after this."""


def machine_lock_folder() -> Path:
    """The same folder for every account and installation on this machine, so that they respect each other's devices.

    Chosen by its mode, never by what this account may write: on RHEL /run/lock belongs to root, and root and a user
    would take different ones.
    """
    for folder in (Path("/run/lock"), Path("/dev/shm")):  # noqa: S108 - lock files, flat, opened without O_CREAT first
        try:
            if stat.S_IMODE(folder.stat().st_mode) & 0o1002 == 0o1002:
                return folder
        except OSError:
            continue
    return Path("/tmp")  # noqa: S108


def process_owner(pid: int) -> tuple[str, str]:
    """User and program of a process, both empty where it cannot be seen (another pid namespace, or it has ended).

    Only the program's name: arguments may hold secrets, and everybody who is signed in sees this.
    """
    try:
        user = _user_name(os.stat(f"/proc/{pid}").st_uid)
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            program = f.read(4096).split(b"\0", 1)[0]
        if not program:
            program = Path(f"/proc/{pid}/comm").read_bytes().strip()
    except OSError:
        return "", ""
    return user, os.path.basename(program.decode(errors="replace"))


@lru_cache(maxsize=256)
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
