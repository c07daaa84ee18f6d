"""The agent's watch over an attempt: real shims, a real Redis, and a driver that fails in every way at every time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuworker import protocol, watch
from gpuworker.attempts import AttemptDir, TakenDevice
from gpuworker.claims.store import ClaimStore
from gpuworker.devices.nvml import NvmlBackend
from gpuworker.inventory import Inventory
from gpuworker.link import connect
from gpuworker.protocol import Ended, EndReason, Kind, Spec, Stuck
from gpuworker.relay import Relay
from gpuworker.reports import Reporter
from gpuworker.roster import Roster, Supervised
from gpuworker.watch import Parts, Watcher
from tests.integration.launching import Lab, a_lab, ended, kill, running, shim_pid
from tests.integration.test_escapees import freeze, freezer  # noqa: F401
from tests.nvml_stub import GIB, Driver
from tests.waiting import wait_until

CARD = "GPU-{:08x}-0000-4000-8000-000000000000"
CARDS = [TakenDevice(CARD.format(index), index, str(index)) for index in range(2)]
KEY = b"k" * 32


class Watched:
    """One attempt on both cards, in the care of a thread as in the agent."""

    def __init__(self, lab: Lab, redis_url: str, command: str, **changes: Any) -> None:
        self.link = connect(redis_url, host="lab", key=KEY)
        inventory = Inventory(NvmlBackend(longest_read_s=0.5), lab.settings)
        roster = Roster(lab.settings.host_home / "attempts")
        inventory.set_ours(roster.is_ours)
        inventory.set_trainings(roster.trainings)
        relay = Relay(self.link, lambda tail: None)
        self.watcher = Watcher(Parts(inventory, ClaimStore(self.link.client, "lab"), Reporter(self.link), relay, roster, lambda: None))
        self.spec: Spec = lab.spec(command, device_count=2, **changes)
        self.attempt: AttemptDir = lab.launcher.launch(self.spec, CARDS).attempt  # type: ignore[union-attr]
        self.one = Supervised(self.attempt.key, self.spec, self.attempt, taken=tuple(CARDS), shim_pid=shim_pid(self.attempt))
        roster.enter(self.one)
        self.gate = lab.home / "gate"
        self._thread = threading.Thread(target=self.watcher.watch, args=(self.one,), daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Open the gate that the command waits at; until its tree is empty and on record."""
        self.gate.touch()
        ended(self.attempt)

    def report(self, timeout_s: float = 20) -> Ended:
        wait_until(self.one.over.is_set, timeout_s, "the end was reported")
        assert self.one.ended
        return self.one.ended

    def sent(self, kind: Kind) -> list[Any]:
        entries: Any = self.link.client.xrange(protocol.reports_key("lab"))
        texts = [fields[b"e"] for _, fields in entries if f'"k": "{kind}"'.encode() in fields[b"e"][:80]]
        return [protocol.unseal(kind, "lab", text, [KEY]) for text in texts]

    def close(self) -> None:
        self.watcher.leave()
        self._thread.join()
        self.link.client.close()


Start = Callable[..., Watched]


@pytest.fixture
def start(driver: Driver, redis_url: str) -> Iterator[Start]:
    made: list[Watched] = []
    with a_lab(stuck_after_s=0.3) as lab:

        def start(command: str = "", **changes: Any) -> Watched:
            waits = f"while [ ! -e {lab.home}/gate ]; do sleep 0.05; done; exit 0"
            made.append(Watched(lab, redis_url, command or waits, **changes))
            return made[-1]

        yield start
        driver.tell(drop=("hang",))
        for watched in made:
            watched.close()


def works(watched: Watched, driver: Driver) -> None:
    """Its command holds 3 GiB of the first card."""
    pid = running(watched.attempt).leader()[0]  # type: ignore[index]
    driver.card(0, compute=f"{pid}:{3 * GIB}", memory="40960 600 3072", util=90)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"compute": "", "memory": "40960 600 3072"}, "3,072 MiB of it are in use by processes that cannot be seen from here."),
        ({"lost": "!15"}, "NVML: GPU is lost."),
        ({"lost": "!16"}, "NVML: GPU requires restart."),
        ({"lost": "!999"}, "NVML: Unknown Error."),
        ({"memory": "!3", "compute": "!3"}, "Neither its memory nor its processes can be read."),
        ({"handle": "!15"}, "NVML: GPU is lost."),
    ],
    ids=["memory never freed", "lost", "needs a reset", "garbage", "tells nothing", "fallen off the bus"],
)
def test_card_that_breaks_under_a_training_is_not_clean(
    start: Start,
    driver: Driver,
    monkeypatch: pytest.MonkeyPatch,
    told: dict[str, str],
    why: str,
) -> None:
    monkeypatch.setattr(watch, "UNCLEAN_AFTER_S", 0.5)
    watched = start()
    watched.watcher._parts.inventory.refresh()
    works(watched, driver)
    driver.card(0, **told)
    watched.end()
    report = watched.report()
    assert (report.reason, report.exit_code, report.unclean) == (EndReason.EXITED, 0, {CARD.format(0): why})


