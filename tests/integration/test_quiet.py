"""Trainings that may hang: found once, told with their stacks, and left alone."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from gpuworker import stacks as host_stacks
from gpuworker.questions import Ask
from jobs import asking, dispatch, logs, quiet, samples
from jobs.asking import Asked
from jobs.ingest import Ingest
from jobs.models import Attempt, Job, Notification
from jobs.notifications.compose import compose
from jobs.notifications.occasions import Occasion
from jobs.quiet import Quiet
from jobs.states import JobState
from tests.integration.fakehost import FakeHost
from tests.integration.host import CLUSTER_KEY, HOST, running_host
from tests.integration.rest import person
from tests.waiting import wait_until

STACK = (
    'Process 4711: python train.py\n\nThread 4711 (idle): "MainThread"\n    all_reduce (torch/distributed.py:2501)\n    <b> (train.py:88)'
)


@pytest.fixture
def running(host: FakeHost, submit: Callable[..., Job]) -> Attempt:
    """An attempt that has begun, with a GPU."""
    job = submit(notify=["x@example.org"])
    dispatch.run_pass(timezone.now())
    (spec,) = host.offers()
    host.started(spec)
    ingest = Ingest()
    while ingest.turn(block_ms=1):
        pass
    return Attempt.objects.get(job=job)


@pytest.fixture(autouse=True)
def asked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What hosts were asked; they answer with STACK."""
    asked: list[str] = []
    if "agent" not in request.fixturenames:
        told = Asked([{"pid": 4711, "stack": STACK}])
        monkeypatch.setattr(asking, "ask", lambda host, what, *_, **__: asked.append(what) or (told if what == Ask.STACKS else Asked()))
    return asked


class Clock:
    """Looks as the leader does, every 30 seconds of its own time; the host is heard at each of them."""

    def __init__(self, host: FakeHost) -> None:
        self.host, self.now, self.quiet = host, timezone.now(), Quiet()

    def pass_by(self, seconds: float, *, heard: bool = True) -> int:
        until, told = self.now + timedelta(seconds=seconds), 0
        while self.now < until:
            self.now += timedelta(seconds=30)
            if heard:
                self.host.beat()
            told += self.quiet.look(self.now)
        return told


