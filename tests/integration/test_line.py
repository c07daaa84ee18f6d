"""The line of waiting jobs on both databases: however it is read, it is one order."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
from django.db import connection, connections
from django.utils import timezone

from jobs import dispatch, explanation, hostkeys, lifecycle, line, shares
from jobs.explanation import Explanation, Told
from jobs.models import Attempt, Dispatch, Host, Job, Share, User
from jobs.scheduling import order
from jobs.scheduling.order import NOBODY
from jobs.states import JobState, Line, WaitReason
from tests.integration.fakehost import FakeHost
from tests.integration.rest import make_attempt

Make = Callable[..., Job]
NOW = datetime(2026, 3, 9, 12, 0, tzinfo=timezone.get_default_timezone())


@pytest.fixture
def people(database: str) -> list[User]:
    return [User.objects.create(username=name) for name in ("ada", "lin", "mia")]  # hashing passwords would take longer than all else


@pytest.fixture
def gpu_a(people: list[User], broker: str) -> FakeHost:
    Host.objects.create(name="gpu-a")
    fake = FakeHost(broker, "gpu-a")
    fake.beat()
    return fake


def make(owner: User, count: int = 1, **fields: object) -> list[Job]:
    given = {"name": "train", "command": "true", "working_dir": "/", "min_gpus": 1, "max_gpus": 1, "created_at": NOW} | fields
    last = Job.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    Job.objects.bulk_create([Job(owner=owner, **given) for _ in range(count)])
    return list(Job.objects.filter(pk__gt=last).order_by("pk"))


def runs(job: Job, hours: float = 0, *, devices: int = 1, ended: datetime | None = None, at: datetime = NOW) -> None:
    """It has run for this long, and still does unless it has `ended`."""
    refs = [{"uuid": f"GPU-x-{n}", "index": n} for n in range(devices)]
    begin = (ended or at) - timedelta(hours=hours)
    fence = Dispatch.objects.create(job=job, attempt_number=1, host="gpu-x", created_at=begin).pk
    over = {"outcome": "completed", "ended_at": ended} if ended else {}
    Attempt.objects.create(job=job, number=1, fence=fence, host="gpu-x", devices=refs, offer_expires_at=at, created_at=begin, **over)
    Job.objects.filter(pk=job.pk).update(state=JobState.COMPLETED if ended else JobState.RUNNING)


def sorted_line() -> list[int]:
    """The line by sorting all of it, as order.py tells."""
    standings = shares.standings()
    groups: dict[tuple[int, int], list[int]] = {}
    for pk, owner, priority in line.in_line().order_by("pk").values_list("pk", "owner_id", "priority"):
        groups.setdefault((owner, priority), []).append(pk)
    keyed = [
        (-priority, order.turn(standings.get(owner, NOBODY), before, ids[0]), pk)
        for (owner, priority), ids in groups.items()
        for before, pk in enumerate(ids)
    ]
    return [pk for *_, pk in sorted(keyed)]


@pytest.mark.parametrize("seed", range(2))
def test_line_is_the_same_however_it_is_read(people: list[User], seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(60):
        asked = {
            "min_gpus": dice.choice([0, 1, 1, 2]),
            "gpu_memory_mib": dice.choice([0, 1024]),
            "hosts": dice.choice([[], ["gpu-b", "gpu-a"]]),
        }
        make(dice.choices(people, [6, 2, 1])[0], dice.choice([1, 1, 3, 40]), priority=dice.choice([0, 0, 0, 5, -3]), max_gpus=8, **asked)
    for owner in people[:2]:
        runs(Job.objects.filter(owner=owner).order_by("?")[0], dice.random() * 30)
    shares.count(NOW)
    line.admit(NOW)
    expected = sorted_line()
    assert len(expected) > 100
    assert [row.waiting.id for row in line.first(10_000)] == expected
    assert [row.waiting.id for row in line.first(7)] == expected[:7]
    places = {pk: place for place, pk in enumerate(expected, start=1)}
    assert line.positions(expected) == places
    some = dice.sample(expected, 20)
    assert line.positions(some) == {pk: places[pk] for pk in some}
    walk = line.Walk(line.heads(shares.standings()), shares.standings())
    walked = []
    while head := walk.next():
        walked.append(head.waiting.id)
        walk.go_on(head)
    assert walked == expected


def test_one_persons_many_jobs_do_not_keep_anothers_single_one_waiting(people: list[User], gpu_a: FakeHost) -> None:
    ada, lin, _ = people
    many, (single,) = make(lin, 200), make(ada)
    dispatch.run_pass(timezone.now())
    single.refresh_from_db()
    assert (Job.objects.filter(state=JobState.STARTING).count(), single.state) == (2, JobState.STARTING)
    assert line.positions([many[1].pk, many[-1].pk]) == {many[1].pk: 1, many[-1].pk: 199}


def test_who_has_used_less_goes_first_and_the_others_are_told_so(people: list[User], gpu_a: FakeHost) -> None:
    ada, lin, _ = people
    now = timezone.now()
    (old,), (recent,) = make(ada), make(lin)
    runs(old, 40, ended=now)
    runs(recent, 2.1, ended=now)
    shares.count(now)
    used = {share.owner_id: share.gpu_hours for share in Share.objects.all()}
    assert 20 < used[ada.pk] < 40  # what was used yesterday counts half
    assert 2 < used[lin.pk] < 2.1
    mine, theirs = make(ada, 2, min_gpus=2, max_gpus=2), make(lin, 3, min_gpus=2, max_gpus=2)
    dispatch.run_pass(now)
    assert [spec.number for spec in gpu_a.offers()] == [theirs[0].pk]
    told = Job.objects.get(pk=mine[0].pk)
    assert told.wait_code == WaitReason.PRIORITY
    hours = f"({round(used[lin.pk], 1):g} GPU-hours against {round(used[ada.pk], 1):g} of ada)"
    assert told.wait_message == f"Behind 2 jobs of lin, who has used less lately {hours}; #{theirs[1].pk} is the first, it needs 2 GPUs."


def test_use_is_counted_on_from_the_last_time_and_halves_each_day(people: list[User]) -> None:
    ada = people[0]
    (ended,), (running,) = make(ada), make(ada)
    runs(ended, 1, ended=NOW, devices=2)
    shares.count(NOW)
    first = Share.objects.get(owner=ada).gpu_hours
    assert first == pytest.approx(2, rel=0.05)
    runs(running, 0, devices=4, at=NOW)
    for minutes in (1, 5, 60):
        shares.count(NOW + timedelta(minutes=minutes))
    assert Share.objects.get(owner=ada).gpu_hours == pytest.approx(first * 2 ** (-1 / 24) + 4, rel=0.02)
    Attempt.objects.filter(job=running).update(outcome="completed", ended_at=NOW + timedelta(hours=1))
    shares.count(NOW + timedelta(hours=25))
    assert Share.objects.get(owner=ada).gpu_hours == pytest.approx((first * 2 ** (-1 / 24) + 4) / 2, rel=0.02)


def test_jobs_come_into_line_when_their_time_has_come_and_their_parents_have_completed(people: list[User]) -> None:
    ada = people[0]
    (parent,), (child,) = make(ada), make(ada)
    (later,) = make(ada, begin_at=NOW + timedelta(hours=1))
    child.after.set([parent])
    line.admit(NOW)
    assert set(line.positions([parent.pk, child.pk, later.pk])) == {parent.pk}
    line.admit(NOW + timedelta(hours=1, seconds=1))
    assert set(line.positions([parent.pk, child.pk, later.pk])) == {parent.pk, later.pk}
    Job.objects.filter(pk=parent.pk).update(state=JobState.COMPLETED)
    line.look_again()
    line.admit(NOW)
    assert set(line.positions([child.pk])) == {child.pk}


def test_edit_puts_a_job_to_where_it_belongs_now(people: list[User]) -> None:
    ada, lin, _ = people
    (first,), (second,), (third,) = make(ada), make(lin), make(lin)
    line.admit(NOW)
    assert lifecycle.edit(third, {"priority": 1}, actor=lin)
    assert lifecycle.edit(first, {"begin_at": timezone.now() + timedelta(days=1)}, actor=ada)
    assert lifecycle.hold(second, actor=lin)
    line.admit(timezone.now())
    assert line.positions([first.pk, second.pk, third.pk]) == {third.pk: 1}
    assert lifecycle.release(second, actor=lin)
    assert lifecycle.edit(first, {"begin_at": None, "priority": 2, "min_gpus": 2, "max_gpus": 2}, actor=ada)
    line.admit(timezone.now())
    assert line.positions([first.pk, second.pk, third.pk]) == {first.pk: 1, third.pk: 2, second.pk: 3}
    assert Job.objects.get(pk=first.pk).request_key == line.request_of_job(Job.objects.get(pk=first.pk)).key


def test_time_limit_lets_a_job_slip_past_one_that_waits_for_a_known_end(people: list[User], gpu_a: FakeHost) -> None:
    ada, lin, mia = people
    make(ada, time_limit_s=3600)
    dispatch.run_pass(timezone.now())
    (big,), (long,), (quick,) = make(lin, min_gpus=2, max_gpus=2), make(mia), make(ada, time_limit_s=600)
    dispatch.run_pass(timezone.now())
    assert sorted(Job.objects.filter(state=JobState.QUEUED).values_list("pk", flat=True)) == [big.pk, long.pk]
    assert "may start before it" not in Job.objects.get(pk=long.pk).wait_message  # nothing is free any more
    Attempt.objects.filter(job=quick).delete()
    Job.objects.filter(pk=quick.pk).update(state=JobState.CANCELLED)
    dispatch.run_pass(timezone.now())
    ends = timezone.localtime(timezone.now() + timedelta(hours=1))
    told = Job.objects.get(pk=long.pk).wait_message
    assert told.startswith(f"#{big.pk} of lin goes first (submitted earlier); it needs 2 GPUs. What ends before ")
    assert f"{ends:%H}:" in told or f"{ends - timedelta(hours=1):%H}:" in told


def test_sharers_get_one_device_within_its_memory(people: list[User], gpu_a: FakeHost) -> None:
    ada, lin, _ = people
    gpu_a.devices = [gpu_a.device(0)]
    gpu_a.beat()
    sharing = make(ada, 3, shared=True, gpu_memory_mib=8 * 1024, max_gpus=1)
    dispatch.run_pass(timezone.now())
    (alone,) = make(lin)
    (late,) = make(ada, shared=True, gpu_memory_mib=8 * 1024, max_gpus=1)
    dispatch.run_pass(timezone.now())
    specs = gpu_a.offers()
    assert [spec.number for spec in specs] == [job.pk for job in sharing]
    assert all(spec.shared and spec.gpu_memory_mib == 8 * 1024 for spec in specs)
    left = ", ".join(f"#{job.pk} of ada" for job in sharing)
    assert Job.objects.get(pk=alone.pk).wait_message == f"Needs 1 GPU; gpu-a has 0 of 1: GPU 0 runs {left}, which leave 0 MiB to share."
    told = Job.objects.get(pk=late.pk)
    assert (told.wait_code, f"#{alone.pk} of lin" in told.wait_message) == (WaitReason.PRIORITY, True)


# --- a long line --------------------------------------------------------------------------------------------------------


def test_pass_reads_no_more_of_a_long_line_than_of_a_short_one(
    people: list[User], gpu_a: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in statements and in rows that they answer with; how long that takes is for the benchmark to say."""
    monkeypatch.setattr(hostkeys, "FRESH_S", -1.0)

    def cost() -> tuple[int, int]:
        rows = statements = 0

        def count(execute: Callable[..., object], sql: str, params: object, many: bool, context: dict[str, object]) -> object:
            nonlocal statements
            statements += 1
            return execute(sql, params, many, context)

        with connection.execute_wrapper(count):
            assert dispatch.place(timezone.now()) == 1
        Attempt.objects.all().delete()
        Job.objects.filter(state=JobState.STARTING).update(state=JobState.CANCELLED)
        return statements, rows

    gpu_a.devices = [gpu_a.device(0)]
    gpu_a.beat()
    for memory in (0, 1024, 2048):
        make(people[0], 20, gpu_memory_mib=memory)
    line.admit(timezone.now())
    short = cost()
    for memory in (0, 1024, 2048):
        make(people[0], 400, gpu_memory_mib=memory)
    line.admit(timezone.now())
    assert cost() == short


