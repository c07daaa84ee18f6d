"""A tree that has outlived its shim: it goes on, is waited for, and is ended where the shim would have ended it.

Only here does the agent's side signal processes of a job, and only once their shim is dead (AttemptDir.ending sees to it).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from gpuworker import identity, logcap
from gpuworker.shim import contact, processes

if TYPE_CHECKING:
    from gpuworker.attempts import AttemptDir
    from gpuworker.roster import Supervised
    from gpuworker.shim.ending import Ending

log = logging.getLogger(__name__)

LOOK_S = 1.0
ENDING_LOOK_S = 0.2


def await_empty(one: Supervised, pause: Callable[[float], None], tell_stuck: Callable[[], None]) -> bool:
    """Until nobody is left and the group is gone. True where the time limit ended it. `pause` may raise to leave."""
    ending = one.attempt.ending()
    launch = one.attempt.record("launch.json") or {}
    ending.stuck_after_s = launch.get("stuck_after_s", ending.stuck_after_s)
    late = False
    while ending.anybody():
        logcap.look_once(one.attempt.path, one.spec.log_limit_bytes)  # Its shim did this.
        late = late or (not ending.begun and _over(one))
        left_s = contact.left_s(launch["contact"]) if launch.get("contact") else math.inf
        if left_s <= one.spec.kill_grace_s:
            ending.begin(max(0.0, left_s))
        elif one.stop_grace_s is not None:
            ending.begin(one.stop_grace_s)
        elif late or not _leader_lives(one.attempt):
            ending.begin(one.spec.kill_grace_s)
        pause(_advance(one.attempt, ending, tell_stuck))
    if ending.group:
        ending.group.remove()
    return late


def _advance(attempt: AttemptDir, ending: Ending, tell_stuck: Callable[[], None]) -> float:
    """Seconds until the next look."""
    if not ending.begun:
        return LOOK_S
    due_s = ending.advance()
    stuck = ending.stuck()
    if stuck is not None:
        try:
            attempt.write("stuck.json", stuck, durable=False)
        except OSError as exc:
            log.error("stuck.json could not be written: %s", exc, extra={"action": "stuck", "attempt_key": attempt.key})
        tell_stuck()
    return min(due_s, ENDING_LOOK_S)


def _leader_lives(attempt: AttemptDir) -> bool:
    """What a command leaves running when it ends is ended too, whoever saw it end."""
    leader = attempt.leader()
    return leader is not None and processes.start_ticks(leader[0]) == leader[1]


def _over(one: Supervised) -> bool:
    """Whether its time limit has passed, by the clock that runs since boot."""
    leader = one.attempt.leader()
    return leader is not None and one.spec.time_limit_s is not None and identity.age_s(leader[1]) >= one.spec.time_limit_s
