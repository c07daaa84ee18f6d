"""The thin hosts of `python -m benchmarks --many` speak as real ones do: they are heard, take offers, and are believed."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from benchmarks.crowd_of_hosts import Crowd, name_of
from jobs import capacity, dispatch
from jobs.ingest import Ingest
from jobs.models import Host, Job
from jobs.states import JobState
from tests.integration.rest import make_job, person


def test_crowd_runs_what_it_is_offered_to_the_end(broker: str, transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        Host.objects.create(name=name_of(number))
    crowd, ann = Crowd(3, mean_s=1e-6), person("ann")
    for host in crowd.hosts:
        host.next_beat = 0.0
    jobs = [make_job(ann, min_gpus=gpus, max_gpus=gpus) for gpus in (0, 1, 8)]

    def go_on() -> set[Any]:
        crowd.round()
        Ingest().turn(block_ms=1)
        return set(Job.objects.values_list("state", flat=True))

    go_on()
    assert all(view.accepts and len(view.devices) == 8 for view in capacity.hosts_now())
    dispatch.run_pass(timezone.now())
    assert any(go_on() == {JobState.COMPLETED} for _ in range(5))
    assert crowd.counts() == {"running": 0, "started": len(jobs), "ended": len(jobs)}