def test_card_that_disappears_under_a_training_is_not_clean(start: Start, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "UNCLEAN_AFTER_S", 0.5)
    watched = start()
    watched.watcher._parts.inventory.refresh()
    driver.tell(count=1)
    watched.end()
    assert watched.report().unclean == {CARD.format(1): "It has disappeared: NVML does not list it any more."}


def test_driver_that_hangs_while_a_training_ends_holds_nothing_up(start: Start, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "UNCLEAN_AFTER_S", 0.5)
    watched = start()
    works(watched, driver)
    driver.tell(hang="nvmlDeviceGetMemoryInfo")
    watched.end()
    unclean = watched.report().unclean
    assert unclean.keys() == {CARD.format(0), CARD.format(1)}
    assert all("NVML has not answered" in why for why in unclean.values())


def test_memory_that_comes_back_late_is_waited_for(start: Start, driver: Driver) -> None:
    watched = start()
    works(watched, driver)
    watched.end()
    assert not watched.one.over.is_set()
    driver.card(0)
    report = watched.report()
    assert (report.exit_code, report.unclean) == (0, {})
    assert len(watched.sent(Kind.ENDED)) == 1


def test_card_that_a_stranger_has_taken_meanwhile_is_busy_and_not_unclean(start: Start, driver: Driver) -> None:
    watched = start()
    running(watched.attempt)
    driver.card(1, compute=f"{os.getpid()}:{2 * GIB}", memory="40960 600 2048")
    watched.end()
    assert watched.report().unclean == {}


# --- what does not die, and who was killed ------------------------------------------------------------------------------


@pytest.mark.parametrize("shim_dies", [False, True])
def test_what_does_not_die_is_reported_before_the_end(start: Start, freezer: Path, shim_dies: bool) -> None:  # noqa: F811
    watched = start("sleep 60")
    pid = running(watched.attempt).leader()[0]  # type: ignore[index]
    freeze(freezer, pid)
    if shim_dies:
        kill(shim_pid(watched.attempt))
    watched.watcher.stop(watched.one, 0)
    wait_until(lambda: watched.sent(Kind.STUCK), 20, "a report")
    stuck = Stuck.read(watched.sent(Kind.STUCK)[0])
    assert (stuck.job, len(stuck.processes)) == (watched.spec.job, 1)
    assert stuck.processes[0].startswith(f"sleep (pid {pid}, state ")
    assert not watched.one.over.is_set()
    assert watched.attempt.tree()
    (freezer / "freezer.state").write_text("THAWED")
    assert watched.report().reason is EndReason.CANCELLED


def test_killed_command_is_told_from_one_that_we_ended(start: Start) -> None:
    watched = start("kill -9 $$")
    report = watched.report()
    assert (report.signal, report.host_oom) == (9, False)
    assert report.message.startswith("Not AutoTrainer killed it: ")
    stopped = start("trap '' TERM; sleep 60 & wait; wait")
    running(stopped.attempt)
    stopped.watcher.stop(stopped.one, 0)
    assert (stopped.report().signal, stopped.report().message) == (9, "")


def test_command_that_the_kernel_ended_for_lack_of_memory_is_told(start: Start) -> None:
    limited = Path(f"/sys/fs/cgroup/memory/at-test-{os.getpid()}")
    try:
        limited.mkdir()
        (limited / "memory.limit_in_bytes").write_text(str(64 * 2**20))
    except OSError as exc:
        pytest.skip(f"no memory can be limited here: {exc}")
    watched = start(f"echo $$ > {limited}/cgroup.procs; exec {sys.executable} -c 'b = bytearray(500 * 2**20)'")
    try:
        report = watched.report(60)
        assert report.signal == 9
        assert "the host's memory ran out" in report.message
    finally:
        limited.rmdir()


def test_trainings_are_chosen_before_what_keeps_them(start: Start) -> None:
    watched = start("cat /proc/self/oom_score_adj; exit 0")
    watched.report()
    assert int(watched.attempt.log_path.read_text()) >= 500
    ours = "from gpuworker.shim import hostmemory; hostmemory.keep(); print(open('/proc/self/oom_score_adj').read())"
    kept = int(subprocess.run([sys.executable, "-c", ours], capture_output=True, text=True, check=True).stdout)
    living = start()
    assert int(Path(f"/proc/{shim_pid(living.attempt)}/oom_score_adj").read_text()) == kept <= 0
    living.end()
