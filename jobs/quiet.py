"""Trainings that hold GPUs and may hang: their GPUs show 0 % for an hour, or they print nothing for three times as long as ever.

Their owners are told once for each attempt, with the stacks of their Python processes where the host can tell them. Nothing is
stopped: a long evaluation looks the same from here.

Silence is counted only while the host is heard, since a log that does not come is not a training that does not print. What an
attempt's silences were like is kept beside its log (`<attempt>.rhythm.json`), the stacks too (`<attempt>.stack.txt`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings

from gpuworker.measured import DeviceSeries
from gpuworker.protocol import attempt_key
from gpuworker.questions import Ask
from jobs import asking, capacity, eventphrases, lifecycle, logs, samples, wholefile
from jobs.models import Attempt, JobEvent
from jobs.scheduling import phrases
from jobs.states import JobState

EVENT = "went_quiet"
EVERY = timedelta(seconds=30)
LOOK_AT_SAMPLES_EVERY = timedelta(minutes=5)
LEAST_SILENT_S = 1800.0
"""A shorter silence is told of nobody, however chatty it was before."""
TIMES = 3
LEAST_PRINTED = 5
"""With fewer times at which it printed, it has no rhythm that it could fall out of: it may write elsewhere."""
LEAST_KNOWN = 0.9
"""Of the readings of an hour; what could not be read is not 0."""
LATE_S = 180.0
"""Samples come every 20 s; older ones are no news."""
ASK_WAIT_S = 15.0
LONGEST_STACK = 32 * 1024


@dataclass(slots=True)
class Rhythm:
    """How an attempt prints; `silent_s`: since when it has not."""

    size: int = 0
    printed: int = 0
    longest_s: float = 0.0
    silent_s: float = 0.0

    def note(self, size: int, passed_s: float) -> bool:
        """Take in a look, `passed_s` after the last one; whether it has printed since."""
        self.silent_s += passed_s
        if size == self.size:
            return False
        self.printed += 1
        self.longest_s = max(self.longest_s, self.silent_s)
        self.size, self.silent_s = size, 0.0
        return True

    @property
    def fell_silent(self) -> bool:
        return self.printed >= LEAST_PRINTED and self.silent_s >= max(LEAST_SILENT_S, TIMES * self.longest_s)


@dataclass(slots=True)
class _Seen:
    rhythm: Rhythm
    looked_at: datetime
    samples_at: datetime


class Quiet:
    """One per leader."""

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}
        """By fence."""
        self._next_at: datetime | None = None

    def look(self, now: datetime) -> int:
        """Look at all running attempts, every half minute; of how many somebody was told."""
        if not settings.AUTOTRAINER.idle_s or (self._next_at and now < self._next_at):
            return 0
        self._next_at = now + EVERY
        running = Attempt.objects.filter(outcome="", started_at__isnull=False, job__state=JobState.RUNNING)
        told = set(JobEvent.objects.filter(type=EVENT, job__state=JobState.RUNNING).values_list("job_id", "attempt"))
        untold = [attempt for attempt in running if (attempt.job_id, attempt.number) not in told]
        fences = {attempt.fence for attempt in untold}
        self._seen = {fence: seen for fence, seen in self._seen.items() if fence in fences}
        heard = {view.name for view in capacity.hosts_now(now=now) if not view.stale} if untold else set()
        return sum(_tell(attempt, why) for attempt in untold if (why := self._why(attempt, now, heard=attempt.host in heard)))

    def _why(self, attempt: Attempt, now: datetime, *, heard: bool) -> str:
        """A sentence that says in which way it is quiet; empty where it is not."""
        seen = self._seen.get(attempt.fence)
        if seen is None:
            seen = self._seen[attempt.fence] = _Seen(_kept_rhythm(attempt), now, now)
        passed_s = min(now - seen.looked_at, 2 * EVERY).total_seconds() if heard else 0.0
        seen.looked_at = now
        if seen.rhythm.note(logs.size(attempt.job_id, attempt.number), passed_s):
            rhythm = {"printed": seen.rhythm.printed, "longest_s": seen.rhythm.longest_s}
            wholefile.write(_path(attempt, "rhythm.json"), json.dumps(rhythm).encode())
        if seen.rhythm.fell_silent:
            before = _long(max(60.0, seen.rhythm.longest_s))
            return eventphrases.SILENT % {"long": _long(seen.rhythm.silent_s), "longest": before}
        if heard and now >= seen.samples_at:
            seen.samples_at = now + min(LOOK_AT_SAMPLES_EVERY, timedelta(seconds=settings.AUTOTRAINER.idle_s / 4))
            if idle(samples.series_of(attempt), len(attempt.devices), idle_s=settings.AUTOTRAINER.idle_s, now_s=now.timestamp()):
                told = eventphrases.IDLE if len(attempt.devices) == 1 else eventphrases.IDLE_ALL
                return told % {"long": _long(settings.AUTOTRAINER.idle_s)}
        return ""


def idle(all_series: Iterable[DeviceSeries], devices: int, *, idle_s: float, now_s: float) -> bool:
    """Whether all of an attempt's devices have shown 0 % and nothing else for so long, as far as they could be read."""
    every = list(all_series)
    return 0 < devices == len(every) and all(_is_idle(series, idle_s, now_s) for series in every)


