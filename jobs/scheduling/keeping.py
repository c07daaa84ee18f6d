"""Devices that are kept for a person. Only to the jobs of such people does it matter whose they are."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from jobs.scheduling.inventory import HostView
from jobs.scheduling.request import Request, Waiting


def keepers(hosts: Iterable[HostView]) -> frozenset[str]:
    """The people for whom a device is kept now."""
    return frozenset(device.kept_for for host in hosts for device in host.devices if device.kept_for)


def asked_by(job: Waiting, people: Collection[str]) -> Waiting:
    """The job as one of its owner's, where that opens a device to it. All others still ask the same question."""
    return replace(job, request=replace(job.request, owner=job.owner)) if job.owner in people else job


def anybodys(request: Request) -> Request:
    """The same without whose it is, as a job's columns say it."""
    return replace(request, owner="") if request.owner else request
