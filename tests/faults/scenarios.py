"""How each failpoint is reached: the least that has to happen in the product for somebody to come there.

A scenario submits what it needs, brings the process to its place, and answers the failpoints that must have fired by then;
what follows (starting again what died, waiting for the end, the judgement) is the caller's.
"""

from __future__ import annotations

import fcntl
import signal
from collections.abc import Callable
from pathlib import Path

from gpuworker.failpoints import FAILPOINTS
from tests.faults.stack import Stack
from tests.waiting import wait_until

FIRES_WITHIN_S = 45.0

Scenario = Callable[[Stack, str], None]


def run(stack: Stack, point: str) -> None:
    """One job that completes."""
    stack.arm(f"{point}:kill")
    stack.submit_surely(stack.witness(0))
    fires(stack, point)


def retry(stack: Stack, point: str) -> None:
    """A job that fails once and completes."""
    stack.arm(f"{point}:kill")
    stack.submit_surely(stack.witness(3, 0), max_retries=1, retry_delay_s=0.2)
    fires(stack, point)


def after(first: str) -> Scenario:
    """A job whose launch goes wrong at `first`, so that somebody has to clean up, and dies at that."""

    def scenario(stack: Stack, point: str) -> None:
        stack.arm(f"{first}:kill", f"{point}:kill")
        stack.submit_surely(stack.witness(0))
        fires(stack, first)
        fires(stack, point)

    return scenario


def adopt(stack: Stack, point: str) -> None:
    """An agent that dies over a running training, and the next one at taking it over."""
    gate = stack.gate()
    job = stack.submit_surely(stack.witness(0, gate=gate))
    began(stack, job)
    stack.arm(f"{point}:kill")
    stack.kill("agent")
    fires(stack, point)
    gate.touch()


def adopt_an_end(stack: Stack, point: str) -> None:
    """An agent that dies over an end which nobody has acknowledged, and the next one at telling it again."""
    gate = stack.gate()
    job = stack.submit_surely(stack.witness(0, gate=gate))
    began(stack, job)
    stack.arm("agent.end_written:kill", f"{point}:kill")
    stack.kill("control", number=signal.SIGSTOP)  # or it may be acknowledged before ended.json is on the disk
    gate.touch()
    fires(stack, "agent.end_written")
    fires(stack, point)
    stack.kill("control", number=signal.SIGCONT)


def swap(stack: Stack, point: str) -> None:
    """A job that sees another file in the place of one, and one where none is."""
    stack.keep_an_eye_on("loss.py", b"the original\n")
    stack.keep_an_eye_on("made/for_it.py", None)
    stack.arm(f"{point}:kill")
    swaps = [{"target": name, "content": "another\n"} for name in ("loss.py", "made/for_it.py")]
    stack.submit_surely(stack.witness(0), swaps=swaps)
    fires(stack, point)


def cancel(stack: Stack, point: str) -> None:
    """A running job that is cancelled."""
    job = stack.submit_surely(stack.witness(0, gate=stack.gate()))
    began(stack, job)
    stack.arm(f"{point}:kill")
    stack.cancel_surely(job)
    fires(stack, point)


def cancel_before_the_spec(stack: Stack, point: str) -> None:
    """The stop reaches a host that has not heard of the job: the control worker died before it sent the offer."""
    stack.arm("scheduler.committed:kill", f"{point}:kill")
    job = stack.submit_surely(stack.witness(0))
    wait_until(lambda: stack.fired("scheduler.committed"), FIRES_WITHIN_S, "scheduler.committed fires")
    stack.cancel_surely(job)
    fires(stack, point)


def busy_device(stack: Stack, point: str) -> None:
    """Somebody locks the devices between the agent's look and the shim."""
    stack.arm("agent.looked:stop", f"{point}:kill")
    stack.submit_surely(stack.witness(0))
    wait_until(lambda: stack.is_stopped("agent"), FIRES_WITHIN_S, "the agent stands still")
    held = [path.open("a") for path in lock_files(stack)]
    for file in held:
        fcntl.flock(file, fcntl.LOCK_EX)
    stack.kill("agent", number=signal.SIGCONT)
    fires(stack, point)
    for file in held:
        file.close()


SCENARIOS: dict[str, Scenario] = {
    "retry.sending": retry,
    "retry.sent": retry,
    "adopt.looked": adopt,
    "adopt.entered": adopt,
    "adopt.published": adopt,
    "adopt.refusal_told": after("agent.directory_made"),
    "adopt.end_told": adopt_an_end,
    "agent.refusal_told": after("shim.seen"),
    "ingest.refusal_uncommitted": after("shim.seen"),
    "shim.refusal_written": busy_device,
    "stop.committed": cancel,
    "stop.sent": cancel,
    "stop.heard": cancel,
    "stop.passed_on": cancel,
    "stop.refusal_left": cancel_before_the_spec,
    "shim.stop_heard": cancel,
    "shim.tree_signalled": cancel,
    **{point: swap for point in FAILPOINTS if point.startswith("swap.")},
}
"""For who does not come along with any job."""

EXIT_IS_LOST = ("shim.start_written", "shim.let_go", "shim.exit_writing")
"""A shim that dies here takes the exit code with it, and its job starts again at the cost of the infrastructure budget."""


def try_failpoint(stack: Stack, point: str) -> None:
    """Kill whoever comes to this place, start it again, and judge."""
    stack.shims_killed += point in EXIT_IS_LOST
    SCENARIOS.get(point, run)(stack, point)
    stack.settle()
    stack.disarm()


def fires(stack: Stack, point: str) -> None:
    """Wait for it; a process that died on the way there is started again."""

    def fired() -> bool:
        stack.revive()
        return stack.fired(point)

    wait_until(fired, FIRES_WITHIN_S, f"{point} fires ({FAILPOINTS[point]})")


def began(stack: Stack, job: int) -> None:
    wait_until(lambda: stack.began(job), FIRES_WITHIN_S, f"job {job} begins")


def lock_files(stack: Stack) -> list[Path]:
    return sorted((stack.settings.host_home / "locks").glob("*.lock"))
