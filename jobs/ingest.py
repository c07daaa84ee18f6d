"""Takes in what hosts report: log chunks into the stored logs, reports into jobs.lifecycle.

Hosts repeat everything until it is acknowledged, and an acknowledgement goes out only after the commit, in one go with
the deletion of the entries. So each step may fail or happen twice: logs skip what they have, lifecycle closes an attempt
once, and a host that hears nothing says it again.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable

from django.core.exceptions import ValidationError
from django.db import DataError, transaction
from django.utils import timezone

from gpuworker import dropped, failpoints, protocol
from gpuworker.measured import Measured
from gpuworker.protocol import Ack, BadEnvelope, BadMessage, Ended, Kind, LogChunk, Refused, Started, Stuck
from jobs import drains, eventphrases, hostlink, lifecycle, logs, samples, suspects
from jobs.models import Attempt, Host
from jobs.notifications import ownmail

log = logging.getLogger(__name__)

Entry = tuple[bytes, dict[bytes, bytes]]

ENTRIES = 64
"""Entries of one stream that are taken at a time."""
BLOCK_MS = 1000
HOSTS_EVERY_S = 2.0
DRAIN_S = 2.0
"""How long an Ended report waits at most for the log that lies before it."""
KNOWN_ATTEMPTS = 4096

_POISON = (BadEnvelope, BadMessage, ValueError, OverflowError, ValidationError, DataError)
"""What an entry raises that will never be any better: it is logged and deleted, or the next ones would wait for ever."""


class Ingest:
    """Reads the streams of all hosts. One thread of the leader calls `turn` for ever."""

    def __init__(self, on_knock: Callable[[], None] = lambda: None) -> None:
        self._on_knock = on_knock
        self._hosts: dict[bytes, str] = {}
        """Stream key -> host."""
        self._hosts_at = -HOSTS_EVERY_S
        self._known: dict[tuple[str, int, int], int] = {}
        self._strange: set[tuple[str, int, int]] = set()

    def turn(self, block_ms: int = BLOCK_MS) -> int:
        """Wait for entries and take them in; how many there were. Raises redis.RedisError, DatabaseError, OSError."""
        self._look_for_hosts()
        read = hostlink.read_streams([protocol.wake_key().encode(), *self._hosts], count=ENTRIES, block_ms=block_ms)
        if knocks := read.pop(protocol.wake_key().encode(), []):
            hostlink.forget_knocks([entry for entry, _ in knocks])
            self._on_knock()
        failed: OSError | None = None
        for host in sorted({self._hosts[key] for key in read}):
            logs_key, reports_key = (key.encode() for key in hostlink.report_keys(host))
            try:
                self._take_logs(host, read.get(logs_key, []))
            except OSError as exc:  # a full disk must not keep the reports waiting
                failed = exc
            self._take_reports(host, read.get(reports_key, []))
        if failed:
            raise failed
        return sum(map(len, read.values()))

    def _look_for_hosts(self) -> None:
        if time.monotonic() - self._hosts_at >= HOSTS_EVERY_S:
            names = Host.objects.values_list("name", flat=True)
            self._hosts = {key.encode(): name for name in names for key in hostlink.report_keys(name)}
            self._hosts_at = time.monotonic()

    # --- logs -----------------------------------------------------------------------------------------------------------

    def _take_logs(self, host: str, entries: Iterable[Entry]) -> None:
        acks: dict[tuple[str, int, int], Ack] = {}
        done: list[bytes] = []
        try:
            for entry, fields in entries:
                if ack := self._take_chunk(host, fields):
                    acks[ack.job, ack.attempt, ack.fence] = ack
                done.append(entry)
        finally:
            if done:
                hostlink.acknowledge(host, acks.values(), logs=done)

    def _take_chunk(self, host: str, fields: dict[bytes, bytes]) -> Ack | None:
        try:
            chunk = hostlink.unseal_chunk(host, fields)
            job_id = self._job_of(host, chunk)
        except _POISON as exc:
            dropped.warn(log, "log chunk of %s dropped: %s", host, exc, action=dropped.Drop.CHUNK)
            return None
        if job_id is None:
            self._tell_strange(host, chunk)
            stored = chunk.offset + len(chunk.data)  # nobody wants it: it must not come again
        else:
            stored = logs.append(job_id, chunk.attempt, chunk.offset, chunk.data, cut_from=chunk.cut_from)
        failpoints.hit("ingest.log_stored")
        return Ack(job=chunk.job, attempt=chunk.attempt, fence=chunk.fence, what=Kind.LOG, offset=stored)

    def _tell_strange(self, host: str, chunk: LogChunk) -> None:
        """Once: an attempt that the database does not know may go on printing for days."""
        key = (chunk.job, chunk.attempt, chunk.fence)
        if key in self._strange:
            return
        if len(self._strange) >= KNOWN_ATTEMPTS:
            self._strange.clear()
        self._strange.add(key)
        dropped.warn(log, "log of %s dropped: no attempt %s.%d", host, chunk.job, chunk.attempt, action=dropped.Drop.CHUNK)

    def _job_of(self, host: str, chunk: LogChunk) -> int | None:
        """The number of the job whose attempt this host may write about, open or not."""
        key = (chunk.job, chunk.attempt, chunk.fence)
        if key not in self._known:
            attempt = Attempt.objects.filter(fence=chunk.fence, number=chunk.attempt, host=host, job__uid=chunk.job).first()
            if attempt is None or attempt.log_removed_at:
                return None
            if len(self._known) >= KNOWN_ATTEMPTS:
                self._known.clear()
            self._known[key] = attempt.job_id
        return self._known[key]

    # --- reports --------------------------------------------------------------------------------------------------------

    def _take_reports(self, host: str, entries: Iterable[Entry]) -> None:
        acks: list[Ack] = []
        done: list[bytes] = []
        try:
            for entry, fields in entries:
                try:
                    acks.append(self._take_report(host, fields))
                    failpoints.hit("ingest.committed")
                except _POISON as exc:
                    dropped.warn(log, "report of %s dropped: %s", host, exc, action=dropped.Drop.REPORT)
                done.append(entry)
        finally:
            if done:
                hostlink.acknowledge(host, acks, reports=done)
                failpoints.hit("ingest.acknowledged")

    def _take_report(self, host: str, fields: dict[bytes, bytes]) -> Ack:
        report = hostlink.unseal_report(host, fields)
        if isinstance(report, Started):
            lifecycle.started(report, host=host)
            what = Kind.STARTED
        elif isinstance(report, Refused):
            lifecycle.refused(dataclasses.replace(report, message=_text(report.message)), host=host)
            what = Kind.REFUSED
        elif isinstance(report, Stuck):
            _take_stuck(host, report)
            what = Kind.STUCK
        elif isinstance(report, Measured):
            samples.store(host, report)
            what = Kind.MEASURED
        else:
            self._take_end(host, dataclasses.replace(report, message=_text(report.message)))
            what = Kind.ENDED
        return Ack(job=report.job, attempt=report.attempt, fence=report.fence, what=what)

    def _take_end(self, host: str, report: Ended) -> None:
        attempt = Attempt.objects.filter(job__uid=report.job, number=report.attempt, fence=report.fence, host=host).first()
        if attempt is None or attempt.outcome:
            return  # said before
        self._drain_log(host, attempt, report)
        ownmail.keep(attempt, report)  # Before its end is told: whether there is a letter at all may depend on it.
        with transaction.atomic():  # Together: a report that has closed its attempt is not taken in again.
            if lifecycle.ended(report, host=host):
                if report.unclean:
                    _keep_unclean(host, attempt, report)
                if report.exit_code != 0:
                    suspects.look(attempt.pk, timezone.now())

    def _drain_log(self, host: str, attempt: Attempt, report: Ended) -> None:
        """Take in what lies in the log stream before the job is seen to be over. The rest comes later, as hosts repeat it."""
        key = hostlink.report_keys(host)[0].encode()
        until = time.monotonic() + DRAIN_S
        while logs.size(attempt.job_id, attempt.number) < report.log_bytes and time.monotonic() < until:
            entries = hostlink.read_streams([key], count=ENTRIES, block_ms=None).get(key, [])
            if not entries:
                return
            try:
                self._take_logs(host, entries)
            except OSError as exc:
                log.error("the log of %s cannot be stored: %s", attempt, exc, extra={"action": "log_failed", "job_id": attempt.job_id})
                return


def _keep_unclean(host: str, attempt: Attempt, report: Ended) -> None:
    unclean = {uuid: _text(why) for uuid, why in report.unclean.items()}
    drains.drain_unclean(host, unclean, job_id=attempt.job_id)
    index = {device.uuid: f"GPU {device.index}" for device in report.devices}
    told = [eventphrases.UNCLEAN % {"device": index.get(uuid, uuid), "why": why} for uuid, why in unclean.items()]
    lifecycle.note(attempt, "device_unclean", " ".join([*told, eventphrases.DRAINED_UNTIL_CLEAN]), {"unclean": unclean})


def _take_stuck(host: str, report: Stuck) -> None:
    attempt = lifecycle.open_attempt(report.job, report.attempt, report.fence, host)
    if attempt is None:
        return
    stuck = _text(", ".join(report.processes))[:400]
    message = f"{eventphrases.STUCK % {'attempt': attempt.number, 'processes': stuck}} {eventphrases.DRAINED_FOR_STUCK}"
    with transaction.atomic():
        drains.drain_stuck(host, [device["uuid"] for device in attempt.devices], stuck, job_id=attempt.job_id)
        lifecycle.note(attempt, "stuck", message, {"processes": list(report.processes)})


def _text(told: str) -> str:
    """What a database column takes: no NUL, not without end."""
    return told.replace("\0", "\ufffd")[:4000]
