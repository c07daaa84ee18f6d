"""What an earlier agent left in the attempt directories: taken over at start, looked for again while this one runs.

Each directory says by itself what is to be done with it; nothing here needs Redis or the control plane. A living training
is supervised at once by a thread of our own. For Flower and Celery's retries, a message with the old task id is put into
our own queue as well: the task that it becomes waits for that thread's result. Where Redis has lost it, only Flower knows
less.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import shutil
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gpuworker import failpoints, protocol, samples
from gpuworker.attempts import AttemptDir, AttemptState, all_attempts
from gpuworker.hotswap import told
from gpuworker.protocol import Ack, AttemptReading, BadMessage, Ended, EndReason, Kind, Refused, Spec
from gpuworker.roster import Supervised
from gpuworker.shim import processes
from gpuworker.watch import Detached, Parts

if TYPE_CHECKING:
    from gpuworker.runner import Runner
    from gpuworker.settings import Settings
    from gpuworker.tail import Tail

log = logging.getLogger(__name__)

LOOK_EVERY_S = 15.0
KEEP_S = 7 * 24 * 3600.0
KEEP_REFUSED_S = 3600.0
"""A refusal must outlive every copy of its spec, which is a minute."""

Publish = Callable[[Spec, str], None]
"""Puts an attempt's task into this host's own queue again. Best effort."""


class Recovery:
    """`take_over` belongs to one thread at a time; acknowledgements come from another."""

    def __init__(self, config: Settings, parts: Parts, runner: Runner, publish: Publish) -> None:
        self._settings, self._parts, self._runner, self._publish = config, parts, runner, publish
        self._settled: set[str] = set()
        self._unreadable: dict[str, AttemptReading] = {}
        self._unpublished: queue.SimpleQueue[Supervised] = queue.SimpleQueue()
        threading.Thread(target=self._publish_all, name="adopted-tasks", daemon=True).start()

    def unreadable(self) -> tuple[AttemptReading, ...]:
        """What lives here and cannot be looked after: another version left it. Said in heartbeats, or it would count as gone."""
        return tuple(self._unreadable.values())

    def take_over(self) -> None:
        """Look at every directory that nobody looks after."""
        present = all_attempts(self._settings)
        keys = {attempt.key for attempt in present}
        self._settled &= keys
        self._unreadable = {key: reading for key, reading in self._unreadable.items() if key in keys}
        for attempt in present:
            if attempt.key in self._settled or self._parts.roster.get(attempt.key):
                continue
            try:
                self._look_at(attempt)
            except Exception:
                log.exception("An attempt directory could not be taken over", extra={"action": "adopt", "attempt_key": attempt.key})

    def prune(self) -> None:
        """Remove directories that the control plane knows all about and that have been kept long enough."""
        now = time.time()
        for attempt in all_attempts(self._settings):
            if attempt.key not in self._settled:
                continue
            keep_s = KEEP_REFUSED_S if attempt.acknowledged(Kind.REFUSED) else KEEP_S
            if attempt.path.stat().st_mtime < now - keep_s:
                shutil.rmtree(attempt.path, ignore_errors=True)

    # --- acknowledgements -----------------------------------------------------------------------------------------------

    def acknowledged(self, ack: Ack) -> None:
        """The control plane has stored something: on disk first, so that it is not said again by the next agent."""
        if ack.what == Kind.LOG:
            self._parts.relay.acknowledged(ack)
            return
        if ack.what == protocol.SAY_AGAIN:
            self._say_again(f"{ack.job}.{ack.attempt}.{ack.fence}")
            return
        if ack.what == Kind.MEASURED:
            self._parts.reporter.acknowledged(f"{ack.job}.{ack.attempt}.{ack.fence}", ack.what)
            return
        if ack.what not in (Kind.STARTED, Kind.STUCK, Kind.ENDED, Kind.REFUSED):
            return
        failpoints.hit("agent.ack_heard")
        attempt = self._directory(f"{ack.job}.{ack.attempt}.{ack.fence}")
        if attempt:
            _note(attempt, ack.what)
        failpoints.hit("agent.ack_written")
        self._parts.reporter.acknowledged(f"{ack.job}.{ack.attempt}.{ack.fence}", ack.what)
        if ack.what == Kind.ENDED:
            self._parts.roster.leave(f"{ack.job}.{ack.attempt}.{ack.fence}")

    def _say_again(self, key: str) -> None:
        """The control plane has forgotten how this one ended. Where somebody looks after it, it is being said already."""
        attempt = self._directory(key)
        if attempt is None or self._parts.roster.get(key):
            return
        if ended := attempt.record("ended.json"):
            if not self._parts.relay.has(key):
                self._runner.relay_ended(attempt)  # Of its log they may have forgotten something too: the first chunk asks.
            self._parts.reporter.send(Ended.read(ended))
        elif attempt.state() is AttemptState.REFUSED:
            self._report_refusal(attempt)

    def handed_over(self, tail: Tail) -> None:
        """All of an ended attempt's log is stored."""
        attempt = self._directory(tail.key)
        if attempt:
            _note(attempt, Kind.LOG)

    def _directory(self, key: str) -> AttemptDir | None:
        attempt = AttemptDir(self._runner.folder / key)
        return attempt if attempt.path.is_dir() else None

    # --- one directory --------------------------------------------------------------------------------------------------

    def _look_at(self, attempt: AttemptDir) -> None:
        failpoints.hit("adopt.looked")
        if told.owes(attempt) and not attempt.shim_alive() and not attempt.tree():
            told.put_back(attempt)  # Here and now: before the first new job sees the files.
        if attempt.acknowledged(Kind.ENDED) or attempt.acknowledged(Kind.REFUSED):
            self._log_only(attempt)
            return
        match attempt.state():
            case AttemptState.REFUSED:
                self._report_refusal(attempt)
            case AttemptState.PREPARED:
                if attempt.refuse("not_launched", "The host's agent was restarted before it launched."):
                    self._report_refusal(attempt)
            case _ if attempt.record("ended.json"):
                self._report_end(attempt)
            case _:
                self._adopt(attempt)

    def _log_only(self, attempt: AttemptDir) -> None:
        """Nothing is owed any more but perhaps the rest of its log."""
        if attempt.acknowledged(Kind.LOG) or attempt.acknowledged(Kind.REFUSED):
            if not told.owes(attempt):  # A file that could not be put back is tried again.
                self._settled.add(attempt.key)
        elif not self._parts.relay.has(attempt.key):
            self._runner.relay_ended(attempt)

    def _report_refusal(self, attempt: AttemptDir) -> None:
        if self._parts.reporter.owes(attempt.key, Kind.REFUSED):
            return
        record = attempt.record("refused.json") or {}
        self._runner.watcher.release(attempt.key)
        self._parts.reporter.send(
            Refused(
                job=attempt.job,
                attempt=attempt.attempt,
                fence=attempt.fence,
                code=str(record.get("code", "")),
                message=str(record.get("message", "")),
            )
        )
        failpoints.hit("adopt.refusal_told")

    def _report_end(self, attempt: AttemptDir) -> None:
        if self._parts.reporter.owes(attempt.key, Kind.ENDED):
            return
        report, spec = Ended.read(attempt.record("ended.json") or {}), _spec(attempt)
        one = self._entered(attempt, spec) if spec else None
        if one:
            one.ended, one.tree_empty = report, True
            one.over.set()
        elif spec:
            return  # Somebody was quicker.
        if not attempt.acknowledged(Kind.LOG) and not self._parts.relay.has(attempt.key):
            tail = self._runner.relay_ended(attempt)
            if one:
                one.tail = tail
        self._runner.watcher.release(attempt.key)
        if one and (told := samples.measured(one)):
            self._parts.reporter.send(told)
        self._parts.reporter.send(report)
        failpoints.hit("adopt.end_told")

    def _entered(self, attempt: AttemptDir, spec: Spec) -> Supervised | None:
        """None where somebody looks after it by now."""
        one = Supervised(attempt.key, spec, attempt, taken=tuple(attempt.taken()))
        return one if self._parts.roster.enter(one) else None

    def _adopt(self, attempt: AttemptDir) -> None:
        spec = _spec(attempt)
        if spec is None:
            self._without_spec(attempt)
            return
        one = self._entered(attempt, spec)
        if one is None:
            return
        failpoints.hit("adopt.entered")
        one.shim_pid, one.watched_since = int((attempt.record("shim.json") or {}).get("pid", 0)), time.monotonic()
        self._runner.relay_log(one, adopted=True)
        self._runner.owe(one.key)
        log.info("taken over", extra={"action": "adopt", "job_id": spec.number, "attempt": spec.attempt})
        threading.Thread(target=self._supervise, args=(one,), name=f"adopted-{spec.number}", daemon=True).start()

    def _supervise(self, one: Supervised) -> None:
        self._unpublished.put(one)
        try:
            self._runner.watcher.watch(one)
        except Detached:
            pass
        except Exception:
            log.exception("An attempt lost its supervisor; it is taken over again", extra={"action": "adopt", "attempt_key": one.key})
            self._parts.roster.leave(one.key)

    def _publish_all(self) -> None:
        """In a thread of its own: a Redis that hangs must not keep anybody from supervising."""
        while True:
            one = self._unpublished.get()
            try:
                self._publish(one.spec, (one.attempt.record("spec.json") or {}).get("sealed", ""))
                failpoints.hit("adopt.published")
            except Exception as exc:  # Celery raises AttributeError too where a worker's first publish finds no Redis.
                log.warning("Flower will not see the end of %s: %r", one.key, exc, extra={"action": "adopt", "attempt_key": one.key})

    def _without_spec(self, attempt: AttemptDir) -> None:
        """Another version's, or what a power cut left. What lives is left alone; an end can be told without its spec."""
        if attempt.shim_alive() or attempt.tree():
            if attempt.key not in self._unreadable:
                log.error("%s is another version's: it is left alone", attempt.path, extra={"action": "adopt", "attempt_key": attempt.key})
            self._unreadable = {**self._unreadable, attempt.key: _bare_reading(attempt)}  # A heartbeat may be reading the old one.
            return
        self._unreadable = {key: reading for key, reading in self._unreadable.items() if key != attempt.key}
        started, ended = attempt.record("started.json"), attempt.record("exit.json")
        if started is None and ended is None:
            attempt.refuse("spec_lost", "What was ordered cannot be read any more; nothing was started.")
            self._report_refusal(attempt)
            return
        attempt.write("ended.json", _end_without_spec(attempt, started, ended).body())
        self._report_end(attempt)


