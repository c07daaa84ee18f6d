"""The host agent: all parts put together, and the threads that keep them going.

Nothing of it runs on Celery's event loop, which stands still while the broker is away.
"""

from __future__ import annotations

import dataclasses
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import redis

from gpuworker import contacts, disks, dropped, groups, identity, protocol, redischeck, shortcomings
from gpuworker.answering import Answering
from gpuworker.attempts import attempts_folder
from gpuworker.canary import Ear, start_over
from gpuworker.claims.store import LEFT_OVER_AFTER_S, ClaimStore
from gpuworker.commands import Stops
from gpuworker.devices import make_backend, sim_dir
from gpuworker.devices.base import machine_lock_folder
from gpuworker.hotswap import uncovered, ways
from gpuworker.hotswap.orders import HotSwap
from gpuworker.inventory import Inventory
from gpuworker.joining import Joining, take_name
from gpuworker.launcher import Launcher
from gpuworker.link import connect
from gpuworker.protocol import AttemptReading, Beat, DeviceReading, Kind
from gpuworker.recovery import KEEP_S, LOOK_EVERY_S, Publish, Recovery
from gpuworker.relay import Relay
from gpuworker.reports import AckReader, Reporter
from gpuworker.roster import Roster, Supervised
from gpuworker.rules import HostRules
from gpuworker.runner import JOB_SLOTS, Runner
from gpuworker.samples import Sampler
from gpuworker.settings import BadSetting, Settings, host_key, previous_host_key
from gpuworker.shim import hostmemory, locks, processes
from gpuworker.watch import Parts

log = logging.getLogger(__name__)

AGENT_VERSION = "0.2.0.dev0"  # as pyproject.toml has it
REPEAT_EVERY_S = 5.0
PRUNE_EVERY_S = 3600.0
OVERLAYS_EVERY_S = 5.0
LOCK_PATIENCE_S = 10.0
"""An agent that is leaving needs a moment; the next one waits for it."""


