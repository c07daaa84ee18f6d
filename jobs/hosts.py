"""Writes down what heartbeats tell about hosts and devices: on change, and once a minute. Live values stay in Redis."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import transaction

from gpuworker.protocol import Beat, DeviceReading
from jobs import capacity, hostkeys, hostlink, orphans, rules, welcome
from jobs.canaries import Canaries
from jobs.capacity import HostView
from jobs.hostlink import Heard
from jobs.models import Device, Host
from jobs.progress import Progress
from jobs.rings import Rings
from jobs.states import DeviceState

log = logging.getLogger(__name__)

REFRESH = timedelta(seconds=60)


class _Rows:
    """All devices as the database remembers them, read once in a look; what is written during the look changes here too."""

    def __init__(self) -> None:
        self.by_uuid: dict[str, Device] = {}
        self._of_host: defaultdict[int, list[Device]] = defaultdict(list)
        for row in capacity.device_rows():
            self.by_uuid[row.uuid] = row
            self._of_host[row.host_id].append(row)

    def present(self, host: Host) -> list[Device]:
        return [row for row in self._of_host[host.pk] if row.present and row.host_id == host.pk]

    def add(self, **values: Any) -> None:
        row = Device.objects.create(**values)
        self.by_uuid[row.uuid] = row

    def change(self, rows: Iterable[Device], **values: Any) -> None:
        changed = list(rows)
        Device.objects.filter(pk__in=[row.pk for row in changed]).update(**values)
        for row in changed:
            for name, value in values.items():
                setattr(row, name, value)


class Watch:
    """The leader's look at all hosts, once a second."""

    def __init__(self, *, writing: Callable[[], AbstractContextManager[None]] = transaction.atomic) -> None:
        self._writing = writing
        self._free: frozenset[str] = frozenset()
        self._twice: set[str] = set()
        self._speaking: frozenset[str] = frozenset()
        self._crier = orphans.Crier()
        self._progress = Progress(writing=writing)
        self._canaries = Canaries()
        self._rules = rules.Sender()
        self._rings = Rings()
        self.to_repair = False
        """After a look: a host is heard again, or runs what nobody knows, so that the reconciler should not wait."""

    def look(self, now: datetime) -> bool:
        """Bring the rows up to date; True if something may start that could not a moment ago. Raises redis.RedisError."""
        rows = {host.name: host for host in Host.objects.all()}
        welcome.answer(rows)
        heard = hostlink.heard(rows)
        self._settle_keys(rows, heard)
        devices = _Rows()
        views = capacity.hosts_now(now=now, beats=heard, devices=devices.by_uuid.values())
        for view in views:
            if view.name in rows:
                self._record(rows[view.name], view, heard.get(view.name), devices, now)
        self._rings.note(heard, now_s=now.timestamp(), fresh_s=capacity.stale_after_s())
        self._progress.note((name, heard[name].beat) for name in heard if heard[name].age_s <= capacity.stale_after_s())
        self.to_repair = self._speaks_again(views) | self._crier.tell(views)
        self._rules.look(rows, {name: heard[name] for name in self._speaking})
        self._canaries.send((name, heard[name]) for name in self._speaking)
        return self._more_is_free(views)

    def _settle_keys(self, rows: Mapping[str, Host], heard: Mapping[str, Heard]) -> None:
        for name, host in heard.items():
            if hostkeys.has_new_key(rows[name], host.key):
                with self._writing():
                    hostkeys.settle(rows[name])

    def _speaks_again(self, views: Iterable[HostView]) -> bool:
        speaking = frozenset(view.name for view in views if not view.stale)
        again, self._speaking = not speaking <= self._speaking, speaking
        return again

    def _more_is_free(self, views: Iterable[HostView]) -> bool:
        open_hosts = [v for v in views if v.accepts]
        free = frozenset([d.uuid for v in open_hosts for d in v.devices if d.state is DeviceState.FREE] + [v.name for v in open_hosts])
        more, self._free = not free <= self._free, free
        return more

    def _record(self, host: Host, view: HostView, heard: Heard | None, devices: _Rows, now: datetime) -> None:
        changes = _host_changes(host, view, heard)
        seen_again = heard and (host.last_seen_at is None or (view.last_seen_at and view.last_seen_at - host.last_seen_at > REFRESH))
        writes = self._device_changes(host, heard.beat, devices, now) if heard and not heard.beat.device_error else []
        if not changes and not seen_again and not writes:
            return
        with self._writing():
            Host.objects.filter(pk=host.pk).update(**changes, last_seen_at=view.last_seen_at)
            for write in writes:
                write()
        silent_trouble = view.deaf or view.outdated  # it is up, and gets nothing
        if "state" in changes or (silent_trouble and host.reason[:8] != view.reason[:8]):
            log.info("%s is %s%s", host.name, view.state, f": it {view.reason}" if view.reason else "", extra={"action": "host_state"})

    def _device_changes(self, host: Host, beat: Beat, rows: _Rows, now: datetime) -> list[Callable[[], Any]]:
        """The writes that bring the device rows in line with a heartbeat. A UUID that another host still shows stays there."""
        writes: list[Callable[[], Any]] = []
        seen_again: list[Device] = []
        for reading in beat.devices:
            row, told = rows.by_uuid.get(reading.uuid), _told(reading)
            if row is None:
                writes.append(partial(rows.add, host=host, updated_at=now, **told))
            elif row.host_id != host.pk and row.present:
                self._tell_twice(row, host)
            elif row.host_id != host.pk or any(getattr(row, name) != value for name, value in told.items()):
                writes.append(partial(rows.change, [row], host=host, updated_at=now, **told))
            elif now - row.updated_at > REFRESH:
                seen_again.append(row)
        if seen_again:
            writes.append(partial(rows.change, seen_again, updated_at=now))
        shown = {reading.uuid for reading in beat.devices}
        if gone := [row for row in rows.present(host) if row.uuid not in shown]:
            writes.append(partial(rows.change, gone, present=False, updated_at=now))
        return writes

    def _tell_twice(self, row: Device, host: Host) -> None:
        if row.uuid not in self._twice:
            self._twice.add(row.uuid)
            log.warning("%s and %s both show device %s", row.host.name, host.name, row.uuid, extra={"action": "device_twice"})


def _host_changes(host: Host, view: HostView, heard: Heard | None) -> dict[str, Any]:
    told: dict[str, Any] = {"state": view.state, "reason": view.reason[:500]}
    if heard:
        told |= {
            "boot_id": heard.beat.boot_id,
            "agent_version": heard.beat.agent_version,
            "device_source": heard.beat.device_source,
            "device_error": heard.beat.device_error[:500],
            "job_slots": heard.beat.job_slots,
            "inventory_known": view.inventory_known,
        }
        if not heard.beat.device_error:
            told["device_count"] = len(heard.beat.devices)
    return {name: value for name, value in told.items() if getattr(host, name) != value}


def _told(reading: DeviceReading) -> dict[str, Any]:
    return {
        "uuid": reading.uuid,
        "index": reading.index,
        "name": reading.name[:128],
        "memory_total_mib": reading.memory_total_mib,
        "parent": reading.parent,
        "allocatable": reading.allocatable,
        "simulated": reading.simulated,
        "present": True,
    }