def test_far_behind_jobs_are_told_once_and_not_again_with_each_start(
    people: list[User], gpu_a: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanation, "TOLD_ONE_BY_ONE", 10)
    jobs = make(people[0], 300, min_gpus=2, max_gpus=2)
    told = Told()
    written: list[int] = []

    def explain() -> int:
        dispatch.place(timezone.now())
        before = dict(Job.objects.values_list("pk", "wait_message"))
        for _ in Explanation(timezone.now(), told=told).steps():
            pass
        written.append(sum(before[pk] != message for pk, message in Job.objects.values_list("pk", "wait_message")))
        return written[-1]

    assert explain() == 299
    assert not Job.objects.filter(state=JobState.QUEUED, wait_message="").exists()
    assert Job.objects.get(pk=jobs[-1].pk).wait_message == (
        "At least 10 jobs of ada go first (by priority, then by who has used least lately, then by age). It needs 2 GPUs."
    )
    Attempt.objects.all().delete()
    Job.objects.filter(pk=jobs[0].pk).update(state=JobState.CANCELLED)
    assert explain() <= 11
    late, urgent = make(people[1], 1, min_gpus=2, max_gpus=2, priority=-1), make(people[0], 12, min_gpus=2, max_gpus=2, priority=9)
    line.admit(timezone.now())
    assert explain() <= 24
    assert "At least 10" in Job.objects.get(pk=late[0].pk).wait_message
    assert "At least 10" in Job.objects.get(pk=jobs[3].pk).wait_message  # it was among the first until the urgent ones came
    assert str(urgent[0].pk) in Job.objects.get(pk=urgent[5].pk).wait_message
    make(people[1], 12, min_gpus=2, max_gpus=2, priority=10)
    line.admit(timezone.now())
    assert explain() > 200  # who goes first is somebody else now
    assert f"At least 10 jobs of {people[1]} go first" in Job.objects.get(pk=late[0].pk).wait_message
    assert explain() <= 11


