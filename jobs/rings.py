"""The last hour of each device, for spark lines: a value a minute, in one small file for each host.

`AUTOTRAINER_HOME/rings/<host>.json`, written by the leader from the heartbeats that it reads anyway. Nothing else depends on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.conf import settings

from jobs import wholefile
from jobs.hostlink import Heard

MINUTES = 60


@dataclass(slots=True)
class Hour:
    """A device's last hour, oldest first, one point a minute; None: nobody saw it then."""

    utilization_pct: list[float | None] = field(default_factory=lambda: [None] * MINUTES)
    """The mean of what was seen in that minute."""
    memory_used_mib: list[int | None] = field(default_factory=lambda: [None] * MINUTES)
    """The highest."""


@dataclass(slots=True)
class _Minute:
    looks: int = 0
    percent: float = 0.0
    memory_mib: int | None = None


@dataclass(slots=True)
class _Host:
    minute: int
    """Since 1970, the one that is being filled; the hours end with the one before it."""
    hours: dict[str, Hour]
    filling: dict[str, _Minute] = field(default_factory=dict)
    beat_at: float = 0.0


class Rings:
    """The leader's. Takes each heartbeat once."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}

    def note(self, heard: Mapping[str, Heard], *, now_s: float, fresh_s: float) -> None:
        """`now_s`: unix seconds. Writes a host's file when a minute is over; a disk that takes nothing loses a spark line."""
        minute = int(now_s // 60)
        for name, one in heard.items():
            host = self._hosts.get(name)
            if host is None:
                host = self._hosts[name] = _Host(minute, _hours_until(_read(name), minute - 1))
            if minute != host.minute:
                _turn(name, host, minute)
            if one.age_s <= fresh_s and one.beat.at != host.beat_at:
                host.beat_at = one.beat.at
                _take(host, one)


def _take(host: _Host, heard: Heard) -> None:
    for device in heard.beat.devices:
        if device.error:
            continue
        seen = host.filling.setdefault(device.uuid, _Minute())
        if device.utilization_pct is not None:
            seen.looks += 1
            seen.percent += device.utilization_pct
        if device.memory_used_mib is not None:
            seen.memory_mib = max(seen.memory_mib or 0, device.memory_used_mib)


def _turn(name: str, host: _Host, minute: int) -> None:
    gap = [None] * min(MINUTES, max(0, minute - host.minute - 1))
    for uuid in host.hours.keys() | host.filling.keys():
        hour, seen = host.hours.setdefault(uuid, Hour()), host.filling.get(uuid, _Minute())
        percent = round(seen.percent / seen.looks, 1) if seen.looks else None
        hour.utilization_pct = [*hour.utilization_pct, percent, *gap][-MINUTES:]
        hour.memory_used_mib = [*hour.memory_used_mib, seen.memory_mib, *gap][-MINUTES:]
    host.hours = {uuid: hour for uuid, hour in host.hours.items() if any(value is not None for value in hour.memory_used_mib)}
    host.filling, host.minute = {}, minute
    _write(name, {"minute": minute - 1, "devices": {uuid: [h.utilization_pct, h.memory_used_mib] for uuid, h in host.hours.items()}})


# --- files --------------------------------------------------------------------------------------------------------------

_READ: dict[Path, tuple[int, dict[str, Any]]] = {}
"""By file: when it was written (ns) and what it says. A page reads many of them, and they change once a minute."""


def hours(hosts: Iterable[str], *, now_s: float) -> dict[str, Hour]:
    """Device UUID -> its last hour, of the devices of these hosts."""
    minute = int(now_s // 60) - 1
    return {uuid: hour for name in hosts for uuid, hour in _hours_until(_read(name), minute).items()}


def _folder() -> Path:
    return Path(settings.LOGS_HOME).with_name("rings")


def _read(name: str) -> dict[str, Any]:
    path = _folder() / f"{name}.json"
    try:
        written = path.stat().st_mtime_ns
        if _READ.get(path, (0, {}))[0] != written:
            found = json.loads(path.read_text())
            _READ[path] = written, found if isinstance(found, dict) else {}
        return _READ[path][1]
    except (OSError, ValueError):
        return {}


def _write(name: str, body: Mapping[str, Any]) -> None:
    wholefile.write(_folder() / f"{name}.json", json.dumps(body, separators=(",", ":")).encode())


def _hours_until(body: Mapping[str, Any], minute: int) -> dict[str, Hour]:
    """What a file says, moved on to end with this minute."""
    gone = minute - int(body.get("minute", 0))
    if not 0 <= gone < MINUTES:
        return {}
    gap = [None] * gone
    return {
        uuid: Hour([*percent, *gap][-MINUTES:], [*memory, *gap][-MINUTES:]) for uuid, (percent, memory) in body.get("devices", {}).items()
    }
