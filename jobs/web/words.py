"""How states, durations and amounts are written on pages: one word and one colour for each, everywhere."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from gpuworker.protocol import ProcessReading
from jobs.phrases import said_of_process, said_of_span
from jobs.scheduling import words as scheduling
from jobs.scheduling.inventory import UseRule
from jobs.scheduling.phrases import PROCESS
from jobs.states import DeviceState, HostState, JobState, Outcome

Label = str | Promise

JOB_LABELS: dict[str, Label] = {
    JobState.QUEUED: gettext_lazy("Queued"),
    JobState.HELD: gettext_lazy("Held"),
    JobState.STARTING: gettext_lazy("Starting"),
    JobState.RUNNING: gettext_lazy("Running"),
    JobState.STOPPING: gettext_lazy("Stopping"),
    JobState.COMPLETED: gettext_lazy("Completed"),
    JobState.FAILED: gettext_lazy("Failed"),
    JobState.CANCELLED: gettext_lazy("Cancelled"),
}
OUTCOME_LABELS: dict[str, Label] = {
    "": gettext_lazy("Open"),
    Outcome.COMPLETED: gettext_lazy("Completed"),
    Outcome.FAILED: gettext_lazy("Failed"),
    Outcome.TIMED_OUT: gettext_lazy("Timed out"),
    Outcome.CANCELLED: gettext_lazy("Cancelled"),
    Outcome.HOST_LOST: gettext_lazy("Host lost"),
    Outcome.EXIT_LOST: gettext_lazy("Exit code lost"),
    Outcome.LAUNCH_FAILED: gettext_lazy("Not launched"),
}
DEVICE_LABELS: dict[str, Label] = {
    DeviceState.FREE: gettext_lazy("Free"),
    DeviceState.CLAIMED: gettext_lazy("In use"),
    DeviceState.BUSY_EXTERNAL: gettext_lazy("Used outside"),
    DeviceState.DRAINED: gettext_lazy("Drained"),
    DeviceState.UNKNOWN: gettext_lazy("Unknown"),
}
HOST_LABELS: dict[str, Label] = {
    HostState.UP: gettext_lazy("Up"),
    HostState.DRAINING: gettext_lazy("Draining"),
    HostState.DRAINED: gettext_lazy("Drained"),
    HostState.UNREACHABLE: gettext_lazy("Unreachable"),
    HostState.LOST: gettext_lazy("Lost"),
}
TONES: dict[str, str] = {
    **dict.fromkeys((JobState.STARTING, JobState.RUNNING, DeviceState.CLAIMED), "ours"),
    **dict.fromkeys((JobState.COMPLETED, DeviceState.FREE, HostState.UP), "free"),
    **dict.fromkeys((JobState.STOPPING, DeviceState.BUSY_EXTERNAL, HostState.DRAINING, HostState.UNREACHABLE), "external"),
    **dict.fromkeys(
        (JobState.FAILED, Outcome.TIMED_OUT, Outcome.HOST_LOST, Outcome.EXIT_LOST, Outcome.LAUNCH_FAILED, HostState.LOST), "failed"
    ),
}
"""Five colours; whatever is not here is "off". `unreachable` is a warning: its trainings go on."""


def tone(word: str) -> str:
    return TONES.get(word, "off")


def duration(span: timedelta | float | None) -> str:
    """Two units at most: "42 s", "3 m 20 s", "12 m", "4 h 12 m", "2 d 3 h". Seconds stop where they would only flicker."""
    if span is None:
        return ""
    total = int(span.total_seconds() if isinstance(span, timedelta) else span)
    minutes, seconds = divmod(max(0, total), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return _("%(d)d d %(h)d h") % {"d": days, "h": hours}
    if hours:
        return _("%(h)d h %(m)d m") % {"h": hours, "m": minutes}
    if minutes >= 10 or (minutes and not seconds):
        return _("%(m)d m") % {"m": minutes}
    if minutes:
        return _("%(m)d m %(s)d s") % {"m": minutes, "s": seconds}
    return _("%(s)d s") % {"s": seconds}


def left(seconds: float | None) -> str:
    """What is left of a training, as the estimate that it is; empty where nobody can tell."""
    return "" if seconds is None else _("≈ %(time)s left") % {"time": duration(seconds)}


def gib(mib: int | None) -> str:
    """MiB as GiB: one decimal below 100, none where it would be zero; "–" where it is not known."""
    if mib is None:
        return "–"
    amount = mib / 1024
    return f"{amount:.0f}" if amount >= 100 or mib % 1024 == 0 else f"{amount:.1f}"


def size(count: int | None) -> str:
    """Bytes as people read them: "812 B", "48 kB", "1.2 TB"; powers of 1000, as disks and `ls -h --si` have it."""
    if count is None:
        return "–"
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def gpus(low: int, high: int) -> str:
    """What a job asks for: "no GPU", "1 GPU", "2 GPUs", "2 to 4 GPUs"."""
    if high == 0:
        return _("no GPU")
    if low != high:
        return _("%(low)d to %(high)d GPUs") % {"low": low, "high": high}
    return ngettext("%(count)d GPU", "%(count)d GPUs", high) % {"count": high}


def place(host: str, devices: list[dict[str, Any]]) -> str:
    """Where an attempt runs: "gpu-a, GPU 0, 1"; "gpu-a" without devices."""
    if not devices:
        return host
    return _("%(host)s, GPU %(indices)s") % {"host": host, "indices": ", ".join(str(d["index"]) for d in devices)}


def elapsed(start: datetime | None, end: datetime | None, now: datetime) -> str:
    return duration((end or now) - start) if start else ""


def process(reading: ProcessReading) -> str:
    """What a process does on a device: "alice's python (pid 4711), 23 GiB, 97 %, for 3 h 7 m"; nothing of what is not known."""
    parts = [said_of_process(scheduling.process(reading))]
    if reading.memory_mib is not None:
        parts.append(f"{gib(reading.memory_mib)} GiB")
    if reading.utilization_pct is not None:
        parts.append(f"{reading.utilization_pct:.0f} %")
    if reading.age_s is not None:
        parts.append(_("for %(time)s") % {"time": said_of_span(scheduling.span(reading.age_s))})
    if reading.ignored:
        parts.append(_("ignored"))
    return ", ".join(parts)


def rule(told: UseRule | None) -> str:
    """When a process outside the queue uses a device of a host, who said so, and whether the host knows."""
    if told is None:
        return "–"
    numbers = {"size": scheduling.size(told.memory_mib), "minutes": told.idle_min}
    text = _("uses a device with %(size)s or more, and for %(minutes)d min after computing") % numbers
    if told.by:
        text += _("; set by %(by)s") % {"by": told.by}
    if told.at:
        text += date_format(timezone.localtime(told.at), " (Y-m-d H:i)")
    for one in told.ignored:
        what = said_of_process(PROCESS % {"user": one["user"] or "?", "program": one["command"] or "?", "pid": one["pid"]})
        text += _("; ignores %(what)s, by %(by)s") % {"what": what, "by": one["by"]}
    return text if told.in_force else text + _("; the host does not go by this yet")
