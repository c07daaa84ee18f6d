"""Jobs, durations and amounts in words."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OVER = ("completed", "failed", "cancelled")
ACTIVE = ("starting", "running", "stopping")
UNFINISHED = (*ACTIVE, "queued", "held")
STATES = (*UNFINISHED, *OVER)


def over(job: Mapping[str, Any]) -> bool:
    return job["state"] in OVER


def gpus(job: Mapping[str, Any]) -> str:
    """How many it has, or asked for."""
    return str(len(job["devices"])) if job["devices"] else asked_gpus(job)


def asked_gpus(job: Mapping[str, Any]) -> str:
    least, most = job["min_gpus"], job["max_gpus"]
    return str(least) if least == most else f"{least}-{most}"


def devices(job: Mapping[str, Any]) -> str:
    return ",".join(str(device["index"]) for device in job["devices"])


def elapsed_s(job: Mapping[str, Any], now: datetime | None = None) -> int | None:
    """From its first start to its end, or to now."""
    if not job["started_at"]:
        return None
    end = moment(job["ended_at"]) if job["ended_at"] else now or datetime.now(UTC)
    return max(0, int((end - moment(job["started_at"])).total_seconds()))


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def local_time(text: str | None) -> str:
    """In this machine's zone."""
    return moment(text).astimezone().strftime("%Y-%m-%d %H:%M:%S") if text else ""


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02}h"


def ago(text: str | None) -> str:
    return f"{duration(max(0, time.time() - moment(text).timestamp()))} ago" if text else "never"


def gib(mib: float | None) -> str:
    return "" if mib is None else f"{mib / 1024:.1f} GiB".replace(".0 GiB", " GiB")


def using(process: Mapping[str, Any]) -> str:
    """A process on a GPU: whose it is, and how much of the GPU it has, for how long."""
    memory, busy, age = process["memory_mib"], process.get("utilization_pct"), process.get("age_s")
    said = [gib(memory), "" if busy is None else f"{busy:.0f}%", "" if age is None else f"since {duration(age)}"]
    told = ", ".join(each for each in said if each)
    who = f"{process['user'] or '?'}: {process.get('command') or '?'} (pid {process['pid']})"
    return f"{who} {told}".rstrip()


def why(job: Mapping[str, Any]) -> str:
    """Why it waits, how far it is, or how it ended."""
    if job["state"] in ("queued", "held") and job["wait_reason"]:
        return str(job["wait_reason"]["message"] or job["wait_reason"]["code"])
    if job["state"] in ACTIVE:
        left = job.get("remaining_s")  # a server of before does not tell
        return "" if job["progress"] is None else f"{job['progress']:.0%}" + ("" if left is None else f", about {duration(left)} left")
    return ending(job["attempts"][-1]) if job["attempts"] and job["state"] == "failed" else ""


_OUTCOMES = {
    "timed_out": "time limit reached",
    "host_lost": "its host was lost",
    "exit_lost": "its exit code was lost",
    "launch_failed": "could not be launched",
}


def commit(attempt: Mapping[str, Any]) -> str:
    """Of which commit its code was; empty where there is no repository, or nobody may know."""
    git = attempt.get("git") or {}
    if not git.get("commit"):
        return ""
    said = f"commit {git['commit'][:10]}" + (f" of {git['branch']}" if git.get("branch") else "")
    return said + " with changes" if git.get("dirty") else said


def ending(attempt: Mapping[str, Any]) -> str:
    """How an attempt ended, in a few words; empty while it runs."""
    outcome = attempt["outcome"]
    if outcome in (None, "completed", "cancelled"):
        return outcome or ""
    said = [_OUTCOMES[outcome]] if outcome in _OUTCOMES else []
    if attempt.get("message"):
        said.append(str(attempt["message"]))
    if outcome == "failed":
        said.append(f"signal {attempt['signal']}" if attempt["signal"] else f"exit code {attempt['exit_code']}")
    if attempt["oom_detected"]:
        said.append("out of GPU memory")
    return ", ".join(said)


def sentence(job: Mapping[str, Any]) -> str:
    """What becomes of it, for a person who follows it."""
    state, reason = job["state"], why(job)
    place = f" on {job['host']}" if job["host"] and state in ACTIVE else ""
    cards = f", GPU {devices(job)}" if place and job["devices"] else ""
    became = _BECAME.get(state, f"is {state}")
    return f"Job {job['id']} {became}{place}{cards}" + (f": {reason}" if reason else ".")


_BECAME = {"completed": "completed", "failed": "failed", "cancelled": "was cancelled"}


def exit_code(job: Mapping[str, Any]) -> int:
    """What `run` exits with: the command's own code, 128 and the signal, or 1 where neither is known."""
    if job["state"] == "completed":
        return 0
    last = job["attempts"][-1] if job["attempts"] else {}
    if last.get("signal"):
        return 128 + int(last["signal"])
    return int(last.get("exit_code") or 1)
