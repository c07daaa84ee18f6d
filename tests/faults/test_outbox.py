"""A small version of `python -m tests.faults.outbox`, and that it sees what it is there to see."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.badsink import NOBODY, Mail
from tests.faults.outbox import Row, Sweep, judge, table

SENT: list[Row] = [(1, "x@example.org", "sent"), (2, "x@example.org", "sent")]


def mail(*jobs: int, name: str = "a", said: bool = True) -> Mail:
    return Mail("x@example.org", name, frozenset(jobs), said)


@pytest.mark.e2e
@pytest.mark.timeout(120)
def test_each_letter_is_sent_while_the_sender_is_killed_and_the_server_fails(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    sweep = Sweep(tmp_path, events=80, kills=5, seed=seed, pace=0.4)
    found = sweep.run(timeout_s=60)
    again = f"Try again with: python -m tests.faults.outbox --events 80 --kills 5 --pace 0.4 --seed {seed}"
    assert not found.wrong, f"{table(found)}\n{sweep.log.read_text()[-4000:]}\n{again}"
    assert found.kills >= 1
    assert found.faults


@pytest.mark.parametrize(
    ("rows", "mails", "wrong"),
    [
        (SENT, [mail(1), mail(2, name="b")], ""),
        (SENT, [mail(1, 2)], ""),
        (SENT, [mail(1)], "lost"),
        (SENT, [mail(1, 2), mail(2, name="b")], "doubled_otherwise"),
        (SENT, [mail(1), mail(1, 2)], "changed"),
        ([*SENT, (3, "x@example.org", "dead")], [mail(1, 2), mail(3, name="b")], "wrongly_dead"),
        ([*SENT, (3, NOBODY, "sent")], [mail(1, 2)], "wrongly_dead"),
        ([*SENT, (3, NOBODY, "dead")], [mail(1, 2)], ""),
        ([*SENT, (3, "x@example.org", "sending")], [mail(1, 2), mail(3, name="b")], "unsettled"),
        (SENT, [mail(1, 2)] * 3, "doubled"),
        (SENT, [mail(1, 2, said=False), mail(1, 2, said=False), mail(1, 2)], ""),
    ],
)
def test_what_is_wrong_is_found(rows: list[Row], mails: list[Mail], wrong: str) -> None:
    found = judge(rows, mails)
    assert found.wrong == bool(wrong)
    if wrong:
        assert getattr(found, wrong)
