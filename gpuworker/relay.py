"""Brings the logs of this host's attempts to the control plane, all in one thread; gpuworker.tail has one of them each.

It lags rather than blocks: nothing here is on the way of a byte to the disk. What is in flight (sent, not acknowledged) is
bounded for each attempt and for the host; while the control plane is away, nothing more is sent. Out-of-memory words are
looked for in all that was written, however far the relay lags behind.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import redis

from gpuworker import protocol
from gpuworker.protocol import Ack
from gpuworker.tail import Tail

if TYPE_CHECKING:
    from gpuworker.link import Link

log = logging.getLogger(__name__)

POLL_S = 0.1
HOST_IN_FLIGHT_BYTES = 16 * 2**20
SCAN_BYTES = 8 * 2**20
"""Of one log at one poll, so that a flood does not keep the others waiting."""


class Relay:
    """One thread for the logs of all attempts."""

    def __init__(self, link: Link, handed_over: Callable[[Tail], None]) -> None:
        self._link, self._handed_over = link, handed_over
        self._tails: dict[str, Tail] = {}
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._stopped = False
        self._redis_away = False

    def start(self) -> None:
        threading.Thread(target=self._run, name="relay", daemon=True).start()

    def stop(self) -> None:
        self._stopped = True
        self._some.set()

    def add(self, tail: Tail) -> None:
        with self._lock:
            self._tails[tail.key] = tail
        self._some.set()

    def has(self, key: str) -> bool:
        with self._lock:
            return key in self._tails

    def drop(self, tail: Tail) -> None:
        """Nothing of it will ever be relayed: it never started."""
        with self._lock:
            self._tails.pop(tail.key, None)
        tail.close()

    def finish(self, tail: Tail) -> None:
        """Call when the attempt's tree is empty: all of its log is looked through, and sent as far as there is room."""
        tail.scan(float("inf"))
        try:
            tail.pump(self._link, room_bytes=self._room(), last=True)
        except redis.RedisError as exc:
            log.warning("The end of a log waits until Redis is back: %s", exc, extra={"action": "log_waits", "attempt_key": tail.key})
        tail.ended = True

    def acknowledged(self, ack: Ack) -> None:
        with self._lock:
            tail = self._tails.get(protocol.attempt_key(ack.job, ack.attempt, ack.fence))
        if tail:
            tail.acknowledged(ack.offset)
            if tail.ended:
                self._some.set()  # Nobody's training is slowed down by it any more: the rest goes as fast as it is taken.

    def _room(self) -> int:
        return HOST_IN_FLIGHT_BYTES - sum(tail.in_flight_bytes for tail in self._all())

    def _all(self) -> Sequence[Tail]:
        with self._lock:
            return list(self._tails.values())

    def _run(self) -> None:
        while not self._stopped:
            if not self._all():
                self._some.wait()
                self._some.clear()
            self._round()
            self._some.wait(POLL_S)
            self._some.clear()

    def _round(self) -> None:
        for tail in self._all():
            try:
                tail.scan(SCAN_BYTES)
                self._send(tail)
            except redis.RedisError as exc:
                self._note_away(exc)
                return
            except Exception:
                log.exception("A log could not be relayed", extra={"action": "relay_failed", "attempt_key": tail.key})
        self._redis_away = False

    def _send(self, tail: Tail) -> None:
        tail.recover(self._link)
        tail.pump(self._link, room_bytes=self._room())
        if tail.handed_over:
            self.drop(tail)
            self._handed_over(tail)

    def _note_away(self, exc: redis.RedisError) -> None:
        if not self._redis_away:
            log.warning("Logs wait until Redis is back: %s", exc, extra={"action": "relay_waits"})
        self._redis_away = True
