"""One control worker schedules; a deposed one writes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta

import pytest
from django.utils import timezone

from jobs import leader
from jobs.leader import LEASE_S, Deposed, Leadership
from jobs.models import Leader, User

pytestmark = pytest.mark.django_db(transaction=True)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_first_one_leads_and_the_second_waits(clock: Clock) -> None:
    first, second = Leadership(clock=clock), Leadership(clock=clock)
    assert first.keep()
    assert not second.keep()
    assert (first.held, second.held) == (True, False)
    assert Leader.objects.get().term == 1


def test_second_takes_over_when_the_lease_has_run_out_and_the_first_writes_nothing(clock: Clock) -> None:
    first, second = Leadership(clock=clock), Leadership(clock=clock)
    first.keep()
    Leader.objects.update(renewed_at=timezone.now() - timedelta(seconds=LEASE_S + 1))
    assert second.keep()
    with pytest.raises(Deposed), first.writing():
        User.objects.create_user("too-late")
    assert not User.objects.exists()
    assert not first.held
    with second.writing():
        User.objects.create_user("in-time")
    assert User.objects.get().username == "in-time"


def test_second_takes_over_although_the_clock_of_the_first_runs_ahead(clock: Clock) -> None:
    first, second = Leadership(clock=clock), Leadership(clock=clock)
    first.keep()
    Leader.objects.update(renewed_at=timezone.now() + timedelta(hours=1))
    assert not second.keep()
    clock.now += LEASE_S + 1
    assert second.keep()


def test_leader_that_slept_notices_without_asking_and_leads_again_if_nobody_took_it(clock: Clock) -> None:
    first = Leadership(clock=clock)
    first.keep()
    clock.now += LEASE_S + 1
    assert not first.held
    assert first.keep()
    assert first.held
    assert Leader.objects.get().term == 1


def test_dead_process_on_this_machine_is_replaced_at_once(clock: Clock) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder = f"{leader._machine()} {process.pid} {leader._start_ticks(process.pid)} x"
    Leader.objects.create(pk=1, term=4, holder=holder, renewed_at=timezone.now())
    mine = Leadership(clock=clock)
    assert not mine.keep()
    process.kill()
    process.wait()
    assert process.stdin
    process.stdin.close()
    assert mine.keep()
    assert Leader.objects.get().term == 5


@pytest.mark.parametrize("holder", ["other-boot/1 1 1 x", f"{leader._machine()} one two x", "nonsense"])
def test_holder_that_cannot_be_judged_counts_as_alive(clock: Clock, holder: str) -> None:
    Leader.objects.create(pk=1, term=4, holder=holder, renewed_at=timezone.now())
    assert not Leadership(clock=clock).keep()


def test_reused_process_number_is_not_the_holder(clock: Clock) -> None:
    Leader.objects.create(pk=1, term=4, holder=f"{leader._machine()} {os.getpid()} 1 x", renewed_at=timezone.now())
    assert Leadership(clock=clock).keep()


def test_who_resigns_is_replaced_at_once(clock: Clock) -> None:
    first, second = Leadership(clock=clock), Leadership(clock=clock)
    first.keep()
    first.resign()
    assert second.keep()
    assert not first.held


def test_leader_that_cannot_reach_redis_goes_on_until_one_that_can_takes_over(clock: Clock) -> None:
    first, second = Leadership(clock=clock), Leadership(clock=clock)
    assert first.keep()
    first.offer(away=True)
    with first.writing():
        pass
    assert not second.keep(connected=False)
    assert second.keep(connected=True)
    with pytest.raises(Deposed), first.writing():
        pass
    assert not first.keep(connected=True), "the offer ended with who made it"


def test_leader_that_reaches_redis_again_takes_its_offer_back(clock: Clock) -> None:
    first, second = Leadership(clock=clock), Leadership(clock=clock)
    assert first.keep()
    first.offer(away=True)
    first.offer(away=False)
    assert not second.keep(connected=True)
    clock.now += leader.RENEW_EVERY_S + 1
    assert first.keep()
    assert Leader.objects.get().term == 1
