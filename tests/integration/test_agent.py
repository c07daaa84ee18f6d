"""The host agent as a real Celery worker against a real Redis, with simulated devices and real trainings."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gpuworker import protocol
from gpuworker.protocol import Ended, EndReason, Kind, Refused, Started
from tests.integration.host import HOST, KEY, Host, running_host
from tests.waiting import wait_until


@pytest.fixture
def host(redis_url: str, tmp_path: Path) -> Iterator[Host]:
    with running_host(redis_url, tmp_path) as host:
        yield host


def test_agent_runs_a_job_and_tells_all_of_it(host: Host) -> None:
    spec = host.offer(host.spec("echo hello; echo $CUDA_VISIBLE_DEVICES; sleep 0.3; exit 0"))
    started = host.report(Started, spec)
    assert host.claims() == {host.uuids[0]: protocol.attempt_key(spec.job, 1, 100)}
    ended = host.report(Ended, spec)
    assert (ended.reason, ended.exit_code, ended.unclean) == (EndReason.EXITED, 0, {})
    assert [d.uuid for d in started.devices] == [host.uuids[0]] == [d.uuid for d in ended.devices]
    assert host.log(spec) == b"hello\n0\n"
    assert ended.log_bytes == 8
    assert host.claims() == {}
    markers = ("ack-started", "ack-ended", "ack-log", "ended.json")
    wait_until(lambda: all((host.folder(spec) / name).exists() for name in markers), 5, "acknowledged")