def _bare_reading(attempt: AttemptDir) -> AttemptReading:
    with contextlib.suppress(TypeError):  # another version's words
        devices = tuple(device.uuid for device in attempt.taken())
        return AttemptReading(job=attempt.job, attempt=attempt.attempt, fence=attempt.fence, running=True, devices=devices)
    return AttemptReading(job=attempt.job, attempt=attempt.attempt, fence=attempt.fence, running=True)


def _end_without_spec(attempt: AttemptDir, started: dict[str, Any] | None, ended: dict[str, Any] | None) -> Ended:
    size = attempt.log_path.stat().st_size if attempt.log_path.exists() else 0
    names = {"job": attempt.job, "attempt": attempt.attempt, "fence": attempt.fence, "log_bytes": size}
    with contextlib.suppress(BadMessage):
        return Ended.read({**(ended or {}), **names})
    rebooted = started is not None and started["boot_id"] != processes.boot_id()
    reason = EndReason.HOST_LOST if rebooted else EndReason.EXIT_LOST
    lost = {"reason": reason, "ended_at": time.time(), "message": "Its records cannot be read any more", "own_fault": False}
    return Ended.read({**lost, **names})


def _note(attempt: AttemptDir, what: str) -> None:
    """On a full disk it is not noted: the next agent says it again, and hears the same."""
    try:
        attempt.acknowledge(what)
    except OSError as exc:
        log.warning("ack-%s: %s", what, exc, extra={"action": "acknowledged", "attempt_key": attempt.key})


def _spec(attempt: AttemptDir) -> Spec | None:
    """None where it cannot be read: another version's, or cut short."""
    try:
        return attempt.spec()
    except (BadMessage, KeyError):
        return None
