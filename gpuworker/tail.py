"""One attempt's log on its way to the control plane: read from its file, sent in order, at logical offsets.

Logical offsets count what was relayed. A log that shrinks (`tee /dev/stderr` truncates the file that it is given) begins a
new segment: what was relayed stays, and the file's first byte comes next. Where the shim has cut out the middle of a log
that is over its limit (gpuworker.logcap), the offsets go on counting: the first chunk behind the cut says so.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuworker import logcap, misplaced, protocol
from gpuworker.disks import Cut
from gpuworker.logcap import CUT_NAME, LOG_NAME
from gpuworker.oom import OomDetector
from gpuworker.progress import ProgressReader
from gpuworker.protocol import LOG_CHUNK_BYTES, LogChunk
from gpuworker.shim import processes, records

if TYPE_CHECKING:
    from gpuworker.link import Link

log = logging.getLogger(__name__)

SEGMENT_NAME = "segment.json"
ATTEMPT_IN_FLIGHT_BYTES = 2**20
ATTEMPT_IN_FLIGHT_CHUNKS = 64
"""A training that prints a line now and then must not fill Redis with tiny chunks while nobody reads them."""
STALL_S, LONGEST_STALL_S = 3.0, 60.0
NOTE_EVERY_S = 5.0
"""How often it is written down how far the log has been looked through."""
SHORTER_FOR_S = 5.0
"""Where files have no holes, a log is shorter for an instant while its middle is cut out. One that stays so was truncated."""
_BLOCK_BYTES = 256 * 1024
_REMEMBERED_BYTES = 64


@dataclass(frozen=True, slots=True)
class _InFlight:
    end: int
    size: int
    entry: bytes


class Tail:
    """Thread-safe; `pump` and `scan` are called by the relay and, at the end, by who concludes the attempt."""

    def __init__(self, folder: Path, *, job: str, attempt: int, fence: int, adopted: bool) -> None:
        self.key = protocol.attempt_key(job, attempt, fence)
        self.oom = OomDetector()
        self._progress = ProgressReader()
        self._caught_up = not adopted
        self.truncated = False
        self.ended = False
        self._job, self._attempt, self._fence = job, attempt, fence
        self._folder = folder
        self._fd = -1
        self._lock = threading.Lock()
        self._scanned = 0  # a position in the file
        self._before = b""  # the last bytes before it: a file that shrank and grew again gives itself away
        self._noted_at = time.monotonic()
        self._moved_at = time.monotonic()
        self._patience_s = STALL_S
        self._probing = adopted  # What the control plane has already, its answer to the first chunk says.
        self._in_flight: deque[_InFlight] = deque()
        self._flying_bytes = 0
        noted = records.read_record(folder, SEGMENT_NAME) or {}
        self._base = _whole(noted.get("base"))  # logical offset of the file's first byte
        self._unseen_truncation = adopted and self._changed_since(noted)
        self._sent = self._acked = self._base

    @property
    def in_flight_bytes(self) -> int:
        return self._flying_bytes

    @property
    def log_bytes(self) -> int:
        """How long the log is, logically."""
        with self._lock:
            return self._base + self._size()

    @property
    def cut_bytes(self) -> int:
        """How much of its middle is gone."""
        with self._lock:
            cut = self._cut()
            return cut.end - cut.begin if cut else 0

    @property
    def handed_over(self) -> bool:
        """The attempt is over and the control plane has all of its log."""
        with self._lock:
            return self.ended and not self._unseen_truncation and self._acked >= self._base + self._size()

    @property
    def progress(self) -> float | None:
        """0…1; None where the log does not tell, or where one that was taken over has not been read through again."""
        return self._progress.fraction if self._caught_up else None

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    # --- reading --------------------------------------------------------------------------------------------------------

    def scan(self, most_bytes: float) -> bool:
        """Look for out-of-memory words and progress in what is new, and for a truncation; whether there was anything."""
        with self._lock:
            size = self._size()
            if size < self._scanned and self._being_cut(size):
                return False
            if size < self._scanned or (size > self._scanned and not self._follows()):
                self._begin_segment(self._sent)
            begin = self._scanned
            while self._scanned < size and self._scanned - begin < most_bytes:
                if not self._scan_block(size):
                    break
            self._caught_up |= self._scanned >= size
            if self._scanned > begin:
                self._note()
            return self._scanned > begin

    def _scan_block(self, size: int) -> bool:
        cut = self._cut()
        if cut and cut.begin <= self._scanned < cut.end:
            self._scanned, self._before = cut.end, b""
            self.oom.cut()
            self._progress.cut()
            return True
        data = os.pread(self._fd, min(_BLOCK_BYTES, size - self._scanned), self._scanned)
        self._scanned += len(data)
        self.oom.feed(data)
        self._progress.feed(data)
        self._before = data[-_REMEMBERED_BYTES:]
        return bool(data)

    def _follows(self) -> bool:
        """Whether what was read last is still there, or was cut out."""
        begin = self._scanned - len(self._before)
        if os.pread(self._fd, len(self._before), begin) == self._before:
            return True
        cut = self._cut()
        return cut is not None and cut.begin < self._scanned and begin < cut.end

    def _begin_segment(self, base: int) -> None:
        self._base = base
        self._scanned, self._before = 0, b""
        self.oom.cut()
        self._progress.cut()
        self.truncated = True
        self._note(at_once=True)
        log.warning("The command truncated its own log", extra={"action": "log_truncated", "attempt_key": self.key})

    def _note(self, *, at_once: bool = False) -> None:
        """For the next agent: where the segment begins, and by what it sees that the log was truncated meanwhile."""
        now = time.monotonic()
        if not at_once and now - self._noted_at < NOTE_EVERY_S:
            return
        self._noted_at = now
        read = {"base": self._base, "at": self._scanned, "before": self._before.hex(), "boot_id": processes.boot_id()}
        try:
            records.write_record(self._folder, SEGMENT_NAME, read, durable=False)
        except OSError as exc:  # A full disk
            log.warning("%s: %s", SEGMENT_NAME, exc, extra={"action": "log_note", "attempt_key": self.key})

    def _changed_since(self, noted: dict[str, Any]) -> bool:
        """Whether the log was truncated while no agent was there. A shorter one after a power cut is the same log."""
        at, before = _whole(noted.get("at")), bytes.fromhex(noted.get("before", ""))
        if noted.get("boot_id") != processes.boot_id():
            return False
        if self._size() < at:
            return not self._being_cut(self._size())
        self._scanned, self._before = at, before
        changed = not self._follows()
        self._scanned, self._before = 0, b""
        return changed

    def _size(self) -> int:
        if self._fd < 0:
            try:
                self._fd = os.open(self._folder / LOG_NAME, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return 0
        return os.fstat(self._fd).st_size

    def _cut(self) -> Cut | None:
        """What the shim has cut out of this file. One beyond the file's end is of before a truncation."""
        cut = logcap.recorded(self._folder)
        return cut if cut and cut.end <= self._size() else None

    def _being_cut(self, size: int) -> bool:
        cut = logcap.recorded(self._folder)
        if cut is None or not cut.begin <= size < cut.end:
            return False
        try:
            return time.time() - (self._folder / CUT_NAME).stat().st_mtime < SHORTER_FOR_S
        except FileNotFoundError:
            return False

    # --- sending --------------------------------------------------------------------------------------------------------

    def pump(self, link: Link, *, room_bytes: int, last: bool = False) -> int:
        """Send what may be sent; how many bytes. `last`: nothing more will come, many small chunks do not matter now.

        Raises redis.RedisError; what was not taken is sent again.
        """
        with self._lock:
            room = min(room_bytes, ATTEMPT_IN_FLIGHT_BYTES - self.in_flight_bytes)
            chunks = self._next_chunks(room, most=10**6 if last else ATTEMPT_IN_FLIGHT_CHUNKS - len(self._in_flight))
            if not chunks:
                return 0
            for chunk, entry in zip(chunks, _send(link, chunks), strict=True):
                self._sent = chunk.offset + len(chunk.data)
                self._in_flight.append(_InFlight(self._sent, len(chunk.data), entry))
                self._flying_bytes += len(chunk.data)
            if len(self._in_flight) == len(chunks):
                self._moved_at = time.monotonic()
            return sum(len(chunk.data) for chunk in chunks)

    def _next_chunks(self, room: int, *, most: int) -> list[LogChunk]:
        if self._probing:
            most = 0 if self._in_flight else 1
        if self._unseen_truncation:
            return [self._chunk(self._sent, b"")][:most]  # Only to hear what is stored: these bytes go elsewhere.
        while True:
            cut = self._cut()
            chunks = self._read_chunks(cut, room, most)
            if self._cut() == cut:  # Else some of what was read may be zeros of a hole.
                return chunks

    def _read_chunks(self, cut: Cut | None, room: int, most: int) -> list[LogChunk]:
        size, position = self._size(), self._sent - self._base
        chunks: list[LogChunk] = []
        while len(chunks) < most and position < size and room > 0:
            left_at = None
            if cut and cut.begin <= position < cut.end:
                left_at, position = self._base + position, cut.end
            until = cut.begin if cut and position < cut.begin else size
            data = os.pread(self._fd, min(LOG_CHUNK_BYTES, room, until - position), position)
            if not data and left_at is None:
                break
            chunks.append(self._chunk(self._base + position, data, cut_from=left_at))
            position += len(data)
            room -= len(data)
        return chunks

    def _chunk(self, offset: int, data: bytes, *, cut_from: int | None = None) -> LogChunk:
        return LogChunk(job=self._job, attempt=self._attempt, fence=self._fence, offset=offset, data=data, cut_from=cut_from)

    def acknowledged(self, offset: int) -> None:
        """The control plane has stored this much: more than was sent after an adoption, less than before after a restored backup."""
        with self._lock:
            if offset != self._acked:
                self._moved_at = time.monotonic()
                self._patience_s = STALL_S
            self._probing = False
            if self._unseen_truncation:
                self._unseen_truncation = False
                self._begin_segment(offset)
                self._go_to(offset)
            if not self._acked <= offset <= self._sent:
                self._go_to(offset)
            self._acked = offset
            while self._in_flight and self._in_flight[0].end <= offset:
                self._flying_bytes -= self._in_flight.popleft().size

    def recover(self, link: Link) -> bool:
        """Where acknowledgements stopped and what was sent is no longer in the stream: send it again. Raises redis.RedisError."""
        with self._lock:
            if not self._in_flight or time.monotonic() - self._moved_at < self._patience_s:
                return False
            self._moved_at = time.monotonic()
            self._patience_s = min(LONGEST_STALL_S, 2 * self._patience_s)
            newest = self._in_flight[-1].entry
            key = protocol.logs_key(link.host)
            if misplaced.retried(link.client, {key: "stream"}, lambda: link.client.xrange(key, newest, newest, count=1)):
                return False  # The control plane has not read it yet.
            self._go_to(self._acked)
            return True

    def _go_to(self, offset: int) -> None:
        self._in_flight.clear()
        self._flying_bytes = 0
        if offset < self._base:
            self._base = offset  # What was before is in no file any more; the segment moves up to what is stored.
        self._sent = offset


def _send(link: Link, chunks: list[LogChunk]) -> list[bytes]:
    """The entries that they have become. Raises redis.RedisError; what was taken all the same comes twice, which nobody minds."""
    key = protocol.logs_key(link.host)

    def send() -> list[bytes]:
        pipe = link.client.pipeline(transaction=False)
        for chunk in chunks:
            fields: dict[Any, Any] = dict(protocol.seal_chunk(link.host, chunk, link.key))
            pipe.xadd(key, fields)
        return pipe.execute()

    return misplaced.retried(link.client, {key: "stream"}, send)


def _whole(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
