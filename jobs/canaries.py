"""Puts a canary into each host's queue every now and then. What comes of it, the hosts' heartbeats tell (`Beat.deaf_s`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from gpuworker import protocol
from jobs import hostlink
from jobs.hostlink import Heard


class Canaries:
    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sent_at = float("-inf")

    def send(self, heard: Iterable[tuple[str, Heard]]) -> None:
        """To each of these hosts that knows what a canary is; nothing where it is not time yet."""
        if self._clock() - self._sent_at < protocol.CANARY_EVERY_S:
            return
        self._sent_at = self._clock()
        for name, host in heard:
            if host.beat.deaf_s is not None:
                hostlink.canary(name)