def _is_idle(series: DeviceSeries, idle_s: float, now_s: float) -> bool:
    begin, end = now_s - idle_s, series.began_at + len(series.utilization_pct) * series.step_s
    if series.began_at > begin or end < now_s - LATE_S:
        return False
    window = series.utilization_pct[int((begin - series.began_at) / series.step_s) :]
    known = [value for value in window if value is not None]
    return len(known) >= LEAST_KNOWN * len(window) and not any(known)


# --- telling ------------------------------------------------------------------------------------------------------------


def _tell(attempt: Attempt, why: str) -> bool:
    """The stacks first: the letter that goes with the event shows them."""
    if stack := _asked_stack(attempt):
        wholefile.write(_path(attempt, "stack.txt"), stack.encode())
    return lifecycle.note(attempt, EVENT, f"{why} {eventphrases.NOT_STOPPED}", {})


def _asked_stack(attempt: Attempt) -> str:
    args = {"attempt": attempt_key(str(attempt.job.uid), attempt.number, attempt.fence)}
    asked = asking.ask(attempt.host, Ask.STACKS, args, wait_s=ASK_WAIT_S)
    return _read_stacks(asked.told)


def _read_stacks(told: Any) -> str:
    """What a host said, as text; empty where that is nothing that can be read."""
    rows = [row for row in told if isinstance(row, Mapping)] if isinstance(told, list) else []
    text = "\n\n".join(str(row.get("stack", "")) for row in rows if row.get("stack"))
    plain = "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
    return plain[:LONGEST_STACK]


def stack_of(attempt: Attempt) -> str:
    """What its Python processes were doing when it was found quiet; empty where nobody could tell."""
    try:
        return _path(attempt, "stack.txt").read_text()
    except (OSError, ValueError):
        return ""


# --- files --------------------------------------------------------------------------------------------------------------


def _path(attempt: Attempt, name: str) -> Path:
    return logs.log_path(attempt.job_id, attempt.number).with_suffix(f".{name}")


def _kept_rhythm(attempt: Attempt) -> Rhythm:
    size = logs.size(attempt.job_id, attempt.number)
    try:
        told = json.loads(_path(attempt, "rhythm.json").read_text())
        return Rhythm(size, int(told["printed"]), float(told["longest_s"]))
    except (OSError, ValueError, TypeError, KeyError):
        return Rhythm(size)


def _long(seconds: float) -> str:
    if seconds < 60:
        return eventphrases.SECONDS % {"n": f"{seconds:.0f}"}
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    parts = ((hours, eventphrases.ONE_HOUR, eventphrases.HOURS), (rest, eventphrases.ONE_MINUTE, eventphrases.MINUTES))
    return eventphrases.TOGETHER.join(phrases.counted(*part) for part in parts if part[0])
