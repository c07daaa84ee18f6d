"""Log lines about messages that are dropped: all of a few, and the number of the many."""

from __future__ import annotations

import logging

import pytest

from gpuworker import dropped

LOG = logging.getLogger("test.dropped")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(dropped.time, "monotonic", lambda: now[0])
    return now


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOG.name]


def test_flood_is_told_as_a_number_and_other_kinds_beside_it(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    for number in range(1000):
        dropped.warn(LOG, "chunk %d dropped", number, action=dropped.Drop.CHUNK)
    dropped.warn(LOG, "report dropped", action=dropped.Drop.REPORT)
    told = lines(caplog)
    assert len(told) == dropped.TOLD_PER_MINUTE + 1
    assert told[0] == "chunk 0 dropped"
    assert told[-2] == f"chunk {dropped.TOLD_PER_MINUTE - 1} dropped (more like this are counted and not told, for a minute)"
    clock[0] += 60
    dropped.warn(LOG, "chunk %d dropped", 1000, action=dropped.Drop.CHUNK)
    dropped.warn(LOG, "chunk %d dropped", 1001, action=dropped.Drop.CHUNK)
    assert lines(caplog)[-2:] == [
        f"chunk 1000 dropped ({1000 - dropped.TOLD_PER_MINUTE} more like this were not told)",
        "chunk 1001 dropped",
    ]
    assert caplog.records[-1].action == "chunk_dropped"  # type: ignore[attr-defined]


def test_few_are_all_told(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    for number in range(50):
        dropped.warn(LOG, "chunk %d dropped", number, action=dropped.Drop.CHUNK)
        clock[0] += 5
    assert len(lines(caplog)) == 50
