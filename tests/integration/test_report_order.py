"""Reports that come twice, late, or in another order: the row in the end is the same, and no retry is spent twice."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from gpuworker import protocol
from gpuworker.protocol import DeviceRef, Ended, EndReason, Kind, Refused, Spec, Started
from jobs import dispatch
from jobs.ingest import Ingest
from jobs.models import Job
from jobs.states import JobState, Outcome
from tests.integration.fakehost import FakeHost

Submit = Callable[..., Job]
Report = Started | Ended | Refused
KINDS = {Started: Kind.STARTED, Ended: Kind.ENDED, Refused: Kind.REFUSED}
LIFE: tuple[Any, ...] = (
    "refused",
    (EndReason.EXITED, 1),
    "refused",
    (EndReason.EXIT_LOST, None),
    (EndReason.EXITED, 1),
    "refused",
    (EndReason.EXITED, 7),
)
"""What becomes of one dispatch after the other, of a job that may be tried twice again."""


@pytest.fixture
def ingest(host: FakeHost) -> Ingest:
    return Ingest()


class Life:
    """One job, and everything that was ever reported about it."""

    def __init__(self, job: Job, host: FakeHost, ingest: Ingest) -> None:
        self.job, self._host, self._ingest = job, host, ingest
        self.said: list[Report] = []

    def dispatch(self, fate: Any) -> list[Report]:
        """Offer it once more; the reports that will come of it."""
        Job.objects.filter(pk=self.job.pk).update(not_before=None)
        self._host.beat()
        dispatch.place(timezone.now())
        (spec,) = self._host.offers()
        new = _reports(spec, fate, moment=1_000_000.0 + 100 * len(self.said))
        self.said += new
        return new

    def deliver(self, reports: list[Report]) -> None:
        for report in reports:
            sealed = protocol.seal(KINDS[type(report)], "gpu-a", report.body(), self._host.key)
            self._host.redis.xadd(protocol.reports_key("gpu-a"), {"e": sealed})
        while self._host.left():
            self._ingest.turn(1)

    def row(self) -> dict[str, Any]:
        """All that may not depend on the order; whether a start was told before its end may."""
        self.job.refresh_from_db()
        names = ("state", "exit_code", "retries_spent", "faults", "next_attempt", "started_at", "ended_at")
        attempts = ("number", "outcome", "exit_code", "started_at", "ended_at", "devices")
        events = Counter(self.job.events.exclude(type="attempt_started").values_list("type", flat=True))
        starts = Counter(self.job.events.filter(type="attempt_started").values_list("attempt", flat=True))
        assert all(count == 1 for count in starts.values())
        return {name: getattr(self.job, name) for name in names} | {
            "attempts": list(self.job.attempts.values_list(*attempts)),
            "events": events,
        }


def _reports(spec: Spec, fate: Any, *, moment: float) -> list[Report]:
    named: dict[str, Any] = {"job": spec.job, "attempt": spec.attempt, "fence": spec.fence}
    if fate == "refused":
        return [Refused(**named, code="device_busy", message="GPU 0 is busy.")]
    reason, code = fate
    devices = tuple(DeviceRef(uuid=uuid, index=0) for uuid in spec.devices[:1])
    return [
        Started(**named, devices=devices, boot_id="boot-1", pid=1, start_ticks=1, started_at=moment),
        Ended(**named, devices=devices, reason=reason, exit_code=code, started_at=moment, ended_at=moment + 9),
    ]


@pytest.fixture
def live(submit: Submit, host: FakeHost, ingest: Ingest) -> Callable[[], Life]:
    return lambda: Life(submit(max_retries=2, retry_delay_s=0), host, ingest)


def test_row_is_the_same_however_often_and_in_whatever_order_reports_come(live: Callable[[], Life]) -> None:
    plain = live()
    for fate in LIFE:
        plain.deliver(plain.dispatch(fate))
    expected = plain.row()
    assert (expected["state"], expected["retries_spent"], expected["faults"]) == (JobState.FAILED, 2, 1)
    assert [a[1] for a in expected["attempts"]] == [Outcome.FAILED, Outcome.EXIT_LOST, Outcome.FAILED, Outcome.FAILED]
    for seed in range(6):
        rng, life = random.Random(seed), live()
        for fate in LIFE:
            reports = life.dispatch(fate) + rng.choices(life.said, k=rng.randrange(8))
            rng.shuffle(reports)
            life.deliver(reports)
        life.deliver(life.said[::-1] * 2)
        assert life.row() == expected, f"seed {seed}"


def test_every_order_of_a_start_an_end_and_an_old_refusal_comes_to_the_same(live: Callable[[], Life]) -> None:
    rows = []
    for order in sorted(set(itertools.permutations((0, 0, 1, 1, 2)))):
        life = live()
        (refused,) = life.dispatch("refused")
        life.deliver([refused])
        kinds = [*life.dispatch((EndReason.EXITED, 1)), refused]
        life.deliver([kinds[kind] for kind in order])
        rows.append(life.row())
        Job.objects.filter(pk=life.job.pk).update(state=JobState.HELD)
    assert len(rows) == 30
    assert all(row == rows[0] for row in rows)
    assert (rows[0]["state"], rows[0]["retries_spent"], rows[0]["next_attempt"]) == (JobState.QUEUED, 1, 2)
