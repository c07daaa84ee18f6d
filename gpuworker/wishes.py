"""What operators wish of a host: when a process outside the queue uses a device there. Standard library only.

Part of the protocol (`gpuworker.protocol` names these too).
"""

from __future__ import annotations

from dataclasses import dataclass

from gpuworker.message import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoredProcess(Message):
    """One process of one boot of a host: a later one with its pid is another."""

    boot_id: str
    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules(Message):
    """What operators say about a host's foreign processes. None: as by default (gpuworker/devices/usage.py).

    They do not expire: the one with the highest `serial` holds, so that an older one that is replayed changes nothing.
    """

    serial: int
    memory_mib: int | None = None
    idle_min: int | None = None
    ignored: tuple[IgnoredProcess, ...] = ()