def test_person_who_comes_and_goes_is_told_of_to_those_far_behind_once(
    people: list[User], gpu_a: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanation, "TOLD_ONE_BY_ONE", 12)
    for owner in people:
        make(owner, 60, min_gpus=2, max_gpus=2)
    line.admit(timezone.now())
    assert dispatch.place(timezone.now()) == 1
    told, guest = Told(), User.objects.create(username="guest")

    def far() -> str:
        for _ in Explanation(timezone.now(), told=told).steps():
            pass
        return Job.objects.order_by("-pk").exclude(owner=guest).values_list("wait_message", flat=True)[0]

    without = far()
    assert "jobs of ada, lin and mia go first" in without
    visits = []
    for _ in range(2):
        comes = make(guest, min_gpus=2, max_gpus=2, priority=5)
        line.admit(timezone.now())
        visits.append(far())
        Job.objects.filter(pk=comes[0].pk).update(state=JobState.CANCELLED)
        visits.append(far())
    assert "jobs of ada, lin, mia and others go first" in visits[0]
    assert set(visits) == {visits[0]}


def test_long_line_is_counted_for_a_small_share_of_the_time_and_new_groups_at_once(
    people: list[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 3))  # each look at it is three seconds after the last one
    monkeypatch.setattr(line._Counted, "LONG", 10)
    monkeypatch.setattr(line, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    monkeypatch.setattr(line, "_counted", line._Counted())
    jobs = make(people[0], 12)
    line.admit(NOW)
    assert line.positions([jobs[-1].pk]) == {jobs[-1].pk: 12}
    others = make(people[1], 2, priority=9) + make(people[0], 1)
    line.admit(NOW)
    assert line.positions([others[0].pk, others[1].pk]) == {others[0].pk: 1, others[1].pk: 2}  # a group that was not there
    assert line.positions([others[2].pk]) == {others[2].pk: 15}  # exact within its own group
    make(people[2], 3, priority=20)
    line.admit(NOW)
    assert line.positions([others[0].pk]) == {others[0].pk: 1}  # counted a moment ago
    for _ in range(20):
        line.positions([others[0].pk])
    assert line.positions([others[0].pk]) == {others[0].pk: 4}


def test_what_fits_nowhere_is_told_so_however_far_behind(people: list[User], gpu_a: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explanation, "TOLD_ONE_BY_ONE", 3)
    Host.objects.update(inventory_known=True)
    make(people[0], 20)
    (never,) = make(people[0], min_gpus=5, max_gpus=5)
    dispatch.run_pass(timezone.now())
    assert Job.objects.get(pk=never.pk).wait_code == WaitReason.NEVER_FITS


# --- at once ------------------------------------------------------------------------------------------------------------


def test_passes_at_once_start_no_job_twice(people: list[User], gpu_a: FakeHost) -> None:
    gpu_a.devices = [gpu_a.device(n) for n in range(8)]
    gpu_a.beat()
    make(people[0], 40)
    line.admit(timezone.now())
    failures: list[BaseException] = []
    ready = threading.Barrier(3)

    def scheduler() -> None:
        try:
            ready.wait(20)
            dispatch.place(timezone.now())
        except BaseException as exc:
            failures.append(exc)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=scheduler) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    jobs = Attempt.objects.filter(outcome="").values_list("job_id", flat=True)
    assert len(jobs) == len(set(jobs)) >= 8  # that one scheduler leads, and keeps devices apart, is jobs.leader's part


