"""Attempt directories as the agent sees them: what their records say, and the living shim behind them.

The records are the truth; the socket only saves waiting. Which files there are: docs/how-it-works.md, "Attempt directory".
"""

from __future__ import annotations

import enum
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from gpuworker import identity, protocol
from gpuworker.settings import Settings
from gpuworker.shim import door, processes, records
from gpuworker.shim.cgroup import Group
from gpuworker.shim.ending import Ending

_KEY = re.compile(r"([A-Za-z0-9-]{1,64})\.(\d{1,9})\.(\d{1,18})")


class AttemptState(enum.StrEnum):
    """What the records and the process table say together."""

    PREPARED = "prepared"
    """No shim has shown itself: the agent has not asked for one yet, or was killed before (or just as) it asked."""
    LAUNCHING = "launching"
    RUNNING = "running"
    ENDING = "ending"
    """exit.json is there; the shim ends what is left of the tree."""
    DONE = "done"
    """exit.json and done.json are there: the tree is empty."""
    REFUSED = "refused"
    ABANDONED = "abandoned"
    """The shim is dead and left no done.json: the tree has to be proved empty, and exit.json may be missing."""


class ShimGone(Exception):
    """The shim has closed its socket: it is done, or dead. The records tell which."""


class ShimLives(Exception):
    """A process of an attempt was to be signalled past its shim."""


@dataclass(frozen=True, slots=True)
class TakenDevice:
    """A device that this attempt has claimed; `mask` is how CUDA_VISIBLE_DEVICES names it."""

    uuid: str
    index: int
    mask: str


@dataclass(frozen=True, slots=True)
class AttemptDir:
    """One dispatch of one attempt on this host."""

    path: Path

    @property
    def key(self) -> str:
        return self.path.name

    @property
    def job(self) -> str:
        return self.key.split(".")[0]

    @property
    def attempt(self) -> int:
        return int(self.key.split(".")[1])

    @property
    def fence(self) -> int:
        return int(self.key.split(".")[2])

    @property
    def log_path(self) -> Path:
        return self.path / "output.log"

    def record(self, name: str) -> dict[str, Any] | None:
        return records.read_record(self.path, name)

    def write(self, name: str, body: Mapping[str, Any], *, durable: bool = True) -> None:
        records.write_record(self.path, name, body, durable=durable)

    def spec(self) -> protocol.Spec | None:
        """None where a crash left no readable one: then nothing was started from it. Raises BadMessage for a foreign version's."""
        record = self.record("spec.json")
        return None if record is None else protocol.Spec.read(record["body"])

    def taken(self) -> list[TakenDevice]:
        return [TakenDevice(*device) for device in (self.record("spec.json") or {}).get("taken", ())]

    def acknowledge(self, what: str) -> None:
        """Remember that the control plane has stored our report (`started`, `ended`, `refused`)."""
        (self.path / f"ack-{what}").touch(mode=0o600)

    def acknowledged(self, what: str) -> bool:
        return (self.path / f"ack-{what}").exists()

    def shim_alive(self) -> bool:
        shim = self.record("shim.json")
        return shim is not None and identity.alive(shim["pid"], shim["start_ticks"], shim["boot_id"])

    def state(self) -> AttemptState:
        # In this order: a shim that comes or goes between the questions is not taken for a dead one.
        seen = (self.path / "shim.json").exists()
        alive = self.shim_alive()
        if self.record("done.json") is not None:
            return AttemptState.DONE if self.record("exit.json") else AttemptState.REFUSED
        if not alive:
            if self._given_up():
                return AttemptState.REFUSED
            return AttemptState.ABANDONED if seen else AttemptState.PREPARED
        if self.record("exit.json"):
            return AttemptState.ENDING
        return AttemptState.RUNNING if self.record("started.json") else AttemptState.LAUNCHING

    def _given_up(self) -> bool:
        """Refused, and not by an agent that came too late: started.json comes before "go", exit.json instead of it."""
        begun = self.record("started.json") or self.record("exit.json")
        return begun is None and self.record("refused.json") is not None

    def refuse(self, code: str, message: str) -> bool:
        """Give up a dispatch whose shim has not shown itself. False: one has, and from now on it alone decides.

        The shim writes shim.json and then looks for refused.json; this writes refused.json and then looks for shim.json.
        """
        self.write("refused.json", {"code": code, "message": message})
        return not (self.path / "shim.json").exists()

    def connect(self, timeout_s: float = 5.0) -> ShimClient | None:
        """The living shim's socket; None where nobody listens. There is one as soon as `Launcher.launch` has returned."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(timeout_s)
        try:
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                client.connect(door.socket_path(folder))
            finally:
                os.close(folder)
        except OSError:
            client.close()
            return None
        return ShimClient(client)

    def leader(self) -> tuple[int, int] | None:
        """(pid, start_ticks) of the command's shell, where it was started since the machine was."""
        started = self.record("started.json")
        return (started["pid"], started["start_ticks"]) if started and started["boot_id"] == processes.boot_id() else None

    def group(self) -> Group | None:
        """Its control group, where it has one."""
        started, launch = self.record("started.json") or {}, self.record("launch.json") or {}
        return identity.group_of(started.get("cgroup"), launch.get("cgroup", ""), self.key)

    def ending(self) -> Ending:
        """The end of a tree whose shim is dead. Raises ShimLives: then it alone signals, and is asked for it."""
        if self.shim_alive():
            raise ShimLives(self.key)
        return Ending(self.key, leader=self.leader(), group=self.group())

    def tree(self) -> list[processes.Process]:
        """The attempt's living processes, as they can be seen without the shim."""
        return processes.tree(self.key, self.leader(), group=self.group())

    def locks_free(self) -> bool:
        """Whether nobody holds this attempt's device locks; who shares them counts. Raises OSError for one that cannot be tried."""
        return not any(identity.is_taken(path) for path in (self.record("launch.json") or {}).get("locks", ()))


