"""`python -m gpuworker.stopall`: stop every training of this host, without its agent. For `up --cancel-jobs`.

The agent must be down: else the control plane fills the devices again as fast as they come free.
"""

from __future__ import annotations

import sys
import time

from gpuworker import settings as environment
from gpuworker.attempts import AttemptDir, ShimClient, ShimGone, all_attempts
from gpuworker.protocol import EndReason

MARGIN_S = 8.0
"""After the grace the shims still kill, wait for the tree to be empty and write it down."""


def main() -> None:
    settings = environment.load_or_exit()
    deadline = time.monotonic() + settings.kill_grace_s + MARGIN_S
    told = {attempt: client for attempt in all_attempts(settings) if (client := _tell(attempt, settings.kill_grace_s))}
    left = [attempt for attempt, client in told.items() if not _gone(client, deadline)]
    if told:
        print(f"{len(told) - len(left)} of {len(told)} running trainings stopped.", flush=True)
    if left:
        sys.exit("Still running: " + ", ".join(str(attempt.path) for attempt in left))


def _tell(attempt: AttemptDir, kill_grace_s: float) -> ShimClient | None:
    """A connection to its shim, which has been told to stop; None where none is alive."""
    client = attempt.connect() if attempt.shim_alive() else None
    return client if client and client.stop(EndReason.CANCELLED, kill_grace_s) else None


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
