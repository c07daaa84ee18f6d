"""The operators' rules for this host: what counts as using its devices, and which processes do not.

They come sealed in a key that is read before each heartbeat. The last ones lie on disk as they came, sealed, and hold
without Redis and after a restart. What is forged, older or missing changes nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from gpuworker import dropped, protocol
from gpuworker.devices.usage import Rule
from gpuworker.protocol import IN_USE_IDLE_MIN, IN_USE_MEMORY_MIB, Kind, Rules
from gpuworker.shim import processes

if TYPE_CHECKING:
    from gpuworker.link import Link

log = logging.getLogger(__name__)

_NOT_RULES = (protocol.BadEnvelope, protocol.BadMessage)


class HostRules:
    """For one thread. `apply` gets the rule that holds, at once for what lies on disk."""

    def __init__(self, link: Link, path: Path, apply: Callable[[Rule], None]) -> None:
        self._link, self._path, self._apply = link, path, apply
        self._last_text: bytes = b""
        self.serial = 0
        self._from_disk()

    def read(self) -> None:
        """Go by what lies in Redis, where it is newer. Raises redis.RedisError: then the last ones hold on."""
        try:
            text: Any = self._link.client.get(protocol.rules_key(self._link.host))
        except redis.ResponseError:
            return  # No string lies there: whoever put it there must not stop our heartbeats.
        if not text or text == self._last_text:
            return
        self._last_text = bytes(text)
        try:
            rules = self._opened(text)
        except _NOT_RULES as exc:
            dropped.warn(log, "Rules were dropped: %s", exc, action=dropped.Drop.RULES)
            return
        if rules.serial <= self.serial:
            return  # Old ones, put there again by whoever can write into Redis.
        self._keep(bytes(text))
        self._go_by(rules)
        log.info("New rules for processes outside the queue: %s", rule_of(rules), extra={"action": "rules"})

    def _from_disk(self) -> None:
        try:
            self._go_by(self._opened(self._path.read_bytes()))
        except FileNotFoundError:
            return
        except (OSError, *_NOT_RULES) as exc:
            dropped.warn(log, "The rules in %s cannot be used: %s", self._path, exc, action=dropped.Drop.RULES)

    def _opened(self, text: bytes) -> Rules:
        return Rules.read(protocol.unseal(Kind.RULES, self._link.host, text, self._link.keys))

    def _keep(self, text: bytes) -> None:
        """A full disk must not stop heartbeats: the rules hold then until the agent starts again, and come again."""
        beside = self._path.with_suffix(".new")
        try:
            with beside.open("wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self._path)
        except OSError as exc:
            log.warning("The rules cannot be kept on disk: %s", exc, extra={"action": "rules_not_kept"})

    def _go_by(self, rules: Rules) -> None:
        self.serial = rules.serial
        self._apply(rule_of(rules))


def rule_of(rules: Rules) -> Rule:
    boot_id = processes.boot_id()
    return Rule(
        memory_mib=IN_USE_MEMORY_MIB if rules.memory_mib is None else rules.memory_mib,
        remembered_s=60.0 * (IN_USE_IDLE_MIN if rules.idle_min is None else rules.idle_min),
        ignored=frozenset((one.pid, one.start_ticks) for one in rules.ignored if one.boot_id == boot_id),
    )
