"""What Prometheus scrapes at /metrics: the queue, hosts, devices, the scheduler, letters, messages that were dropped. Numbers only:
no job or person is named.

All of it is asked for when it is scraped, from the database and from the heartbeats; no web process has counters of its own, so
that two of them tell the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import redis
from django.db.models import Count, Min
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gpuworker import protocol
from gpuworker.dropped import Drop
from jobs import drops, hostlink
from jobs.capacity import hosts_now
from jobs.models import Job, Leader, Notification
from jobs.scheduling.inventory import HostView
from jobs.states import DeviceState, HostState, JobState


def metrics(request: HttpRequest) -> HttpResponse:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_All())
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class _All:
    def collect(self) -> Iterator[Metric]:
        hosts = hosts_now()
        yield from _jobs()
        yield from _hosts(hosts)
        yield from _devices(hosts)
        yield from _scheduler()
        yield from _waiting([host.name for host in hosts])
        yield _dropped(hosts)


def _gauge(name: str, told: str, labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"autotrainer_{name}", told, labels=labels)


def _counter(name: str, told: str, labels: tuple[str, ...] = ()) -> CounterMetricFamily:
    return CounterMetricFamily(f"autotrainer_{name}", told, labels=labels)


def _jobs() -> Iterator[Metric]:
    counts = dict(Job.objects.order_by().values_list("state").annotate(Count("pk")))
    jobs = _gauge("jobs", "Jobs by state.", ("state",))
    for state in JobState:
        jobs.add_metric([state], counts.get(state, 0))
    yield jobs
    oldest = Job.objects.filter(state=JobState.QUEUED).aggregate(Min("created_at"))["created_at__min"]
    age = _gauge("oldest_queued_job_age_seconds", "Since when the job that waits longest was submitted; 0 where none waits.")
    age.add_metric([], (timezone.now() - oldest).total_seconds() if oldest else 0.0)
    yield age
    letters = dict(Notification.objects.order_by().values_list("state").annotate(Count("pk")))
    notifications = _gauge("notifications", "Letters by state.", ("state",))
    for word in (Notification.PENDING, Notification.SENDING, Notification.SENT, Notification.DEAD):
        notifications.add_metric([word], letters.get(word, 0))
    yield notifications


def _hosts(hosts: list[HostView]) -> Iterator[Metric]:
    state = _gauge("host_state", "1 for the state that a host is in.", ("host", "state"))
    silent = _gauge("host_last_heartbeat_age_seconds", "Since when a host has not been heard.", ("host",))
    slots = _gauge("host_job_slots_used", "Attempts that a host holds.", ("host",))
    disk = _gauge("host_disk_free_bytes", "What is free where a host keeps its attempts.", ("host",))
    now = timezone.now()
    for host in hosts:
        for each in HostState:
            state.add_metric([host.name, each], float(host.state is each))
        slots.add_metric([host.name], host.used_slots)
        if host.last_seen_at:
            silent.add_metric([host.name], (now - host.last_seen_at).total_seconds())
        if host.disk_free_bytes is not None:
            disk.add_metric([host.name], host.disk_free_bytes)
    yield from (state, silent, slots, disk)


def _devices(hosts: list[HostView]) -> Iterator[Metric]:
    """A reading that failed is left out: it is not 0."""
    states = _gauge("devices", "Devices by host and state.", ("host", "state"))
    labels = ("host", "index", "uuid")
    readings = {
        "memory_total_mib": _gauge("device_memory_total_mib", "Memory of a device.", labels),
        "memory_used_mib": _gauge("device_memory_used_mib", "Memory in use on a device, by whomever.", labels),
        "utilization_pct": _gauge("device_utilization_pct", "Utilisation of a device.", labels),
        "temperature_c": _gauge("device_temperature_c", "Temperature of a device.", labels),
        "power_w": _gauge("device_power_w", "Power that a device draws.", labels),
    }
    for host in hosts:
        counts = Counter(device.state for device in host.devices)
        for state in DeviceState:
            states.add_metric([host.name, state], counts[state])
        for device in host.devices:
            for name, family in readings.items():
                value = getattr(device, name)
                if value is not None and not device.stale:
                    family.add_metric([host.name, str(device.index), device.uuid], value)
    yield states
    yield from readings.values()


def _scheduler() -> Iterator[Metric]:
    leader = Leader.objects.first()
    term = _gauge("scheduler_term", "How often the scheduler has changed hands.")
    age = _gauge("scheduler_lease_age_seconds", "Since when the scheduler has not renewed its lease.")
    if leader:
        term.add_metric([], leader.term)
        age.add_metric([], (timezone.now() - leader.renewed_at).total_seconds())
    yield from (term, age)


def _waiting(hosts: list[str]) -> Iterator[Metric]:
    """Nothing where Redis is away, which `autotrainer_redis_up` says."""
    up = _gauge("redis_up", "Whether Redis answers.")
    family = _gauge("reports_waiting", "Reports and log chunks of a host that have not been taken in.", ("host", "kind"))
    try:
        pipe = hostlink.client().pipeline(transaction=False)
        pipe.ping()
        for name in hosts:
            pipe.xlen(protocol.reports_key(name))
            pipe.xlen(protocol.logs_key(name))
        _, *lengths = pipe.execute()
        up.add_metric([], 1.0)
        for name, reports, logs in zip(hosts, lengths[::2], lengths[1::2], strict=True):
            family.add_metric([name, "reports"], reports)
            family.add_metric([name, "logs"], logs)
    except (redis.RedisError, OSError):
        up.add_metric([], 0.0)
    yield from (up, family)


def _dropped(hosts: list[HostView]) -> Metric:
    """Of a host since its agent began, so that it begins again at 0; Prometheus reckons with that. Kinds of which there were none
    are told too: a number that was not there before is no increase to an alert."""
    family = _counter(
        "messages_dropped_total", "Messages that were dropped by a host; without one, by the control plane.", ("host", "kind")
    )
    for name, counts in (("", drops.counted()), *((host.name, host.dropped) for host in hosts)):
        for kind in Drop:
            family.add_metric([name, kind], counts.get(kind, 0))
    return family
