"""What attempts used of their devices, as their hosts told it: one small file beside the stored log, for the chart.

`AUTOTRAINER_HOME/logs/<job>/<attempt>.samples.json`; it goes with the log (jobs/retention.py). Each message of a host replaces
what it said before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from gpuworker.measured import MOST_DEVICES, MOST_POINTS, DeviceSeries, Measured
from jobs import logs, wholefile
from jobs.models import Attempt

LONGEST_STEP_S = 30 * 24 * 3600.0


def store(host: str, told: Measured) -> None:
    """Keep what a host says of one of its attempts. Raises ValueError for numbers that no attempt has."""
    _check(told.series)
    attempt = Attempt.objects.filter(job__uid=told.job, number=told.attempt, fence=told.fence, host=host, log_removed_at=None).first()
    if attempt is None:
        return
    wholefile.write(path_of(attempt), json.dumps([series.body() for series in told.series], separators=(",", ":")).encode())


def series_of(attempt: Attempt) -> list[DeviceSeries]:
    """What is known so far; empty where nothing is."""
    try:
        stored: Any = json.loads(path_of(attempt).read_text())
        return [DeviceSeries.read(series) for series in stored]
    except (OSError, ValueError):
        return []


def path_of(attempt: Attempt) -> Any:
    return logs.log_path(attempt.job_id, attempt.number).with_suffix(".samples.json")


def _check(all_series: Sequence[DeviceSeries]) -> None:
    if len(all_series) > MOST_DEVICES:
        raise ValueError(f"samples of {len(all_series)} devices")
    for series in all_series:
        numbers = [series.began_at, series.step_s, *series.memory_mib, *series.utilization_pct]
        if not all(number is None or (math.isfinite(number) and 0 <= number < 2**53) for number in numbers):
            raise ValueError("samples with numbers that are none")
        if not 0 < series.step_s < LONGEST_STEP_S or not len(series.memory_mib) == len(series.utilization_pct) <= MOST_POINTS:
            raise ValueError(f"samples with {len(series.memory_mib)} points of {series.step_s} s")
