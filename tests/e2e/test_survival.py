"""A running training outlives the services that started it, with its exit code and its whole log."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from gpuworker.shim import processes
from tests.e2e.product import Product, alive, kill
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

LINES = 400


class Counting:
    """A training that counts slowly until it is told to hurry, and ends with exit code 3."""

    def __init__(self, product: Product, name: str) -> None:
        self.product = product
        self._hurry = product.work / f"{name}-hurry"
        script = product.work / f"{name}.sh"
        script.write_text(f"for i in $(seq {LINES}); do echo line $i; test -e {self._hurry} || sleep 0.05; done; exit 3\n")
        self.job_id = int(product.submit(f"sh {script}", name=name)["id"])
        product.wait(self.job_id, "running")
        self.pids = wait_until(lambda: product.trainings(self.job_id), 5, "the training's processes")

    def lines_so_far(self) -> int:
        return self.product.log(self.job_id).count(b"\n")

    def hurry(self) -> None:
        self._hurry.touch()

    def ends_whole(self) -> None:
        """It was one attempt, its own exit code arrived, and no line is missing or doubled."""
        self.hurry()
        job = self.product.wait(self.job_id, "failed", timeout_s=60)
        assert [(a["outcome"], a["exit_code"]) for a in job["attempts"]] == [("failed", 3)]
        wait_until(lambda: self.lines_so_far() >= LINES, 15, "the whole log is stored")
        assert self.product.log(self.job_id).decode().split("\n") == [*(f"line {i}" for i in range(1, LINES + 1)), ""]


@pytest.fixture
def training(product: Product, request: pytest.FixtureRequest) -> Iterator[Counting]:
    counting = Counting(product, request.node.name)
    yield counting
    counting.hurry()


def shell_of(pids: list[int]) -> int:
    """The training's first process: its pid is still the same after a restart that left it alone."""
    living = [process for pid in pids if (process := processes.read_process(pid))]  # Others of it come and go.
    return min(living, key=lambda process: process.start_ticks).pid


def test_training_goes_on_and_is_adopted_when_the_agent_is_killed(product: Product, training: Counting) -> None:
    first, agent = shell_of(training.pids), product.agent_pid()
    kill(agent)
    wait_until(lambda: not alive(agent), 5, "the agent is dead")
    assert alive(first)
    before = wait_until(lambda: product.pids("agent") and product.agent_pid() != agent, 30, "another agent runs")
    assert before
    seen = training.lines_so_far()
    wait_until(lambda: training.lines_so_far() > seen, 30, "the log goes on")
    assert alive(first)
    training.ends_whole()


def test_training_goes_on_when_the_whole_product_is_restarted(product: Product, training: Counting) -> None:
    first = shell_of(training.pids)
    product.stop()
    assert product.pids("web") == product.pids("control") == []
    assert alive(first)
    product.start()
    assert product.job(training.job_id)["state"] == "running"
    assert alive(first)
    training.ends_whole()


def test_exit_code_and_log_arrive_when_the_training_ends_while_nobody_is_there(product: Product, training: Counting) -> None:
    first = shell_of(training.pids)
    product.stop()
    training.hurry()
    wait_until(lambda: not alive(first), 20, "the training has ended by itself")
    product.start()
    training.ends_whole()


def test_cancel_reaches_a_training_that_was_adopted(product: Product, training: Counting) -> None:
    agent = product.agent_pid()
    kill(agent, signal.SIGKILL)
    wait_until(lambda: product.pids("agent") and product.agent_pid() != agent, 30, "another agent runs")
    product.api("POST", f"jobs/{training.job_id}/cancel/")
    job = product.wait(training.job_id, "cancelled")
    assert [a["outcome"] for a in job["attempts"]] == ["cancelled"]
    assert product.trainings(training.job_id) == []


def test_everything_but_the_trainings_is_killed_and_they_are_adopted_at_the_next_start(product: Product, training: Counting) -> None:
    """Prints how long it took; times are for people to judge."""
    first, log = shell_of(training.pids), product.home / "service-logs" / "agent.log"
    before = log.read_text(errors="replace").count("taken over")
    product.kill_all_but_trainings()
    began = time.monotonic()
    product.spawn()
    wait_until(lambda: log.read_text(errors="replace").count("taken over") > before, 60, "the training is taken over")
    print(f"adopted {time.monotonic() - began:.1f} s after the start of `up`")
    product.wait_until_ready()
    assert alive(first)
    seen = training.lines_so_far()
    wait_until(lambda: training.lines_so_far() > seen, 30, "the log goes on")
    assert product.job(training.job_id)["state"] == "running"
    training.ends_whole()
