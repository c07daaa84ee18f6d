"""Looks, after a job has failed at once, whether it is its device or its host that fails, and drains that.

Only an operator resumes it: such a device looks clean. What failed before is no evidence then any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db.models import QuerySet

from jobs import drains, sickness
from jobs.models import Attempt, Device, Host
from jobs.scheduling import phrases
from jobs.sickness import Result, Run
from jobs.states import HostState

LOOKED_BACK = timedelta(days=1)
HERE, ELSEWHERE = 100, 300
"""Attempts that are looked at, the newest."""


def look(attempt_id: int, now: datetime) -> None:
    """`attempt_id` has just ended."""
    attempt = Attempt.objects.select_related("job").get(pk=attempt_id)
    if _run(attempt, now).result is not Result.FAILED_AT_ONCE:
        return
    runs = list(_runs(attempt.host, now))
    if not _drain_devices(attempt, runs):
        _drain_host(attempt.host, runs)


def _drain_devices(attempt: Attempt, runs: list[Run]) -> bool:
    uuids = [device["uuid"] for device in attempt.devices]
    others = Device.objects.filter(present=True, allocatable=True, drain=False, host__drain=False, host__state=HostState.UP)
    alone = not others.exclude(uuid__in=uuids).exists()
    since = dict(Device.objects.filter(uuid__in=uuids).values_list("uuid", "resumed_at"))
    found = {uuid: sickness.of_device(uuid, runs, since=since.get(uuid), alone=alone) for uuid in uuids}
    for uuid, evidence in found.items():
        if evidence:
            drains.drain_sick_device(attempt.host, uuid, sickness.reason(evidence))
    return any(found.values())


def _drain_host(name: str, runs: list[Run]) -> None:
    alone = not Host.objects.filter(drain=False, state=HostState.UP).exclude(name=name).exists()
    since = Host.objects.filter(name=name).values_list("resumed_at", flat=True).first()
    if evidence := sickness.of_host(name, runs, since=since, alone=alone):
        drains.drain_sick_host(name, sickness.reason(evidence))


def _runs(host: str, now: datetime) -> Iterable[Run]:
    ended = Attempt.objects.filter(ended_at__gt=now - LOOKED_BACK).exclude(outcome="").order_by("-ended_at").select_related("job")
    still = Attempt.objects.filter(outcome="", host=host, started_at__isnull=False).select_related("job")
    asked: list[QuerySet[Attempt]] = [ended.filter(host=host)[:HERE], ended.exclude(host=host)[:ELSEWHERE], still]
    return (_run(attempt, now) for attempts in asked for attempt in attempts)


def _run(attempt: Attempt, now: datetime) -> Run:
    ran_s = None if attempt.started_at is None else ((attempt.ended_at or now) - attempt.started_at).total_seconds()
    result = sickness.result_of(
        attempt.outcome, own_fault=attempt.own_fault, exit_code=attempt.exit_code, oom=attempt.oom_detected, ran_s=ran_s
    )
    return Run(
        job=attempt.job_id,
        program=sickness.program_of(attempt.job.command, attempt.job.working_dir),
        host=attempt.host,
        devices=frozenset(device["uuid"] for device in attempt.devices),
        result=result,
        at=attempt.ended_at or attempt.started_at or now,
        told=_told(attempt, ran_s),
    )


def _told(attempt: Attempt, ran_s: float | None) -> str:
    if attempt.outcome == "launch_failed":
        return phrases.NOT_LAUNCHED
    told = {"signal": attempt.signal, "code": attempt.exit_code, "seconds": f"{max(0.0, ran_s or 0.0):.0f}"}
    if ran_s is None:
        return (phrases.HOW_SIGNAL if attempt.signal else phrases.HOW_CODE) % told
    return (phrases.HOW_SIGNAL_AFTER if attempt.signal else phrases.HOW_CODE_AFTER) % told