@pytest.fixture
def clock(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(host)


def prints(attempt: Attempt, clock: Clock, *, times: int, every_s: float = 60.0) -> None:
    for _ in range(times):
        logs.append(attempt.job_id, attempt.number, logs.size(attempt.job_id, attempt.number), b"Epoch\n")
        clock.pass_by(every_s)


def told(attempt: Attempt) -> list[str]:
    return list(attempt.job.events.filter(type=quiet.EVENT).values_list("message", flat=True))


def test_training_that_fell_silent_is_told_once_and_goes_on(running: Attempt, clock: Clock, asked: list[str]) -> None:
    prints(running, clock, times=6)
    assert clock.pass_by(1700) == 0
    assert clock.pass_by(120) == 1
    assert told(running) == [
        "It has printed nothing for 30 minutes; before, it never was silent for more than 1 minute. It was not stopped."
    ]
    prints(running, clock, times=1)
    assert clock.pass_by(2000) == 0
    assert asked.count(Ask.STACKS) == 1
    running.job.refresh_from_db()
    assert (running.job.state, quiet.stack_of(running)) == (JobState.RUNNING, STACK)


def test_silence_of_the_host_is_not_the_trainings(running: Attempt, clock: Clock, host: FakeHost) -> None:
    prints(running, clock, times=6)
    host.beat(age_s=4.0)
    host.redis.flushdb()
    assert clock.pass_by(2400, heard=False) == 0
    assert clock.pass_by(1700) == 0
    assert clock.pass_by(120) == 1


def test_time_in_which_nobody_looked_does_not_count(running: Attempt, clock: Clock) -> None:
    prints(running, clock, times=6)
    clock.now += timedelta(hours=9)  # the control plane was down, and the log has not come yet
    assert clock.pass_by(600) == 0


def test_next_leader_knows_how_it_printed(running: Attempt, clock: Clock) -> None:
    prints(running, clock, times=6, every_s=600)
    clock.quiet = Quiet()
    clock.pass_by(30)
    assert clock.quiet._seen[running.fence].rhythm.longest_s == 600
    clock.quiet._seen[running.fence].rhythm.silent_s = 1740.0
    assert clock.pass_by(30) == 0
    clock.quiet._seen[running.fence].rhythm.silent_s = 1770.0
    assert clock.pass_by(30) == 1


def zeros(attempt: Attempt, now: datetime, percent: float = 0.0) -> None:
    uuid = attempt.devices[0]["uuid"]
    points = [percent] + [0.0] * 64
    one = {
        "uuid": uuid,
        "index": 0,
        "began_at": now.timestamp() - 65 * 60,
        "step_s": 60.0,
        "memory_mib": [9] * 65,
        "utilization_pct": points,
    }
    samples.path_of(attempt).parent.mkdir(parents=True, exist_ok=True)
    samples.path_of(attempt).write_text(json.dumps([one]))


def test_training_whose_gpu_does_nothing_is_told_once(running: Attempt, clock: Clock) -> None:
    zeros(running, clock.now)
    assert clock.pass_by(60) == 1
    assert told(running) == ["Its GPU has shown 0 % for 1 hour. It was not stopped."]
    prints(running, clock, times=6)
    assert clock.pass_by(600) == 0


def test_zero_turns_it_off(running: Attempt, clock: Clock, settings: Any) -> None:
    settings.AUTOTRAINER = replace(settings.AUTOTRAINER, idle_s=0.0)
    zeros(running, clock.now)
    assert clock.pass_by(60) == 0


def test_letter_and_page_show_what_its_processes_do(running: Attempt, clock: Clock, settings: Any, client: Any) -> None:
    settings.AUTOTRAINER = replace(settings.AUTOTRAINER, email_url="smtp://127.0.0.1:9/", mail_from="gpu@example.org")
    logs.append(running.job_id, 1, 0, b"Epoch 3/10\n")
    zeros(running, clock.now)
    clock.pass_by(30)
    (row,) = Notification.objects.all()
    assert (row.recipient, row.occasion) == ("x@example.org", "quiet")
    letter = compose(Occasion.QUIET, row.event, running)
    assert letter.subject == f"[AutoTrainer] QUIET #{running.job_id} train"
    assert letter.text.startswith("Its GPU has shown 0 % for 1 hour. It was not stopped.")
    for shown in (letter.text, letter.markdown):
        assert "all_reduce (torch/distributed.py:2501)" in shown
        assert "Epoch 3/10" in shown
    assert "&lt;b&gt; (train.py:88)" in letter.html
    client.force_login(running.job.owner)
    page = client.get(f"/jobs/{running.job_id}/").content.decode()
    assert 'id="quiet"' in page
    assert "all_reduce (torch/distributed.py:2501)" in page
    client.force_login(person("somebody"))
    assert "all_reduce" not in client.get(f"/jobs/{running.job_id}/").content.decode()
    running.job.attempts.update(outcome="completed")
    client.force_login(running.job.owner)
    assert 'id="quiet"' not in client.get(f"/jobs/{running.job_id}/").content.decode()


# --- stacks, by a real agent --------------------------------------------------------------------------------------------

HANGS = "import time\ndef wait_for_the_other_rank():\n    print('there', flush=True)\n    time.sleep(600)\nwait_for_the_other_rank()\n"


@pytest.fixture
def agent(broker: str, settings: Any, tmp_path: Path) -> Iterator[Any]:
    settings.CLUSTER_KEY = CLUSTER_KEY
    with running_host(broker, tmp_path) as host:
        yield host


def stacks(host: Any, command: str) -> Any:
    """Of a training that has printed `there`."""
    spec = host.offer(host.spec(command, device_count=0, devices=()))
    key = f"{spec.job}.{spec.attempt}.{spec.fence}"
    log = host.attempts / key / "output.log"
    wait_until(lambda: log.exists() and b"there" in log.read_bytes(), 20, "its first line")
    return asking.ask(HOST, Ask.STACKS, {"attempt": key}, wait_s=30.0)


def test_host_tells_what_hangs(agent: Any, tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    answer = stacks(agent, f"{sys.executable} {tmp_path}/hangs.py & {sys.executable} {tmp_path}/hangs.py & wait")
    assert (answer.error, len(answer.told)) == ("", 2)
    assert all("wait_for_the_other_rank (hangs.py:4)" in one["stack"] for one in answer.told)
    assert asking.ask(HOST, Ask.STACKS, {"attempt": "../x"}).error
    assert asking.ask(HOST, Ask.STACKS, {"attempt": "00000000-0000-4000-8000-000000000000.1.1"}).told == []


@pytest.mark.parametrize(
    ("program", "said"),
    [("exec sleep 60", "has said nothing"), ("exec yes", "y\ny\n"), ("exit 1", "has said nothing"), ("echo denied >&2; exit 1", "denied")],
    ids=["hangs", "floods", "fails", "is not let"],
)
def test_py_spy_that_misbehaves_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, said: str) -> None:
    fake = tmp_path / "py-spy"
    fake.write_text(f"#!/bin/sh\n{program}\n")
    fake.chmod(0o755)
    began = time.monotonic()
    found = host_stacks._stack(str(fake), os.getpid(), 0.5)
    assert said in found
    assert len(found) <= host_stacks.LONGEST_BYTES + 2
    assert time.monotonic() - began < 30
