"""One product with two webs and two control workers for all tests that want one: starting it takes longer than trying something."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.partitions import Wired
from tests.faults.stack import PAIR, SECOND
from tests.postgres import Postgres
from tests.waiting import wait_until


@pytest.fixture(scope="session")
def pair(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    with Wired(tmp_path_factory.mktemp("pair"), postgres, names=PAIR) as started:
        log = started.home / f"{SECOND}.log"
        wait_until(lambda: "ready." in log.read_text(errors="replace"), 60, "the second control worker is ready")
        yield started