class Agent:
    """One per host and home. Raises BadSetting where it cannot work with the settings it is given."""

    def __init__(self, config: Settings, publish: Publish) -> None:
        self.settings = config
        self.link = connect(config.redis_url, host=config.host, key=host_key(config), previous=previous_host_key(config))
        backend = self._backend = make_backend(config)
        folder = attempts_folder(config)
        roster = Roster(folder)
        self._inventory = Inventory(backend, config)
        self._rules = HostRules(self.link, config.host_home / "rules", self._inventory.set_rule)
        self._relay = Relay(self.link, lambda tail: self._recovery.handed_over(tail))
        claims = ClaimStore(self.link.client, config.host)
        reporter = Reporter(self.link)
        self._parts = Parts(self._inventory, claims, reporter, self._relay, roster, self._send_beat)
        self._sampler = Sampler(self._inventory, roster, reporter.send, step_s=config.heartbeat_s)
        self._hotswap = HotSwap(config, self.link.client, lock_folder=machine_lock_folder(), way=ways.choose(config.host_home))
        self._launcher = Launcher(
            config,
            lock_folder=backend.lock_folder,
            sim_dir=sim_dir(config) if backend.source == "simulated" else None,
            group_parent=groups.parent_for(),
            hotswap=self._hotswap,
        )
        self.runner = Runner(self._parts, self._launcher, folder)
        self._recovery = Recovery(config, self._parts, self.runner, publish)
        self._acks = AckReader(self.link, self._recovery.acknowledged)
        self._answering = Answering(self.link, config)
        self.stops = Stops(config.host_home / "nonces", self.link, self.runner)
        self.ear = Ear(self.link, config.host_home / "started-over")
        self._stopped = threading.Event()
        self._lock = -1
        self._instance = ""
        self._joining: Joining | None = None

    def start(self) -> None:
        """Take over what is there before the first heartbeat says what is there, and before the first message comes."""
        self._lock = _only_one(self.settings)
        self._look_at_redis()
        self._instance = take_name(self.link, self.settings.host_home / "instance", heartbeat_s=self.settings.heartbeat_s)
        hostmemory.keep()
        groups.count_memory(self._launcher.group_parent)
        self._inventory.set_ours(self._parts.roster.is_ours)
        self._inventory.set_trainings(self._parts.roster.trainings)
        self._launcher.start()
        self._inventory.start()
        self._tell_shortcomings()
        self._acks.start()
        self._relay.start()
        self._recovery.take_over()
        self._started_at = time.monotonic()
        self._claim_what_was_taken_over()
        self._joining = Joining(self.link, self._instance, AGENT_VERSION, self._refused)
        self._joining.start()
        self._answering.start()
        for name, every_s, chore in (
            ("heartbeat", self.settings.heartbeat_s, self._heartbeat),
            ("repeat", REPEAT_EVERY_S, self._repeat),
            ("recovery", LOOK_EVERY_S, self._recovery.take_over),
            ("prune", PRUNE_EVERY_S, self._prune),
            ("samples", self.settings.heartbeat_s / 2, self._sampler.turn),
            ("overlays", OVERLAYS_EVERY_S, self._look_at_overlays),
        ):
            threading.Thread(target=self._forever, args=(name, every_s, chore), name=name, daemon=True).start()

    def _tell_shortcomings(self) -> None:
        seen = self._inventory.snapshot()
        parent = self._launcher.group_parent
        for each in shortcomings.found(self.settings.home, devices=len(seen.devices), error=seen.error, group_parent=parent):
            log.warning("%s", each, extra={"action": "shortcoming"})

    def _look_at_redis(self) -> None:
        """Raises BadSetting where everybody may write there."""
        try:
            redischeck.refuse_open(self.link.client, self.settings)
        except redis.RedisError as exc:
            log.warning("Redis cannot be looked at: %s", exc, extra={"action": "redis_unseen"})

    def _claim_what_was_taken_over(self) -> None:
        """Before the first message can come, so that it meets the claims of those who run already."""
        try:
            self._renew_claims()
        except redis.RedisError as exc:
            log.warning("Claims wait until Redis is back: %s", exc, extra={"action": "claims_wait"})

    def leave(self) -> None:
        """Send all supervising threads away; trainings go on. Safe to call from a signal handler, and twice."""
        self.runner.watcher.leave()

    def stop(self, *, restarting: bool = False) -> None:
        self.leave()
        self._stopped.set()
        if self._joining:
            self._joining.stop()
        self._acks.stop()
        self._answering.stop()
        self._relay.stop()
        self._inventory.stop()
        self._launcher.close()
        if self._lock >= 0:
            if self._joining and not restarting:
                self._say_goodbye()
            os.close(self._lock)
            self._lock = -1

    def _say_goodbye(self) -> None:
        """Nobody has to wait for heartbeats that do not come to see that nothing starts here."""
        try:
            self._send_beat(leaving=True)
        except redis.RedisError as exc:
            log.info("No goodbye: Redis is away: %s", exc, extra={"action": "goodbye"})

    def _forever(self, name: str, every_s: float, chore: Callable[[], object]) -> None:
        away = False
        while not self._stopped.is_set():
            try:
                chore()
                if away:
                    log.info("Redis is back", extra={"action": name})
                away = False
            except redis.RedisError as exc:
                if not away:
                    log.warning("%s: Redis is away: %s", name, exc, extra={"action": name})
                away = True
            except Exception:
                log.exception("%s failed", name, extra={"action": name})
            self._stopped.wait(every_s)

    def _heartbeat(self) -> None:
        self._rules.read()
        self.ear.listen()
        self._send_beat()
        self._renew_claims()
        if self.ear.has_had_enough:
            self._start_over()

    def _refused(self, why: str) -> None:
        """The control plane does not want this agent, and the log says why. Its trainings, where it has any, go on."""
        log.critical("%s", why, extra={"action": "refused"})
        self.stop()
        os._exit(1)  # Celery's own way out waits for threads that watch trainings.

    def _renew_claims(self) -> None:
        # What was claimed before this agent started and is in no directory was claimed by one that died at it.
        left_over_after_s = min(LEFT_OVER_AFTER_S, time.monotonic() - self._started_at)
        held = self._parts.roster.held()
        conflicts = self._parts.claims.renew(held, left_over_after_s=left_over_after_s)
        self.runner.watcher.release_ended(held)
        for uuid, holder in conflicts.items():
            log.error("Redis gives %s to %s, but it is in use here by another", uuid, holder, extra={"action": "claim_conflict"})

    def _start_over(self) -> None:
        """A deaf worker is made to hear again; to trainings it is a restart like any other."""
        log.error("The queue has brought nothing for %.0f s: starting over", self.ear.deaf_s, extra={"action": "deaf"})
        self.ear.remember_starting_over()
        self.stop(restarting=True)
        start_over()

    def _send_beat(self, *, leaving: bool = False) -> None:
        if self._stopped.is_set() and not leaving:
            return  # A late one would take the goodbye back.
        beat = protocol.seal(Kind.BEAT, self.link.host, dataclasses.replace(self.beat(), leaving=leaving).body(), self.link.key)
        asked_s = contacts.now_s()
        self.link.client.set(protocol.beat_key(self.link.host), beat, ex=protocol.BEAT_LIFETIME_S)
        try:
            contacts.note(contacts.path_of(self.settings), asked_s)
        except OSError as exc:
            log.error("The contact with Redis cannot be noted: %s", exc, extra={"action": "contact"})

    def beat(self) -> Beat:
        snapshot, room = self._inventory.snapshot(), disks.room(self.settings.host_home)
        return Beat(
            host=self.link.host,
            at=time.time(),
            boot_id=processes.boot_id(),
            agent_version=AGENT_VERSION,
            device_source=self._backend.source,
            device_error=snapshot.error,
            job_slots=JOB_SLOTS,
            devices=self._with_locks(snapshot.devices),
            attempts=tuple(_told(one) for one in self._parts.roster.everyone()) + self._recovery.unreadable(),
            deaf_s=self.ear.deaf_s,
            disk_free_bytes=room.free_bytes if room else None,
            disk_least_bytes=room.least_bytes if room else None,
            kill_level="cgroup" if self._launcher.group_parent else "subreaper",
            swap_way=self._hotswap.way.name,
            swap_note=self._hotswap.way.note,
            instance=self._instance,
            rules_serial=self._rules.serial,
            dropped=dropped.counts(),
        )

    def _with_locks(self, devices: tuple[DeviceReading, ...]) -> tuple[DeviceReading, ...]:
        """A device that another installation on this machine has locked shows as busy: offered, it would only be refused."""
        ours = {uuid for one in self._parts.roster.living() for uuid in one.uuids}
        return tuple(
            _busy(d) if d.allocatable and d.uuid not in ours and _locked(self._backend.lock_folder, d.uuid) else d for d in devices
        )

    def _look_at_overlays(self) -> None:
        for one in self._parts.roster.living():
            if one.spec.swaps:
                one.uncovered = tuple(dict.fromkeys((*one.uncovered, *uncovered.targets(one.attempt))))

    def _prune(self) -> None:
        self._recovery.prune()
        self._hotswap.prune(keep_s=KEEP_S)

    def _repeat(self) -> None:
        self.runner.watcher.release_again()
        self._parts.reporter.repeat()


def _told(one: Supervised) -> AttemptReading:
    return dataclasses.replace(one.reading(), name=one.spec.name, devices=one.uuids)


def _locked(folder: Path, uuid: str) -> bool:
    try:
        return identity.is_taken(locks.lock_path(folder, uuid))
    except OSError as exc:
        log.error("The lock of %s cannot be tried: %s", uuid, exc, extra={"action": "probe_lock"})
        return True  # Nothing could be launched on it.


def _busy(device: DeviceReading) -> DeviceReading:
    return dataclasses.replace(device, in_use_outside=True)


def _only_one(config: Settings) -> int:
    """The lock of this host's home; raises BadSetting where another agent keeps it."""
    config.host_home.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(config.host_home / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except OSError:
            if time.monotonic() > deadline:
                os.close(fd)
                raise BadSetting(
                    f"Another agent of host {config.host} runs with AUTOTRAINER_HOME={config.home}. Stop it, or give this one another home."
                ) from None
        time.sleep(0.1)
