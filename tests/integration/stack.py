"""A control worker and a host agent as real processes on the test database and a real Redis; the test is the person."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs import lifecycle
from jobs.models import Host as HostRow
from jobs.models import Job, User
from jobs.states import HostState
from tests.integration.database import shared_with
from tests.integration.host import CLUSTER_KEY, HOST, Host
from tests.waiting import wait_until

HASTY = str(Path(__file__).resolve().parent.parent / "programs" / "hasty_control.py")


@dataclass
class Stack:
    agent: Host
    root: Path
    owner: User
    control: subprocess.Popen[bytes] | None = None
    oracle: Path = field(init=False)
    """What trainings append to and the product never reads: `<job> <attempt>`, one line for each start."""

    def __post_init__(self) -> None:
        self.oracle = self.root / "oracle"
        self.oracle.touch()
        self._home = self.root / "control-home"
        self._home.mkdir()
        self._database = shared_with(self._home)

    def start_control(self) -> None:
        env = os.environ | {
            "AUTOTRAINER_HOME": str(self._home),
            "AUTOTRAINER_REDIS_URL": self.agent.url,
            "AUTOTRAINER_CLUSTER_KEY": CLUSTER_KEY.decode(),
            "AUTOTRAINER_HEARTBEAT_S": "0.3",
            **self._database,
        }
        command = [sys.executable, HASTY, "worker", "-P", "threads", "-c", "8", "-Q", "control", "-n", "control@test"]
        with (self.root / "control.log").open("ab") as out:
            self.control = subprocess.Popen(
                [*command, "--without-gossip", "--without-mingle", "-l", "info"], env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    def kill_control(self) -> None:
        assert self.control
        self.control.kill()
        self.control.wait()

    def submit(self, command: str = "exit 1", **fields: Any) -> Job:
        written = f"echo $AUTOTRAINER_JOB_ID $AUTOTRAINER_ATTEMPT >> {self.oracle}; {command}"
        given = {"name": "train", "command": written, "working_dir": str(self.root), "max_gpus": max(1, fields.get("min_gpus", 1))}
        return lifecycle.submit(self.owner, given | fields)

    def starts(self) -> list[tuple[int, int]]:
        """(job, attempt) of each start, as the trainings themselves wrote it."""
        return [(int(job), int(attempt)) for job, attempt in map(str.split, self.oracle.read_text().splitlines())]

    def close(self) -> None:
        if self.control:
            self.kill_control()
        self.agent.close()
        print((self.root / "control.log").read_text()[-6000:], self.agent.words()[-6000:], sep="\n--- agent\n")


@contextmanager
def running_stack(url: str, root: Path, owner: User, **host: Any) -> Iterator[Stack]:
    """`host`: what the agent is started with, as Host takes it."""
    HostRow.objects.create(name=HOST)
    stack = Stack(Host(url, root, **host), root, owner)
    try:
        stack.start_control()
        stack.agent.start()
        wait_until(lambda: HostRow.objects.get().state == HostState.UP, 30, "the host is seen")
        yield stack
    finally:
        stack.close()
