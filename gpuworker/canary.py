"""Whether this host still hears what is put into its queue. A Celery worker can go deaf without a word (docs/how-it-works.md,
"Repair"): it lives, its heartbeat goes on, and its queue fills.

The control plane puts a canary into the queue every 20 seconds and says so in a key that the agent reads by itself. What
was said and did not come through is counted here. Starting over is harmless, since trainings need no agent.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import redis

from gpuworker import dropped, protocol
from gpuworker.protocol import Canary, Kind

if TYPE_CHECKING:
    from gpuworker.link import Link

log = logging.getLogger(__name__)

START_OVER_AFTER_S = 60.0
LONGEST_PATIENCE_S = 600.0
LONGEST_STEP_S = 10.0
"""What one look may add: a process that was stopped for an hour was not deaf for an hour."""


class Ear:
    """`listen` belongs to one thread; `heard` is called from any."""

    def __init__(self, link: Link, memory: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`memory`: a file that counts how often in a row this host has started over in vain."""
        self._link, self._memory, self._clock = link, memory, clock
        self._lock = threading.Lock()
        self._heard_at = 0.0
        self._looked: float | None = None
        self._deaf_s = 0.0

    @property
    def deaf_s(self) -> float:
        return self._deaf_s

    @property
    def has_had_enough(self) -> bool:
        """Deaf for so long that starting over is due; later from time to time, where that has not helped."""
        return self._deaf_s > min(LONGEST_PATIENCE_S, START_OVER_AFTER_S * 2.0 ** self._in_vain())

    def heard(self, sealed: object) -> None:
        """A canary has come through. Never raises: whoever can write into Redis can send anything."""
        canary = self._opened(sealed)
        if canary is None:
            return
        with self._lock:
            self._heard_at = max(self._heard_at, canary.at)
            self._deaf_s = 0.0
        self._memory.unlink(missing_ok=True)

    def listen(self) -> None:
        """Compare what was promised with what came. Raises redis.RedisError: then nothing is known, and it counts anew."""
        now, last = self._clock(), self._looked
        try:
            promised: Any = self._link.client.get(protocol.canary_key(self._link.host))
        except redis.ResponseError:
            promised = None  # No string lies there: whoever put it there must not stop our heartbeats.
        except redis.RedisError:
            self._looked, self._deaf_s = None, 0.0
            raise
        canary = self._opened(promised) if promised else None
        self._looked = now
        with self._lock:
            if canary and last is None:
                self._heard_at = max(self._heard_at, canary.at)  # It came, or was lost, before we were there to hear it.
            if canary is None or canary.at <= self._heard_at:
                self._deaf_s = 0.0
            else:
                self._deaf_s += 0.0 if last is None else min(now - last, LONGEST_STEP_S)

    def remember_starting_over(self) -> None:
        self._memory.write_text(str(self._in_vain() + 1))

    def _in_vain(self) -> int:
        try:
            return min(10, int(self._memory.read_text()))
        except (OSError, ValueError):
            return 0

    def _opened(self, sealed: object) -> Canary | None:
        """None for what is not the control plane's word, or has expired: an old promise that is replayed counts for nothing."""
        if not isinstance(sealed, str | bytes):
            return None
        try:
            canary = Canary.read(protocol.unseal(Kind.CANARY, self._link.host, sealed, self._link.keys))
        except (protocol.BadEnvelope, protocol.BadMessage) as exc:
            dropped.warn(log, "A canary was dropped: %s", exc, action=dropped.Drop.CANARY)
            return None
        return canary if canary.expires_at > time.time() else None


def start_over() -> NoReturn:
    """Become the same program again, with the same process number, so that whoever supervises us sees no death."""
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own command line
    except OSError:
        os._exit(1)  # Its supervisor starts it again.
