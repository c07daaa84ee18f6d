"""Stays with an attempt from its launch to its end: tells of its start, concludes when its tree is empty.

The way from the command's end to its report waits for nobody: the shim's events wake the thread, the claim is given back
before the report goes out, so that the next dispatch never meets it, and the report's copy on disk comes after it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis

from gpuworker import failpoints, hostmemory, ownmail, samples
from gpuworker.attempts import AttemptState, ShimClient, ShimGone
from gpuworker.hotswap import told
from gpuworker.outliving import await_empty
from gpuworker.protocol import BadMessage, DeviceReading, Ended, EndReason, Kind, Refused, Started, Stuck
from gpuworker.shim import processes

if TYPE_CHECKING:
    from gpuworker.claims.store import ClaimStore, Held
    from gpuworker.inventory import Inventory
    from gpuworker.relay import Relay
    from gpuworker.reports import Reporter
    from gpuworker.roster import Roster, Supervised

log = logging.getLogger(__name__)

WAKE_S = 1.0
"""How soon a supervising thread sees that the agent is leaving. The shim's events wake it at once."""
LOOK_AGAIN_S = 0.2
UNCLEAN_AFTER_S = 5.0
"""The driver forgets a process some time after its end; what is left on a device after this drains it."""

LOW_DISK = "low_disk"


class Detached(Exception):
    """The agent is leaving. The training goes on, and the next agent takes it over."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What starting and watching an attempt need of the agent."""

    inventory: Inventory
    claims: ClaimStore
    reporter: Reporter
    relay: Relay
    roster: Roster
    beat: Callable[[], None]
    """Says at once what the devices are like. Raises redis.RedisError."""