def test_edit_that_races_with_the_start_is_either_before_it_or_refused(people: list[User], gpu_a: FakeHost) -> None:
    ada = people[0]
    for turn in range(6):
        (job,) = make(ada)
        line.admit(timezone.now())
        edited: list[bool] = []
        ready = threading.Barrier(2)

        def edit(job: Job = job, edited: list[bool] = edited, ready: threading.Barrier = ready, turn: int = turn) -> None:
            ready.wait(20)
            edited.append(lifecycle.edit(job, {"env": {"TURN": str(turn)}, "gpu_memory_mib": 1}, actor=ada))
            connections.close_all()

        thread = threading.Thread(target=edit)
        thread.start()
        ready.wait(20)
        dispatch.place(timezone.now())
        thread.join(60)
        dispatch.place(timezone.now())
        (spec,) = [spec for spec in gpu_a.offers() if spec.number == job.pk]
        assert (spec.env.get("TURN") == str(turn)) == edited[0] == (spec.gpu_memory_mib == 1)
        Attempt.objects.all().delete()
        Job.objects.update(state=JobState.CANCELLED)
    assert not Job.objects.filter(state=JobState.QUEUED, line=Line.NEW).exists()


def test_job_that_waits_for_its_next_attempt_is_told_how_the_last_one_ended(gpu_a: FakeHost, people: list[User]) -> None:
    (job,) = make(people[0], 1, next_attempt=2, retries_spent=1, max_retries=3, not_before=timezone.now() + timedelta(minutes=3))
    make_attempt(job, 1, outcome="failed", exit_code=3, oom_detected=True, ended_at=timezone.now())
    line.admit(timezone.now())
    for _ in Explanation(timezone.now()).steps():
        pass
    job.refresh_from_db()
    assert job.wait_code == WaitReason.BACKOFF
    assert job.wait_message.startswith("Retry 1 of 3 starts at ")
    assert job.wait_message.endswith("attempt 1 failed with exit code 3 after running out of GPU memory.")
