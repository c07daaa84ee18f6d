"""Reports to the control plane, said again until it acknowledges them; and its acknowledgements, heard.

A report that is not acknowledged lies in a file of its attempt's directory, so that nothing is lost with this process.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis

from gpuworker import dropped, misplaced, protocol
from gpuworker.measured import Measured
from gpuworker.protocol import Ack, Ended, Kind, Refused, Started, Stuck

if TYPE_CHECKING:
    from gpuworker.link import Link

log = logging.getLogger(__name__)

ACKS_BLOCK_MS = 4000  # below the connection's timeout
AFTER_AN_ERROR_S = 1.0

Report = Started | Stuck | Ended | Refused | Measured
_KINDS: dict[type, Kind] = {
    Started: Kind.STARTED,
    Stuck: Kind.STUCK,
    Ended: Kind.ENDED,
    Refused: Kind.REFUSED,
    Measured: Kind.MEASURED,
}


@dataclass(slots=True)
class _Owed:
    sealed: str
    entry: bytes | None = None
    """Its id in the stream. As long as that entry lies there, the control plane has only not read it yet."""


class Reporter:
    """Thread-safe. Reports of one attempt go out in the order in which they were given."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._key = protocol.reports_key(link.host)
        self._owed: dict[tuple[str, Kind], _Owed] = {}
        self._lock = threading.Lock()

    def send(self, report: Report) -> None:
        """Send now; where Redis is away, with the next `repeat`."""
        kind = _KINDS[type(report)]
        name = protocol.attempt_key(report.job, report.attempt, report.fence)
        owed = _Owed(protocol.seal(kind, self._link.host, report.body(), self._link.key))
        with self._lock:
            if kind in (Kind.STARTED, Kind.STUCK) and (name, Kind.ENDED) in self._owed:
                return  # Repeated by a recovery that came too late for it.
            self._owed[name, kind] = owed
        try:
            self._add(owed)
        except redis.RedisError as exc:
            log.warning("A report waits until Redis is back: %s", exc, extra={"action": "report_waits", "attempt_key": name})

    def acknowledged(self, key: str, what: str) -> None:
        """The control plane has stored this report. An end that is stored makes what came before old news."""
        with self._lock:
            for kind in (Kind.STARTED, Kind.STUCK, Kind.ENDED) if what == Kind.ENDED else (Kind(what),):
                self._owed.pop((key, kind), None)

    def owes(self, key: str, kind: Kind) -> bool:
        with self._lock:
            return (key, kind) in self._owed

    def repeat(self) -> None:
        """Say again what is neither acknowledged nor still waiting in the stream. Raises redis.RedisError."""
        with self._lock:
            owed = list(self._owed.values())
        for one in owed:
            if one.entry is None or not self._lies_there(one.entry):
                self._add(one)

    def _lies_there(self, entry: bytes) -> bool:
        client = self._link.client
        return bool(misplaced.retried(client, {self._key: "stream"}, lambda: client.xrange(self._key, entry, entry, count=1)))

    def _add(self, owed: _Owed) -> None:
        client = self._link.client
        entry: Any = misplaced.retried(client, {self._key: "stream"}, lambda: client.xadd(self._key, {"e": owed.sealed}))
        owed.entry = entry


class AckReader:
    """A thread that hears acknowledgements and hands each to `heard`. Forged ones are logged and dropped."""

    def __init__(self, link: Link, heard: Callable[[Ack], None]) -> None:
        self._link, self._heard = link, heard
        self._key = protocol.acks_key(link.host)
        self._last: Any = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """What was acknowledged before is not read again: a report that is still owed is sent and acknowledged anew."""
        threading.Thread(target=self._run, name="acks", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._read()
            except redis.RedisError as exc:
                log.debug("acknowledgements cannot be read: %s", exc)
                self._clear()
                self._stopped.wait(AFTER_AN_ERROR_S)
            except Exception:
                log.exception("An acknowledgement could not be taken in", extra={"action": "ack_failed"})
                self._stopped.wait(AFTER_AN_ERROR_S)

    def _clear(self) -> None:
        try:
            misplaced.clear(self._link.client, {self._key: "stream"})
        except redis.RedisError as exc:
            log.debug("nor can their key be looked at: %s", exc)

    def _read(self) -> None:
        client = self._link.client
        if self._last is None:
            newest: Any = client.xrevrange(self._key, count=1)
            self._last = newest[0][0] if newest else b"0-0"
        answer: Any = client.xread({self._key: self._last}, count=500, block=ACKS_BLOCK_MS)
        if not answer:
            self._begin_anew_where_redis_did()
        for _, entries in answer or ():
            for entry, fields in entries:
                self._last = entry
                self._take(fields)

    def _begin_anew_where_redis_did(self) -> None:
        """A Redis that was emptied or replaced counts by its own clock: what it says may lie before where we were."""
        newest: Any = self._link.client.xrevrange(self._key, count=1)
        if not newest or _order(newest[0][0]) < _order(self._last):
            self._last = b"0-0"

    def _take(self, fields: dict[bytes, bytes]) -> None:
        try:
            ack = Ack.read(protocol.unseal(Kind.ACK, self._link.host, fields.get(b"e", b""), self._link.keys))
        except (protocol.BadEnvelope, protocol.BadMessage) as exc:
            dropped.warn(log, "An acknowledgement was dropped: %s", exc, action=dropped.Drop.ACK)
            return
        self._heard(ack)


def _order(entry: bytes) -> tuple[int, ...]:
    return tuple(int(part) for part in entry.split(b"-"))
