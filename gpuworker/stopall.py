"""`python -m gpuworker.stopall`: stop every training of this host, without its agent. For `up --cancel-jobs`.

The agent must be down: else the control plane fills the devices again as fast as they come free.
"""

from __future__ import annotations

import sys
import time

from gpuworker import settings as environment
from gpuworker.attempts import AttemptDir, AttemptState, ShimClient, ShimGone, all_attempts
from gpuworker.protocol import EndReason
from gpuworker.shim.ending import Ending

_LOOK_S = 0.2
MARGIN_S = 8.0
"""After the grace the shims still kill, wait for the tree to be empty and write it down."""


def main() -> None:
    settings = environment.load_or_exit()
    deadline = time.monotonic() + settings.kill_grace_s + MARGIN_S
    attempts = all_attempts(settings)
    told = {attempt: client for attempt in attempts if (client := _tell(attempt, settings.kill_grace_s))}
    alone = {attempt: ending for attempt in attempts if attempt not in told and (ending := _begin(attempt, settings.kill_grace_s))}
    left = [attempt for attempt, client in told.items() if not _gone(client, deadline)]
    left += [attempt for attempt, ending in alone.items() if not _ended(attempt, ending, deadline)]
    if count := len(told) + len(alone):
        print(f"{count - len(left)} of {count} running trainings stopped.", flush=True)
    if left:
        sys.exit("Still running: " + ", ".join(str(attempt.path) for attempt in left))


def _tell(attempt: AttemptDir, kill_grace_s: float) -> ShimClient | None:
    """A connection to its shim, which has been told to stop; None where none is alive."""
    client = attempt.connect() if attempt.shim_alive() else None
    return client if client and client.stop(EndReason.CANCELLED, kill_grace_s) else None


def _begin(attempt: AttemptDir, kill_grace_s: float) -> Ending | None:
    """The end of a tree that has outlived its shim, begun; None where nobody of it lives."""
    if attempt.state() is not AttemptState.ABANDONED:
        return None
    ending = attempt.ending()
    if not ending.anybody():
        return None
    ending.begin(kill_grace_s)
    return ending


def _ended(attempt: AttemptDir, ending: Ending, deadline: float) -> bool:
    """Whether nobody of it is left before the deadline. The next agent finds that on record, and reports it."""
    while ending.anybody():
        if time.monotonic() > deadline:
            return False
        time.sleep(min(_LOOK_S, ending.advance()))
    if attempt.record("exit.json") is None:
        words = "Its shim had died; its processes were ended"
        started_at = (attempt.record("started.json") or {}).get("started_at")
        attempt.write("exit.json", {"reason": EndReason.CANCELLED, "message": words, "started_at": started_at, "ended_at": time.time()})
    return True


def _gone(client: ShimClient, deadline: float) -> bool:
    """Whether the shim has ended before the deadline: it does when its tree is empty."""
    try:
        while (left_s := deadline - time.monotonic()) > 0:
            client.next_event(left_s)
    except ShimGone:
        return True
    return False


if __name__ == "__main__":
    main()