class Watcher:
    """Thread-safe: one thread watches one attempt, any thread may stop it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._leaving = threading.Event()
        self._unreleased: set[str] = set()

    def leave(self) -> None:
        """Send all supervising threads away; their trainings go on."""
        self._leaving.set()

    @property
    def leaving(self) -> bool:
        return self._leaving.is_set()

    def watch(self, one: Supervised) -> Ended | None:
        """Until its end; None where its shim refused to start it. Raises Detached."""
        while True:
            done = self._follow(one)
            if done is not None:
                return self._conclude(one, done)
            match one.attempt.state():
                case AttemptState.DONE:
                    return self._conclude(one, one.attempt.record("exit.json") or {})
                case AttemptState.REFUSED | AttemptState.PREPARED:
                    self.refused(one)
                    return None
                case AttemptState.ABANDONED:
                    return self._outlive(one)
                case _:
                    self._pause(LOOK_AGAIN_S)  # The shim lives and only its connection was lost.

    def stop(self, one: Supervised, grace_s: float) -> None:
        """End its tree. Where its shim does not listen yet, or no longer, who watches it sees the wish."""
        one.stop_grace_s = grace_s
        client = one.client
        if client:
            client.stop(EndReason.CANCELLED, grace_s)
            failpoints.hit("stop.passed_on")

    def refused(self, one: Supervised) -> None:
        """Its refused.json is there: it never started and never will."""
        record = one.attempt.record("refused.json") or {}
        if not one.attempt.shim_alive():
            told.put_back(one.attempt)
        one.tree_empty = True
        self.release(one.key)
        if one.tail:
            self._parts.relay.drop(one.tail)
        code, message = str(record.get("code", "")), str(record.get("message", ""))
        log.info("refused: %s", message, extra={"action": "refused", "attempt_key": one.key})
        if one.spec.device_count or code == LOW_DISK:
            self._tell_devices()
        spec = one.spec
        self._parts.reporter.send(Refused(job=spec.job, attempt=spec.attempt, fence=spec.fence, code=code, message=message))
        failpoints.hit("agent.refusal_told")
        self._parts.roster.leave(one.key)
        one.over.set()

    def _tell_devices(self) -> None:
        """Before a refusal: a scheduler that still believes in these devices (or the disk) would offer them again at once, and again."""
        try:
            self._parts.inventory.refresh()
            self._parts.beat()
        except redis.RedisError as exc:
            log.debug("no heartbeat before a refusal: %s", exc)

    def release(self, key: str) -> None:
        """Give its claim back, now or as soon as Redis is there."""
        try:
            self._parts.claims.release(key)
            self._unreleased.discard(key)
        except redis.RedisError as exc:
            log.warning("A claim waits to be given back: %s", exc, extra={"action": "release_waits", "attempt_key": key})
            self._unreleased.add(key)

    def release_ended(self, said: Iterable[Held]) -> None:
        """Give back what was renewed just now although it had ended meanwhile: nobody would for a minute."""
        living = {one.key for one in self._parts.roster.held()}
        for held in said:
            if held.key not in living:
                self.release(held.key)

    def release_again(self) -> None:
        for key in list(self._unreleased):
            self.release(key)

    # --- with its shim --------------------------------------------------------------------------------------------------

    def _follow(self, one: Supervised) -> dict[str, Any] | None:
        """Listen to its shim until that has gone; exit.json's body where the tree was seen empty."""
        client = one.attempt.connect()
        if client is None:
            return None
        with client:
            one.client = client
            try:
                return self._listen(one, client)
            except ShimGone:
                return None
            finally:
                one.client = None

    def _listen(self, one: Supervised, client: ShimClient) -> dict[str, Any] | None:
        if one.stop_grace_s is not None:
            client.stop(EndReason.CANCELLED, one.stop_grace_s)
        ended: dict[str, Any] | None = None
        while True:
            event = client.next_event(WAKE_S)
            if self.leaving:
                raise Detached
            match event:
                case {"event": "state", "phase": "running" | "stopping" | "ended"}:
                    self.tell_start(one, one.attempt.record("started.json"))
                    self.tell_stuck(one)
                case {"event": "stuck"}:
                    self.tell_stuck(one)
                case {"event": "started"}:
                    self.tell_start(one, event)
                case {"event": "exited"}:
                    ended = event
                case {"event": "done"}:
                    return ended
                case {"event": "refused"}:
                    return None

    def tell_start(self, one: Supervised, started: dict[str, Any] | None) -> None:
        if started is None or one.attempt.acknowledged("started"):
            return
        report = Started(
            job=one.spec.job,
            attempt=one.spec.attempt,
            fence=one.spec.fence,
            devices=one.devices,
            boot_id=started["boot_id"],
            pid=started["pid"],
            start_ticks=started["start_ticks"],
            started_at=started["started_at"],
            swapped=told.swapped(one.attempt),
        )
        self._parts.reporter.send(report)
        failpoints.hit("agent.start_told")

    def tell_stuck(self, one: Supervised) -> None:
        """Processes of it do not die of SIGKILL; its devices stay taken until they do."""
        stuck = one.attempt.record("stuck.json")
        if stuck is None or one.attempt.acknowledged(Kind.STUCK):
            return
        log.error("cannot be ended: %s", stuck, extra={"action": "stuck", "job_id": one.spec.number, "attempt": one.spec.attempt})
        named = tuple(f"{p['program']} (pid {p['pid']}, state {p['state']})" for p in stuck["processes"])
        self._parts.reporter.send(Stuck(job=one.spec.job, attempt=one.spec.attempt, fence=one.spec.fence, processes=named))

    def _pause(self, seconds: float) -> None:
        if self._leaving.wait(seconds):
            raise Detached

    # --- without its shim -----------------------------------------------------------------------------------------------

    def _outlive(self, one: Supervised) -> Ended | None:
        """Its shim is dead. What lives of its tree goes on and is waited for; the exit code is lost unless it was recorded."""
        attempt = one.attempt
        started = attempt.record("started.json")
        if started is None and attempt.record("exit.json") is None:
            await_empty(one, self._pause, lambda: None)
            attempt.refuse("shim_lost", "Its shim died before it let the command go.")
            self.refused(one)
            return None
        self.tell_start(one, started)
        late = await_empty(one, self._pause, lambda: self.tell_stuck(one))
        return self._conclude(one, attempt.record("exit.json") or _lost(one, started, late=late))

    # --- the end --------------------------------------------------------------------------------------------------------

    def _conclude(self, one: Supervised, ended: dict[str, Any]) -> Ended:
        """Its tree is empty: the rest of the log, the devices, the claim, the report, in this order."""
        if one.tail:
            self._parts.relay.finish(one.tail)
        failpoints.hit("agent.log_finished")
        put_back = [result.body() for result in told.put_back(one.attempt)]
        one.tree_empty = True
        report = _report(one, {**ended, "put_back": put_back}, self._unclean(one))
        failpoints.hit("agent.releasing")
        self.release(one.key)
        failpoints.hit("agent.released")
        self._parts.reporter.send(report)
        failpoints.hit("agent.end_told")
        try:
            one.attempt.write("ended.json", report.body())
        except OSError as exc:  # exit.json tells the next agent as much.
            log.error("ended.json could not be written: %s", exc, extra={"action": "ended", "attempt_key": one.key})
        failpoints.hit("agent.end_written")
        one.ended = report
        one.over.set()
        log.info("ended: %s", report.reason, extra={"action": "ended", "job_id": one.spec.number, "attempt": one.spec.attempt})
        return report

    def _unclean(self, one: Supervised) -> dict[str, str]:
        """Devices that did not come back clean, each with a sentence that says why."""
        give_up_at = time.monotonic() + UNCLEAN_AFTER_S
        while found := self._not_clean(one):
            if time.monotonic() >= give_up_at:
                return found
            self._pause(LOOK_AGAIN_S)
        return {}

    def _not_clean(self, one: Supervised) -> dict[str, str]:
        inventory = self._parts.inventory
        reasons = inventory.look(one.uuids, beside=self._parts.roster.beside(one, one.uuids))
        if not reasons:
            return {}
        now = inventory.refresh()
        return {uuid: why for uuid, why in reasons.items() if not _only_strangers(now.device(uuid))}


