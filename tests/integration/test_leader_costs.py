"""What the leader does again and again asks the database no more, however many trainings run and hosts there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from gpuworker.protocol import AttemptReading
from jobs import capacity, dispatch, hostkeys
from jobs.hosts import Watch
from jobs.ingest import Ingest
from jobs.models import Attempt, Job
from jobs.quiet import Quiet
from jobs.reconcile import Reconciler
from tests.integration.fakehost import FakeHost


@pytest.fixture
def run(host: FakeHost, submit: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let so many more trainings run, and their host be heard with all of them."""
    monkeypatch.setattr(hostkeys, "FRESH_S", 3600.0)
    told: list[AttemptReading] = []

    def run(count: int) -> None:
        for _ in range(count):
            submit(min_gpus=0, max_gpus=0)
        while dispatch.place(timezone.now()):
            pass
        for spec in host.offers():
            host.started(spec)
            told.append(AttemptReading(job=spec.job, attempt=spec.attempt, fence=spec.fence, running=True))
        ingest = Ingest()
        while ingest.turn(block_ms=1):
            pass
        host.beat(attempts=tuple(told))
        assert Attempt.objects.filter(started_at__isnull=False, outcome="").count() == len(told)

    return run


ROUNDS: dict[str, Callable[[], Any]] = {
    "the look at the hosts": lambda: Watch().look(timezone.now()),
    "what may start": capacity.hosts_now,
    "repair": lambda: Reconciler().round(timezone.now()),
    "which may hang": lambda: Quiet().look(timezone.now()),
}


@pytest.mark.parametrize("of", ROUNDS)
def test_leader_asks_no_more_for_more_trainings(of: str, run: Callable[[int], None]) -> None:
    asked = []
    for more in (2, 20):
        run(more)
        ROUNDS[of]()  # what is new is written down
        with CaptureQueriesContext(connection) as queries:
            ROUNDS[of]()
        asked.append(len(queries))
    assert asked[0] == asked[1]
