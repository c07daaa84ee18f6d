"""What attempts used of their devices and what they printed: from the host's words to REST and the pages."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from gpuworker import protocol
from gpuworker.measured import MOST_POINTS, DeviceSeries, Measured
from gpuworker.protocol import Ended, Kind, Spec, Started
from jobs import dispatch, lifecycle, logs, retention, rings, samples
from jobs.hosts import Watch
from jobs.ingest import Ingest
from jobs.models import Job, User
from jobs.states import JobState
from tests.integration.fakehost import FakeHost
from tests.integration.host import KEY, running_host
from tests.integration.rest import Rest, person
from tests.waiting import wait_until

Submit = Callable[..., Job]
BEGAN = 1_750_000_000.0


@pytest.fixture
def ingest(host: FakeHost) -> Ingest:
    return Ingest()


def measured(spec: Spec, *memory: int | None, **changes: Any) -> Measured:
    series = {"uuid": spec.devices[0], "index": 0, "began_at": BEGAN, "step_s": 2.0, "memory_mib": memory}
    series |= {"utilization_pct": tuple(None if mib is None else 50.0 for mib in memory)} | changes
    return Measured(job=spec.job, attempt=spec.attempt, fence=spec.fence, series=(DeviceSeries(**series),))


def take(ingest: Ingest) -> None:
    while ingest.turn(block_ms=1):
        pass


def started(host: FakeHost, submit: Submit, ingest: Ingest) -> tuple[Job, Spec]:
    job = submit()
    dispatch.run_pass(timezone.now())
    (spec,) = host.offers()
    host.started(spec)
    take(ingest)
    return job, spec


def told(job: Job, asker: User | None = None) -> Any:
    return Rest(asker or job.owner)("GET", f"jobs/{job.pk}/samples/").json()


# --- samples ------------------------------------------------------------------------------------------------------------


def test_last_word_of_the_host_is_what_is_told(host: FakeHost, submit: Submit, ingest: Ingest) -> None:
    job, spec = started(host, submit, ingest)
    assert told(job) == {"attempt": 1, "open": True, "series": []}
    host._report(Kind.MEASURED, measured(spec, 100))
    host._report(Kind.MEASURED, measured(spec, 100, None, 300))
    take(ingest)
    answer = told(job, person("somebody"))  # how a GPU is used is for everybody to see
    (series,) = answer["series"]
    assert (series["memory_mib"], series["utilization_pct"]) == ([100, None, 300], [50.0, None, 50.0])
    assert (series["uuid"], series["index"], series["step_s"]) == (spec.devices[0], 0, 2.0)
    assert series["began_at"] == "2025-06-15T15:06:40.000Z"
    assert {(ack.what, ack.attempt) for ack in host.acks()} >= {(Kind.MEASURED, 1)}
    host.ended(spec)
    take(ingest)
    assert not told(job)["open"]


@pytest.mark.parametrize(
    "changes",
    [
        {"step_s": 0.0},
        {"step_s": float("inf")},
        {"began_at": float("nan")},
        {"utilization_pct": ()},
        {"memory_mib": (2**60,), "utilization_pct": (1.0,)},
        {"memory_mib": (-1,), "utilization_pct": (1.0,)},
        {"memory_mib": (1,) * (MOST_POINTS + 1), "utilization_pct": (1.0,) * (MOST_POINTS + 1)},
    ],
    ids=range(7),
)
def test_numbers_that_no_attempt_has_are_dropped(host: FakeHost, submit: Submit, ingest: Ingest, changes: dict[str, Any]) -> None:
    job, spec = started(host, submit, ingest)
    host._report(Kind.MEASURED, measured(spec, 100, **changes))
    take(ingest)
    assert told(job)["series"] == []
    assert host.left() == 0


def test_samples_of_another_hosts_or_no_attempt_are_dropped(host: FakeHost, submit: Submit, ingest: Ingest, ada: User) -> None:
    job, spec = started(host, submit, ingest)
    samples.store("gpu-z", measured(spec, 100))
    host._report(Kind.MEASURED, measured(replace(spec, fence=spec.fence + 1), 100))
    host._report(Kind.MEASURED, measured(replace(spec, job="no uuid"), 100))
    take(ingest)
    assert told(job)["series"] == []
    assert host.left() == 0


def test_samples_go_with_the_log(host: FakeHost, submit: Submit, ingest: Ingest) -> None:
    job, spec = started(host, submit, ingest)
    host._report(Kind.MEASURED, measured(spec, 100))
    host.ended(spec)
    take(ingest)
    assert told(job)["series"]
    Job.objects.filter(pk=job.pk).update(ended_at=timezone.now() - timedelta(days=100))
    retention.prune(days=90, now=timezone.now())
    assert told(job)["series"] == []
    host._report(Kind.MEASURED, measured(spec, 100))  # a late one
    take(ingest)
    assert told(job)["series"] == []


def test_real_agent_tells_what_a_training_used(redis_url: str, tmp_path: Path) -> None:
    with running_host(redis_url, tmp_path) as host:
        spec = host.offer(host.spec("sleep 2"))
        host.report(Started, spec)
        found: list[Measured] = []

        def look() -> bool:
            entries: Any = host.client.xrange(protocol.reports_key("gpu-a"))
            for _, fields in entries:
                if b'"k": "measured"' in fields[b"e"][:80]:
                    found.append(Measured.read(protocol.unseal(Kind.MEASURED, "gpu-a", fields[b"e"], [KEY])))
            return any(one.series[0].memory_mib[-1] for one in found)

        wait_until(look, 20, "its samples are told")
        assert (found[0].job, found[0].attempt, found[0].fence) == (spec.job, spec.attempt, spec.fence)
        host.report(Ended, spec)


# --- curves -------------------------------------------------------------------------------------------------------------


def test_curves_are_told_to_whom_the_log_belongs(host: FakeHost, submit: Submit, ingest: Ingest) -> None:
    job, spec = started(host, submit, ingest)
    host.log(spec, b"Epoch 1 loss: 0.5 acc: 0.1\nEpoch 2 loss: 0.25 acc: 0.2\n")
    take(ingest)
    answer = Rest(job.owner)("GET", f"jobs/{job.pk}/curves/").json()
    assert (answer["attempt"], answer["open"], answer["complete"]) == (1, True, True)
    assert answer["curves"][0] == {"name": "loss", "every": 1, "points": [0.5, 0.25], "last": 0.25, "min": 0.25, "max": 0.5}
    assert Rest(person("somebody"))("GET", f"jobs/{job.pk}/curves/").status_code == 403
    assert Rest(job.owner)("GET", f"jobs/{job.pk}/curves/?attempt=2").status_code == 404


def test_job_that_has_not_run_has_neither(ada: User) -> None:
    job = lifecycle.submit(ada, {"name": "x", "command": "true", "working_dir": "/"}, hold=True)
    assert told(job) == {"attempt": None, "open": False, "series": []}
    assert Rest(ada)("GET", f"jobs/{job.pk}/curves/").json() == {"attempt": None, "open": False, "complete": True, "curves": []}
    assert job.state == JobState.HELD


# --- the last hour ------------------------------------------------------------------------------------------------------


def test_last_hour_of_each_device_is_told_and_drawn(host: FakeHost, ingest: Ingest, ada: User, client: Any) -> None:
    watch, now = Watch(), timezone.now()
    for minute in range(4):
        host.devices = [host.device(0, utilization_pct=20.0 * minute)]
        host.beat(at=BEGAN + minute)
        watch.look(now + timedelta(minutes=minute - 3))
    (told_,) = Rest(ada)("GET", "devices/history/").json()["results"]
    assert told_["uuid"] == "GPU-gpu-a-0"
    assert told_["utilization_pct"][-3:] == [0.0, 20.0, 40.0]
    assert told_["memory_used_mib"][-4:] == [None, 3, 3, 3]
    client.force_login(ada)
    page = client.get("/").content.decode()
    assert "GPU use in the last hour: 20 % on average, 40 % at most" in page
    assert page.count("<polyline") == 1
    assert rings.hours(["gpu-z"], now_s=time.time()) == {}
    assert logs.size(1, 1) == 0