def _only_strangers(device: DeviceReading | None) -> bool:
    """Living processes of others keep it, and none of ours: it is busy, not unclean, and nobody needs to mend it.

    One that the driver lists and that nobody can see here has ended, most likely as part of the attempt.
    """
    computing = [p for p in device.processes if not p.graphics] if device and not device.error else []
    return bool(computing) and all(p.user and not p.ours for p in computing)


def _lost(one: Supervised, started: dict[str, Any] | None, *, late: bool) -> dict[str, Any]:
    rebooted = started is not None and started["boot_id"] != processes.boot_id()
    reason = EndReason.HOST_LOST if rebooted else EndReason.EXIT_LOST
    message = "The host was restarted meanwhile" if rebooted else "Its shim died before the command ended"
    if late:
        reason, message = EndReason.TIMED_OUT, f"Stopped at its time limit of {one.spec.time_limit_s:g} s"
    elif one.stop_grace_s is not None:
        reason, message = EndReason.CANCELLED, "Its shim had died; its processes were ended"
    return {"reason": reason, "message": message, "started_at": started and started["started_at"], "ended_at": time.time()}


def _report(one: Supervised, ended: dict[str, Any], unclean: dict[str, str]) -> Ended:
    spec, tail = one.spec, one.tail
    host_oom, killed = hostmemory.verdict(ended)
    mail, mail_fault = ownmail.read(one.attempt.path)
    body = {key: value for key, value in ended.items() if key != "event"} | {
        "job": spec.job,
        "attempt": spec.attempt,
        "fence": spec.fence,
        "message": " ".join(filter(None, (ended.get("message"), killed))),
        "log_bytes": tail.log_bytes if tail else 0,
        "log_truncated": tail.truncated if tail else False,
        "log_cut_bytes": tail.cut_bytes if tail else 0,
        "oom_detected": tail.oom.found if tail else False,
        "progress": tail.progress if tail else None,
        "peak_memory_mib": samples.peak_of(one),
        "host_oom": host_oom,
        "mail": mail,
        "mail_fault": mail_fault,
        "devices": [device.body() for device in one.devices],
        "unclean": unclean,
    }
    with contextlib.suppress(BadMessage):
        return Ended.read(body)
    log.error("exit.json is not readable: %s", ended, extra={"action": "ended", "attempt_key": one.key})
    lost = {"reason": EndReason.EXIT_LOST, "message": "Its exit record is not readable", "ended_at": time.time()}
    return _report(one, lost, unclean)
