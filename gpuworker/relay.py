"""Brings the logs of this host's attempts to the control plane: from the files, in order, at logical offsets.

It lags rather than blocks: nothing here is on the way of a byte to the disk. What is in flight (sent, not acknowledged) is
bounded for each attempt and for the host; while the control plane is away, nothing more is sent. Out-of-memory words are
looked for in all that was written, however far the relay lags behind.

Logical offsets count what was relayed. A log that shrinks (`tee /dev/stderr` truncates the file that it is given) begins a
new segment: what was relayed stays, and the file's first byte comes next.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from gpuworker import protocol
from gpuworker.oom import OomDetector
from gpuworker.protocol import LOG_CHUNK_BYTES, Ack, LogChunk
from gpuworker.shim import records

if TYPE_CHECKING:
    from gpuworker.link import Link

log = logging.getLogger(__name__)

LOG_NAME = "output.log"
SEGMENT_NAME = "segment.json"
POLL_S = 0.1
ATTEMPT_IN_FLIGHT_BYTES = 2**20
ATTEMPT_IN_FLIGHT_CHUNKS = 64
"""A training that prints a line now and then must not fill Redis with tiny chunks while nobody reads them."""
HOST_IN_FLIGHT_BYTES = 16 * 2**20
STALL_S, LONGEST_STALL_S = 3.0, 60.0
SCAN_BYTES = 8 * 2**20
"""Of one log at one poll, so that a flood does not keep the others waiting."""
_BLOCK_BYTES = 256 * 1024
_REMEMBERED_BYTES = 64


@dataclass(frozen=True, slots=True)
class _InFlight:
    end: int
    entry: bytes


class Tail:
    """One attempt's log on its way. Thread-safe; `pump` and `scan` are called by the relay and, at the end, by the runner."""

    def __init__(self, folder: Path, *, job: str, attempt: int, fence: int, adopted: bool) -> None:
        self.key = protocol.attempt_key(job, attempt, fence)
        self.oom = OomDetector()
        self.truncated = False
        self.ended = False
        self._job, self._attempt, self._fence = job, attempt, fence
        self._folder = folder
        self._fd = -1
        self._lock = threading.Lock()
        self._base = _recorded_base(folder)  # logical offset of the file's first byte
        self._sent = self._acked = self._base
        self._in_flight: deque[_InFlight] = deque()
        self._scanned = 0  # a position in the file
        self._before = b""  # the last bytes before it: a file that shrank and grew again gives itself away
        self._probing = adopted  # What the control plane has already, its answer to the first chunk says.
        self._moved_at = time.monotonic()
        self._patience_s = STALL_S

    @property
    def in_flight_bytes(self) -> int:
        return self._sent - self._acked

    @property
    def log_bytes(self) -> int:
        """How long the log is, logically."""
        with self._lock:
            return self._base + self._size()

    @property
    def handed_over(self) -> bool:
        """The attempt is over and the control plane has all of its log."""
        with self._lock:
            return self.ended and self._acked >= self._base + self._size()

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    # --- reading --------------------------------------------------------------------------------------------------------

    def scan(self, most_bytes: float) -> bool:
        """Look for out-of-memory words in what is new, and for a truncation; whether there was anything."""
        with self._lock:
            size = self._size()
            if size < self._scanned or (size > self._scanned and not self._follows()):
                self._begin_segment()
            begin = self._scanned
            while self._scanned < size and self._scanned - begin < most_bytes:
                data = os.pread(self._fd, min(_BLOCK_BYTES, size - self._scanned), self._scanned)
                if not data:
                    break
                self._scanned += len(data)
                self.oom.feed(data)
                self._before = data[-_REMEMBERED_BYTES:]
            return self._scanned > begin

    def _follows(self) -> bool:
        return os.pread(self._fd, len(self._before), self._scanned - len(self._before)) == self._before

    def _begin_segment(self) -> None:
        self._base = self._sent
        self._scanned, self._before = 0, b""
        self.oom.cut()
        self.truncated = True
        records.write_record(self._folder, SEGMENT_NAME, {"base": self._base}, durable=False)
        log.warning("The command truncated its own log", extra={"action": "log_truncated", "attempt_key": self.key})

    def _size(self) -> int:
        if self._fd < 0:
            try:
                self._fd = os.open(self._folder / LOG_NAME, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return 0
        return os.fstat(self._fd).st_size

    # --- sending --------------------------------------------------------------------------------------------------------

    def pump(self, link: Link, *, room_bytes: int, last: bool = False) -> int:
        """Send what may be sent; how many bytes. `last`: nothing more will come, many small chunks do not matter now.

        Raises redis.RedisError; what was not taken is sent again.
        """
        with self._lock:
            room = min(room_bytes, ATTEMPT_IN_FLIGHT_BYTES - (self._sent - self._acked))
            chunks = self._next_chunks(room, most=10**6 if last else ATTEMPT_IN_FLIGHT_CHUNKS - len(self._in_flight))
            if not chunks:
                return 0
            pipe = link.client.pipeline(transaction=False)
            for chunk in chunks:
                fields: dict[Any, Any] = dict(protocol.seal_chunk(link.host, chunk, link.key))
                pipe.xadd(protocol.logs_key(link.host), fields)
            for chunk, entry in zip(chunks, pipe.execute(), strict=True):
                self._sent = chunk.offset + len(chunk.data)
                self._in_flight.append(_InFlight(self._sent, entry))
            if len(self._in_flight) == len(chunks):
                self._moved_at = time.monotonic()
            return sum(len(chunk.data) for chunk in chunks)

    def _next_chunks(self, room: int, *, most: int) -> list[LogChunk]:
        if self._probing:
            most = 0 if self._in_flight else 1
        size, position = self._size(), self._sent - self._base
        chunks: list[LogChunk] = []
        while len(chunks) < most and position < size and room > 0:
            data = os.pread(self._fd, min(LOG_CHUNK_BYTES, room, size - position), position)
            if not data:
                break
            chunks.append(LogChunk(job=self._job, attempt=self._attempt, fence=self._fence, offset=self._base + position, data=data))
            position += len(data)
            room -= len(data)
        return chunks

    def acknowledged(self, offset: int) -> None:
        """The control plane has stored this much: more than was sent after an adoption, less than before after a restored backup."""
        with self._lock:
            if offset != self._acked:
                self._moved_at = time.monotonic()
                self._patience_s = STALL_S
            self._probing = False
            if not self._acked <= offset <= self._sent:
                self._go_to(offset)
            self._acked = offset
            while self._in_flight and self._in_flight[0].end <= offset:
                self._in_flight.popleft()

    def recover(self, link: Link) -> bool:
        """Where acknowledgements stopped and what was sent is no longer in the stream: send it again. Raises redis.RedisError."""
        with self._lock:
            if not self._in_flight or time.monotonic() - self._moved_at < self._patience_s:
                return False
            self._moved_at = time.monotonic()
            self._patience_s = min(LONGEST_STALL_S, 2 * self._patience_s)
            newest = self._in_flight[-1].entry
            if link.client.xrange(protocol.logs_key(link.host), newest, newest, count=1):
                return False  # The control plane has not read it yet.
            self._go_to(self._acked)
            return True

    def _go_to(self, offset: int) -> None:
        self._in_flight.clear()
        if offset < self._base:
            self._base = offset  # What was before is in no file any more; the segment moves up to what is stored.
        self._sent = offset


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
            time.sleep(POLL_S)

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


def _recorded_base(folder: Path) -> int:
    found = records.read_record(folder, SEGMENT_NAME) or {}
    base = found.get("base")
    return base if isinstance(base, int) and base >= 0 else 0
