"""The real control worker, as a process: front door, scheduler, ingest, leadership."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings

from gpuworker.protocol import Spec
from jobs import lifecycle, logs
from jobs.models import Host, Job, Leader
from jobs.states import HostState, JobState
from tests.integration.database import shared_with
from tests.integration.fakehost import FakeHost
from tests.waiting import wait_until

TRACEBACK = b'Traceback (most recent call last):\n  File "/w/train.py", line 88, in step\n    rate = config["lr"]\nKeyError: \'lr\'\n'
Submit = Callable[..., Job]
Start = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def start(host: FakeHost, broker: str, tmp_path: Path, settings: Any) -> Iterator[Start]:
    """Starts control workers on the test database; ends them."""
    home = tmp_path / "home"
    home.mkdir()
    settings.LOGS_HOME = home / "logs"
    env = {
        "AUTOTRAINER_HOME": str(home),
        "AUTOTRAINER_REDIS_URL": broker,
        "AUTOTRAINER_CLUSTER_KEY": django_settings.CLUSTER_KEY.decode(),
        "PYTHONWARNINGS": "default",
        **shared_with(home),
    }
    workers: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        name = f"control{len(workers)}@test"
        options = ["-P", "threads", "-c", "8", "-Q", "control", "-n", name, "--without-gossip", "--without-mingle", "-l", "info"]
        with (tmp_path / f"worker{len(workers)}.log").open("wb") as out:
            command = [sys.executable, "-m", "celery", "-A", "autotrainer_site", "worker", *options]
            workers.append(subprocess.Popen(command, env=os.environ | env, stdin=subprocess.DEVNULL, stdout=out, stderr=out))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()
        worker.wait()
    for log in sorted(tmp_path.glob("worker*.log")):
        print(f"--- {log.name}\n{log.read_text()[-4000:]}")


def state(job: Job) -> str:
    job.refresh_from_db()
    return job.state


def next_offer(host: FakeHost, timeout_s: float = 10) -> Spec:
    def first() -> list[Spec]:
        host.beat()
        return host.offers()

    (spec,) = wait_until(first, timeout_s, "an offer", every_s=0.001)
    return spec


def test_control_worker_takes_a_job_from_submit_to_completed(start: Start, submit: Submit, host: FakeHost) -> None:
    start()
    job = submit()
    spec = next_offer(host, 30)
    host.started(spec)
    wait_until(lambda: state(job) == JobState.RUNNING, 5, "running")
    host.log(spec, b"epoch 1\n")
    host.ended(spec, log_bytes=8)
    wait_until(lambda: state(job) == JobState.COMPLETED, 5, "completed")
    assert logs.read(job.pk, 1, 0, 100) == b"epoch 1\n"
    assert [(ack.what, ack.offset) for ack in host.acks()] == [("started", 0), ("log", 8), ("ended", 0)]
    assert host.left() == 0
    assert Host.objects.get().state == HostState.UP


def fails(host: FakeHost, job: Job) -> Job:
    spec = next_offer(host, 30)
    host.started(spec)
    host.log(spec, TRACEBACK)
    host.ended(spec, 1, log_bytes=len(TRACEBACK))
    return job


def test_mail_server_that_never_answers_holds_up_nothing_but_letters(
    start: Start, submit: Submit, host: FakeHost, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    """What an attempt left is collected for an hour only, and a training that hangs is told while it does."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"smtp://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setenv("EMAIL_URL", url)
        settings.AUTOTRAINER = replace(settings.AUTOTRAINER, email_url=url)
        start()
        fails(host, submit(notify=["x@example.org"]))
        silent.settimeout(20)
        hanging, _ = silent.accept()
        failed = fails(host, submit())
        wait_until(lambda: failed.attempts.exclude(failure="").exists(), 10, "why it failed is noted")
        assert failed.attempts.get().failure == "KeyError: 'lr' at train.py:88"
        hanging.close()


def test_second_control_worker_takes_over_at_once_when_the_first_is_killed(start: Start, submit: Submit, host: FakeHost) -> None:
    first, _ = start(), start()
    wait_until(lambda: Leader.objects.exclude(holder="").exists(), 30, "a leader")
    wait_until(lambda: Leader.objects.get().holder.split()[1] == str(first.pid) or not first.poll(), 5)
    leader = int(Leader.objects.get().holder.split()[1])
    os.kill(leader, signal.SIGKILL)
    began = time.monotonic()
    wait_until(lambda: Leader.objects.get().holder.split()[1] != str(leader), 10, "another leader")
    job = submit()
    next_offer(host)
    assert time.monotonic() - began < 10
    assert state(job) == JobState.STARTING


def test_knock_at_a_worker_that_does_not_lead_reaches_the_one_that_does(start: Start, submit: Submit, host: FakeHost) -> None:
    start()
    wait_until(lambda: Leader.objects.exclude(holder="").exists(), 30, "a leader")
    host.redis.xadd("autotrainer:wake", {"w": b""})
    wait_until(lambda: host.redis.xlen("autotrainer:wake") == 0, 5, "the knock is heard")


def test_control_worker_outlives_an_outage_of_redis(start: Start, submit: Submit, host: FakeHost) -> None:
    worker = start()
    wait_until(lambda: Leader.objects.exclude(holder="").exists(), 30, "a leader")
    host.redis.client_kill_filter(_type="normal", skipme=True)
    job = submit()
    next_offer(host)
    assert worker.poll() is None
    assert state(job) == JobState.STARTING


def test_worker_that_ends_in_order_gives_the_lease_back(start: Start, host: FakeHost) -> None:
    worker = start()
    wait_until(lambda: Leader.objects.exclude(holder="").exists(), 30, "a leader")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(15) == 0
    assert Leader.objects.get().holder == ""


def test_times_from_submit_and_from_end_to_the_next_offer(start: Start, submit: Submit, host: FakeHost) -> None:
    """Prints; times are for benchmarks to judge."""
    start()
    host.devices = [host.device(0)]
    host.beat()
    wait_until(lambda: Host.objects.get().state == HostState.UP, 30, "the host is seen")
    from_submit, from_end = [], []
    submit()
    spec = next_offer(host)
    for _ in range(20):
        host.started(spec)
        host.ended(spec)
        wait_until(lambda: not Job.objects.filter(state__in=["starting", "running", "queued"]).exists(), 5, "over")
        submit()
        began = time.perf_counter()
        spec = next_offer(host)
        from_submit.append(time.perf_counter() - began)
    Job.objects.bulk_create(
        Job(owner=lifecycle.User.objects.get(), name="n", command="true", working_dir="/", created_at=Job.objects.first().created_at)  # type: ignore[union-attr]
        for _ in range(1000)
    )
    for _ in range(20):
        host.started(spec)
        host.ended(spec)
        began = time.perf_counter()
        spec = next_offer(host)
        from_end.append(time.perf_counter() - began)
    for what, times in (("submit committed to offer", from_submit), ("end reported to next offer, 1,000 waiting", from_end)):
        print(f"{what}: p50 {statistics.median(times) * 1e3:.1f} ms, worst {max(times) * 1e3:.1f} ms")
