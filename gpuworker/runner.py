"""Starts attempts: claim, look, launch; then watch. Attach-or-start, so that a message may come twice or late.

What must not be lost lies in the attempt directory at every moment; this process may be killed between any two lines.
A refusal leaves refused.json there too: a dispatch that was refused once can never start, however often it is offered.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpuworker import disks, failpoints, protocol
from gpuworker.attempts import AttemptDir, TakenDevice
from gpuworker.claims.store import ClaimRefused
from gpuworker.launcher import Duplicate, LaunchRefused
from gpuworker.roster import Supervised
from gpuworker.tail import Tail
from gpuworker.watch import LOW_DISK, WAKE_S, Detached, Parts, Watcher

if TYPE_CHECKING:
    from gpuworker.launcher import Launcher
    from gpuworker.protocol import Ended, Spec, Stop

log = logging.getLogger(__name__)

JOB_SLOTS = 112
"""Sixteen below the worker's threads: a host full of jobs must still hear what comes through its queue."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    code: str
    message: str


class Runner:
    """Thread-safe; each attempt keeps the thread that runs or attaches it until its end."""

    def __init__(self, parts: Parts, launcher: Launcher, folder: Path) -> None:
        self._parts, self._launcher, self.folder = parts, launcher, folder
        self.watcher = Watcher(parts)
        self._owed: set[str] = set()  # attempts taken over whose Celery task has not come back yet
        self._owed_lock = threading.Lock()

    # --- from a task ----------------------------------------------------------------------------------------------------

    def run(self, spec: Spec, sealed: str) -> Ended | None:
        """Start this dispatch and stay to its end. None: refused, outdated, or in somebody's care already.

        Raises Detached, and redis.RedisError where the claim could not be made: then nothing has happened.
        """
        key = protocol.attempt_key(spec.job, spec.attempt, spec.fence)
        one = Supervised(key, spec, AttemptDir(self.folder / key))
        if self.watcher.leaving or not self._parts.roster.enter(one):
            return None
        try:
            if self._start(one, sealed):
                return self.watcher.watch(one)
        except Detached:
            raise
        except BaseException:
            self._parts.roster.leave(key)  # Where it was launched, recovery finds it.
            raise
        self._parts.roster.leave(key)
        return None

    def join(self, key: str) -> Ended | None:
        """The end of an attempt that this agent took over, for the task that stands for it in Celery. Raises Detached."""
        with self._owed_lock:
            if key not in self._owed:
                return None
            self._owed.discard(key)
        one = self._parts.roster.get(key)
        while one and not one.over.wait(WAKE_S):
            if self.watcher.leaving:
                raise Detached
        return one.ended if one else None

    def owe(self, key: str) -> None:
        with self._owed_lock:
            self._owed.add(key)

    # --- starting -------------------------------------------------------------------------------------------------------

    def _start(self, one: Supervised, sealed: str) -> bool:
        if one.attempt.path.is_dir():
            return False  # A repeated message. What became of it is in its directory, and recovery looks there.
        if one.spec.expires_at < time.time():
            late_s = time.time() - one.spec.expires_at
            log.warning("A spec came %.0f s after its end", late_s, extra={"action": "expired", "attempt_key": one.key})
            return False
        refusal = self._prepare(one) or self._launch(one, sealed)
        if refusal:
            self._refuse(one, refusal)
        return refusal is None and one.tail is not None

    def _prepare(self, one: Supervised) -> _Refusal | None:
        """Its devices, claimed and clean. Raises redis.RedisError."""
        if len(self._parts.roster.living()) > JOB_SLOTS:
            return _Refusal("no_slot", f"All {JOB_SLOTS} job slots of this host are taken.")
        if (room := disks.room(self.folder)) and room.low:
            told = f"{room.free_bytes >> 20} MiB are free, nothing starts with less than {room.least_bytes >> 20} MiB"
            return _Refusal(LOW_DISK, f"The disk of this host is too full: {told}.")
        held = self._held_beside(one)  # Redis may have been emptied a moment ago; who lives here knows what he has.
        allowed = [uuid for uuid in one.spec.devices if uuid not in held]
        if len(allowed) < one.spec.device_count and held:
            return _Refusal("device_busy", f"Too few devices are free; {_listed(held)}.")
        answer = self._claim(one, allowed)
        if isinstance(answer, ClaimRefused):
            return _Refusal(answer.code, answer.message)
        failpoints.hit("agent.claimed")
        inventory = self._parts.inventory
        reasons = inventory.look(answer, beside=self._parts.roster.beside(one, answer))
        if reasons:
            return _Refusal("device_not_usable", " ".join(f"{uuid}: {why}" for uuid, why in reasons.items()))
        found = {device.uuid: device for device in inventory.snapshot().devices}
        missing = [uuid for uuid in answer if uuid not in found]
        if missing:
            return _Refusal("unknown_device", f"{', '.join(missing)}: not in this host's inventory yet.")
        one.taken = tuple(TakenDevice(uuid, found[uuid].index, inventory.backend.mask_token(uuid)) for uuid in answer)
        failpoints.hit("agent.looked")
        return None

    def _held_beside(self, one: Supervised) -> dict[str, str]:
        """Device UUID -> attempt key, of all that lives on this host and would not share with this one."""
        others = [other for other in self._parts.roster.living() if not (one.shared_mib and other.shared_mib)]
        return {uuid: other.key for other in others for uuid in other.uuids}

    def _claim(self, one: Supervised, allowed: Sequence[str]) -> tuple[str, ...] | ClaimRefused:
        spec = one.spec
        memory = {device.uuid: device.memory_total_mib or 0 for device in self._parts.inventory.snapshot().devices}
        return self._parts.claims.acquire(
            one.key,
            job=spec.job,
            fence=spec.fence,
            count=spec.device_count,
            allowed=allowed,
            shared_mib=one.shared_mib,
            room_mib=memory,
        )

    def _launch(self, one: Supervised, sealed: str) -> _Refusal | None:
        """None too where the directory was made meanwhile; `one.tail` tells."""
        if one.stop_grace_s is not None:
            return _Refusal("stopped", "Stopped before it started.")
        if one.spec.expires_at < time.time():  # This process may have been stopped since it looked last.
            return _Refusal("expired", "Its offer had expired when the host came to launch it.")
        answer = self._launcher.launch(one.spec, one.taken, sealed=sealed)
        if isinstance(answer, LaunchRefused):
            return _Refusal(answer.code, answer.message)
        if isinstance(answer, Duplicate):
            if (answer.attempt.path / "refused.json").exists():
                self.watcher.release(one.key)  # A stop came first and left its word; it has been reported.
            return None
        failpoints.hit("agent.launched")
        one.shim_pid, one.watched_since = answer.pid, time.monotonic()
        self.relay_log(one, adopted=False)
        return None

    def relay_log(self, one: Supervised, *, adopted: bool) -> None:
        spec = one.spec
        one.tail = Tail(one.attempt.path, job=spec.job, attempt=spec.attempt, fence=spec.fence, adopted=adopted)
        self._parts.relay.add(one.tail)

    def relay_ended(self, attempt: AttemptDir) -> Tail:
        """Hand over the rest of the log of an attempt whose end was told before."""
        tail = Tail(attempt.path, job=attempt.job, attempt=attempt.attempt, fence=attempt.fence, adopted=True)
        tail.ended = True
        self._parts.relay.add(tail)
        return tail

    def _refuse(self, one: Supervised, refusal: _Refusal) -> None:
        if leave_refusal(one.attempt, refusal.code, refusal.message):
            self.watcher.refused(one)
        else:  # No word that could be taken back later: the offer expires, and the control plane makes another.
            self.watcher.release(one.key)

    # --- stopping -------------------------------------------------------------------------------------------------------

    def stop(self, order: Stop) -> None:
        """End an attempt, wherever it stands. One that has not come yet is refused when it comes."""
        key = protocol.attempt_key(order.job, order.attempt, order.fence)
        failpoints.hit("stop.heard")
        one = self._parts.roster.get(key)
        if one:
            self.watcher.stop(one, order.kill_grace_s)
            return
        attempt = AttemptDir(self.folder / key)
        if leave_refusal(attempt, "stopped", "Stopped before it started."):
            failpoints.hit("stop.refusal_left")
            self._parts.reporter.send(
                protocol.Refused(
                    job=order.job, attempt=order.attempt, fence=order.fence, code="stopped", message="Stopped before it started."
                )
            )
        elif ended := attempt.record("ended.json"):
            self._parts.reporter.send(protocol.Ended.read(ended))  # They would not ask if they knew.
        elif attempt.shim_alive() and (client := attempt.connect()):  # Another version's, that nobody here looks after.
            with client:
                client.stop(protocol.EndReason.CANCELLED, order.kill_grace_s)


def _listed(held: Mapping[str, str]) -> str:
    return ", ".join(f"{uuid} is held by {key}" for uuid, key in held.items())


def leave_refusal(attempt: AttemptDir, code: str, message: str) -> bool:
    """Make its directory, the start token, with the refusal in it. False where it was launched, or nothing can be written.

    True again where it lies there refused already.
    """
    try:
        attempt.path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return (attempt.path / "refused.json").exists() and not (attempt.path / "shim.json").exists()
    except OSError as exc:
        log.error("A refusal could not be written: %s", exc, extra={"action": "refuse", "attempt_key": attempt.key})
        return False
    return _write_refusal(attempt, code, message)


def _write_refusal(attempt: AttemptDir, code: str, message: str) -> bool:
    try:
        return attempt.refuse(code, message)
    except OSError as exc:
        log.error("A refusal could not be written: %s", exc, extra={"action": "refuse", "attempt_key": attempt.key})
        return False
