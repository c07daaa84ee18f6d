"""How often pages and lists ask the database: so often however many devices, jobs and people there are."""

from __future__ import annotations

import pytest

from benchmarks import lab, page_times
from jobs import hostkeys

pytestmark = pytest.mark.django_db(transaction=True)

MOST = {
    "sign-in page": 0,
    "dashboard, operator": 10,
    "dashboard again (live), operator": 10,
    "dashboard, submitter": 10,
    "dashboard again (live), submitter": 10,
    "list of jobs": 10,
    "a job that runs": 9,
    "a job that runs, again (live)": 9,
    "a job that has ended": 6,
    "a job that waits": 10,
    "form for a new job": 6,
    "chart: devices": 3,
    "chart: curves": 3,
    "chart: last hour of all devices": 2,
    "REST: devices": 4,
    "REST: hosts": 4,
    "REST: jobs that are not over": 10,
    "REST: one job": 4,
}


def counts(where: lab.Lab, asked: dict[str, page_times.Ask]) -> dict[str, int]:
    found = {}
    for what, ask in [*asked.items(), *asked.items()]:  # a token's first request asks, too, whether it is a personal one
        where.beat()
        found[what], answer = page_times.once(ask)
        assert answer.status_code in (200, 286), f"{what}: {answer.content!r}"
    return found


@pytest.fixture
def where(database: str, broker: str, monkeypatch: pytest.MonkeyPatch) -> lab.Lab:
    """60 jobs of a dozen people."""
    monkeypatch.setattr(hostkeys, "FRESH_S", 1000.0)  # once a second one page or another asks for the keys, too
    return lab.make(broker, gpus=16, jobs=60)


def test_pages_ask_the_database_no_more_than_so_often(where: lab.Lab) -> None:
    found = counts(where, dict(page_times.single_pages(where)))
    assert {what: count for what, count in found.items() if count > MOST[what]} == {}


def test_lists_ask_the_database_no_more_than_ten_times_whatever_is_filtered(where: lab.Lab) -> None:
    every = dict(page_times.filters(where))
    some = {what: every[what] for what in list(every)[::25]}
    found = counts(where, some)
    assert {what: count for what, count in found.items() if count > 10} == {}
