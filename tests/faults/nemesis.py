"""Who strikes at a running stack: blows at random moments, counted, with what they met.

A blow that meets no training proves nothing, so each count says how many did.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

from gpuworker import protocol
from gpuworker.protocol import Beat, Kind
from gpuworker.settings import host_key
from gpuworker.shim import processes
from tests.e2e.product import command_line, environments
from tests.faults.stack import HOST, SECOND, SECOND_WEB, Stack
from tests.waiting import wait_until

ADOPTED_WITHIN_S = 60.0
"""What a round gives up after; what is promised is measured and printed."""
UP_FIRST = 0.75


def rest(seconds: float) -> None:
    """Let time pass: for once, chance is what is wanted."""
    threading.Event().wait(seconds)


class Nemesis:
    """Blows against one stack. Seeded: the same seed strikes at the same kinds in the same order."""

    def __init__(self, stack: Stack, rng: random.Random, *, pause_s: float = 1.0, redis_stop_s: float = 2.0) -> None:
        self.stack, self.rng = stack, rng
        self.pause_s, self.redis_stop_s = pause_s, redis_stop_s
        self.counts: Counter[str] = Counter()
        self.met = 0
        """Blows that fell while a training ran."""
        self.adopted_s: list[float] = []
        self._struck_at = 0.0

    @property
    def struck(self) -> int:
        return self.counts.total()

    def strike(self, kind: str) -> None:
        """Wait for a random moment, and strike: mostly at a product that is up, else at one that is starting."""
        if self.rng.random() < UP_FIRST:
            self._until_up()
        rest(self.rng.uniform(0, self.pause_s))
        self.met += bool(self.running())
        self.counts[kind] += 1
        BLOWS[kind](self)
        self._struck_at = time.time()

    def _until_up(self) -> None:
        """What has died runs again, and the agent says that it has what it left behind."""

        def up() -> bool:
            self.stack.revive()
            return self._adopted(self._struck_at) and self.stack.answers()

        wait_until(up, ADOPTED_WITHIN_S, "the product is up again", every_s=0.05)

    def running(self) -> set[int]:
        """Jobs whose training runs at this moment, by its own words."""
        return {run.job for run in self.stack.runs() if run.stopped is None}

    # --- blows ----------------------------------------------------------------------------------------------------------

    def agent(self) -> None:
        self.stack.kill("agent")
        self.stack.revive()

    def control(self) -> None:
        """All of the control plane but the database."""
        self.stack.kill("web", "control")
        self.stack.revive()

    def redis_killed(self) -> None:
        self.stack.kill("redis")
        self.stack.revive()

    def redis_flushed(self) -> None:
        wait_until(lambda: self.stack.asked(lambda client: client.flushall()), 10, "Redis is emptied")

    def redis_stopped(self) -> None:
        self.stack.kill("redis", number=signal.SIGSTOP)
        rest(self.redis_stop_s)
        self.stack.kill("redis", number=signal.SIGCONT)

    def everything(self) -> None:
        """All services and the zygote at one blow; then the time until the next agent says that it has what runs."""
        began, at = time.monotonic(), time.time()
        zygotes = self._shims(of_agent=True)
        self.stack.kill("agent", "web", "control", "redis")
        for pid in zygotes:
            _kill(pid)
        self.stack.revive()
        wait_until(lambda: self._adopted(at), ADOPTED_WITHIN_S, "what runs is adopted", every_s=0.05)
        self.adopted_s.append(time.monotonic() - began)

    def rolling(self) -> None:
        """An upgrade: each half of the services in turn is asked to end and started again, and people go on submitting meanwhile."""
        for half in (("web", "control"), (SECOND_WEB, SECOND), ("agent",), ("redis",)):
            at = time.time()
            for name in half:
                self.stack.stop_service(name)
            self.stack.submit_surely(self.stack.witness(seconds=0.1))
            self.stack.revive()
            wait_until(lambda at=at: self._adopted(at) and self.stack.answers(), ADOPTED_WITHIN_S, "the product is up again", every_s=0.05)

    def shim(self) -> None:
        """Any one shim."""
        pids = self._shims(of_agent=False)
        if pids:
            self.stack.shims_killed += 1
            _kill(self.rng.choice(pids))

    def offer_repeated(self) -> None:
        """A message comes twice: of a training that runs, or that is long over."""
        if offered := self.stack.offered():
            self.stack.offer_again(self.rng.choice(offered[-20:]))

    def service_stopped(self) -> None:
        """A pause of one service, as swapping or a debugger make it."""
        name = self.rng.choice(("agent", "control", "web"))
        self.stack.kill(name, number=signal.SIGSTOP)
        rest(self.rng.uniform(0.1, 2.0))
        self.stack.kill(name, number=signal.SIGCONT)

    # --- looking --------------------------------------------------------------------------------------------------------

    def _shims(self, *, of_agent: bool) -> list[int]:
        """The agent's own child is the zygote; the others are shims, but for commands that wait for "go" below one."""
        home, agent = f"AUTOTRAINER_HOME={self.stack.home}".encode(), self.stack.services["agent"].pid
        found: dict[int, int] = {}
        for pid, variables in environments():
            process = processes.read_process(pid)
            if process and home in variables and b"gpuworker.shim" in command_line(pid) and (process.parent == agent) == of_agent:
                found[pid] = process.parent
        return sorted(pid for pid, parent in found.items() if parent not in found)

    def _adopted(self, since: float) -> bool:
        """Whether a heartbeat of after the blow lists all that runs."""
        text = self.stack.asked(lambda client: client.get(protocol.beat_key(HOST)))
        if not isinstance(text, bytes):
            return False
        beat = Beat.read(protocol.unseal(Kind.BEAT, HOST, text, [host_key(self.stack.settings)]))
        uids = {uid.replace("-", "") for uid in (attempt.job for attempt in beat.attempts if attempt.running)}
        rows = {number: uid for number, uid in self.stack.rows("SELECT id, uid FROM jobs_job")}
        return beat.at > since and {rows[job] for job in self.running()} <= uids


BLOWS: dict[str, Callable[[Nemesis], None]] = {
    "agent": Nemesis.agent,
    "control": Nemesis.control,
    "redis_killed": Nemesis.redis_killed,
    "redis_flushed": Nemesis.redis_flushed,
    "redis_stopped": Nemesis.redis_stopped,
    "everything": Nemesis.everything,
    "rolling": Nemesis.rolling,
    "shim": Nemesis.shim,
    "offer_repeated": Nemesis.offer_repeated,
    "service_stopped": Nemesis.service_stopped,
}


def _kill(pid: int) -> None:
    process = processes.read_process(pid)
    if process:
        processes.send_signal(process, signal.SIGKILL)