class ShimClient:
    """A connection to a living shim. Reading belongs to one thread; `stop` may be called from any."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        return self._connection.fileno()

    def close(self) -> None:
        self._connection.close()

    def next_event(self, timeout_s: float | None) -> dict[str, Any] | None:
        """The next event, the present state first; None after `timeout_s`. Raises ShimGone."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            if not self._receive(None if deadline is None else max(0.0, deadline - time.monotonic())):
                return None
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer[:] = rest
        event: dict[str, Any] = json.loads(line)
        return event

    def events(self) -> Iterator[dict[str, Any]]:
        """All events until the shim has gone."""
        try:
            while (event := self.next_event(None)) is not None:
                yield event
        except ShimGone:
            return

    def stop(self, reason: protocol.EndReason, kill_grace_s: float) -> bool:
        """Ask for the end of the tree; False where the shim has gone."""
        request = {"do": "stop", "reason": reason, "kill_grace_s": kill_grace_s}
        try:
            self._connection.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            return False
        return True

    def _receive(self, timeout_s: float | None) -> bool:
        try:
            self._connection.settimeout(timeout_s)
            data = self._connection.recv(65536)
        except (TimeoutError, BlockingIOError):
            return False
        except OSError as exc:
            raise ShimGone from exc
        if not data:
            raise ShimGone
        self._buffer += data
        return True


def attempts_folder(settings: Settings) -> Path:
    return settings.host_home / "attempts"


def make_private(folder: Path) -> None:
    """The folder and what is missing above it, for this account only."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def valid_key(key: str) -> bool:
    return _KEY.fullmatch(key) is not None


def all_attempts(settings: Settings) -> list[AttemptDir]:
    """Every attempt directory of this host, oldest dispatch first."""
    folder = attempts_folder(settings)
    names = [name for name in os.listdir(folder) if valid_key(name)] if folder.is_dir() else []
    return sorted((AttemptDir(folder / name) for name in names), key=lambda found: found.fence)
