"""What `manage.py status` prints: services from /proc, hosts and devices from their heartbeats, jobs from the database."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.db.models import Count

from gpuworker.settings import Settings
from jobs.capacity import hosts_now
from jobs.models import Job, Notification
from jobs.notifications import channels
from jobs.scheduling.inventory import DeviceView
from jobs.states import JobState
from starter import processes

Write = Callable[[str], object]


def expected_services(ours: Settings) -> list[str]:
    embedded = ["redis"] if ours.redis_embedded else []
    return [processes.SUPERVISOR, *embedded, "web", "control", "agent", *(["flower"] if ours.flower_port else [])]


def services(write: Write) -> tuple[bool, bool]:
    """Whether any service runs, and whether all do that should."""
    ours: Settings = settings.AUTOTRAINER
    found = processes.services(ours.home)
    missing = [name for name in expected_services(ours) if name not in {service.name for service in found}]
    write(f"AutoTrainer on {ours.home}" + ("" if found else ": not running"))
    for service in found:
        write(f"  {service.name:12} pid {service.pid:<8} up {_duration(service.uptime_s)}")
    for name in missing if found else ():
        write(f"  {name:12} not running: see {ours.home / 'service-logs' / name}.log")
    return bool(found), not missing


def hosts(write: Write) -> None:
    for host in hosts_now():
        write(f"\nHost {host.name}: {host.state}" + (f", {host.reason}" if host.reason else ""))
        if host.device_error:
            write(f"  {host.device_error}")
        for device in host.devices:
            write(
                f"  GPU {device.index}  {device.name}, {_memory(device)}: {device.state}" + (f", {device.reason}" if device.reason else "")
            )


def jobs(write: Write) -> None:
    counts = dict(Job.objects.order_by().values_list("state").annotate(Count("pk")))
    write("\nJobs: " + (", ".join(f"{counts[state]} {state}" for state in JobState if state in counts) or "none yet"))


def notifications(write: Write) -> None:
    way = channels.for_mail()
    counts = dict(Notification.objects.order_by().values_list("state").annotate(Count("pk")))
    told = ", ".join(f"{counts[state]} {state}" for state, _ in Notification.STATES if state in counts)
    if not way:
        told = "; ".join(filter(None, ("none is set up (EMAIL_URL or AUTOTRAINER_EMINDER_URL)", told)))
    write("Mail: " + (told or "none yet"))


def _memory(device: DeviceView) -> str:
    if device.memory_total_mib is None:
        return "memory unknown"
    used = "?" if device.memory_used_mib is None else f"{device.memory_used_mib / 1024:.1f}"
    return f"{used} of {device.memory_total_mib / 1024:.1f} GiB used"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
