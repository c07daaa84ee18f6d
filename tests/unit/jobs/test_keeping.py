"""Devices that are kept for a person: who is placed there, and that nobody else waits for them in vain."""

from __future__ import annotations

import pytest

from jobs.scheduling import keeping, reasons
from jobs.scheduling.inventory import HostView
from jobs.scheduling.placement import Planner, Request, Waiting
from tests.unit.jobs.inventories import NOON, claimed, device, host, shared

FOR_LIN = {"kept_for": "lin", "kept_by": "ada", "detail": "2026-03-09 18:00"}


def job(number: int, owner: str, least: int = 1, most: int | None = None, *, limit_s: int | None = None, share: int = 0) -> Waiting:
    return Waiting(number, 0, Request(least, most or least, share, shared=bool(share), limit_s=limit_s), owner)


def placed(view: HostView, *jobs: Waiting) -> dict[int, str]:
    people = keeping.keepers([view])
    planner = Planner([view], NOON)
    for each in jobs:
        planner.ask(keeping.asked_by(each, people))
    return {p.job_id: ",".join(str(d.index) for d in p.devices) for p in planner.placements()}


@pytest.mark.parametrize(
    ("view", "jobs", "where"),
    [
        (host(device(0, **FOR_LIN), device(1)), [job(1, "ada"), job(2, "ada"), job(3, "lin")], {1: "1", 3: "0"}),
        (host(device(0, **FOR_LIN), device(1)), [job(1, "lin", 2)], {1: "0,1"}),
        (host(device(0, **FOR_LIN), device(1)), [job(1, "lin", 1, 2)], {1: "0,1"}),
        (host(device(0, **FOR_LIN), device(1)), [job(1, "ada", 1, 2)], {1: "1"}),
        # ada's large job waits for what she cannot have: it keeps nothing back from those behind it.
        (host(device(0, **FOR_LIN), device(1)), [job(1, "ada", 2), job(2, "mia")], {2: "1"}),
        (host(claimed(0, ends_in_s=60, **FOR_LIN), device(1)), [job(1, "ada", 2), job(2, "mia")], {2: "1"}),
        (host(claimed(0, ends_in_s=60), device(1)), [job(1, "ada", 2), job(2, "mia")], {}),
        (host(shared(0, 4, **FOR_LIN)), [job(1, "ada", share=1024), job(2, "lin", share=1024)], {2: "0"}),
    ],
)
def test_kept_device_takes_the_jobs_of_its_person_only(view: HostView, jobs: list[Waiting], where: dict[int, str]) -> None:
    assert placed(view, *jobs) == where


def test_only_the_jobs_of_those_for_whom_devices_are_kept_ask_for_themselves() -> None:
    people = keeping.keepers([host(device(0, **FOR_LIN), device(1))])
    assert people == {"lin"}
    assert keeping.asked_by(job(1, "ada"), people) == job(1, "ada")
    lins = keeping.asked_by(job(1, "lin"), people).request
    assert (lins.owner, keeping.anybodys(lins)) == ("lin", job(1, "lin").request)
    assert lins.key == job(1, "lin").request.key


def test_reason_names_for_whom_a_device_is_kept() -> None:
    view = host(device(0, **FOR_LIN), claimed(1))
    told = reasons.no_room(Request(1, 1), [view], now=NOON, zone=NOON.tzinfo)  # type: ignore[arg-type]
    assert told.message == ("Needs 1 GPU; gpu-a has 0 of 2: GPU 0 is kept for lin until 2026-03-09 18:00 by ada, GPU 1 runs #412 of lin.")
