"""What an attempt used of its devices, as its host tells it: the series for its chart. Standard library only.

Sent now and then while it runs, and whole at its end. Each message holds all of a series, so that the last one is enough.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpuworker.message import Message

MOST_POINTS = 1024
MOST_DEVICES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSeries(Message):
    """Point `i` is the highest of what was seen from `began_at` (unix seconds) + i * `step_s` on, for `step_s`; None: not seen."""

    uuid: str
    index: int
    began_at: float
    step_s: float
    memory_mib: tuple[int | None, ...]
    """Of the attempt's own processes."""
    utilization_pct: tuple[float | None, ...]
    """Of the whole device, whoever shares it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Message):
    job: str
    attempt: int
    fence: int
    series: tuple[DeviceSeries, ...]
