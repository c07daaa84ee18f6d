"""What Prometheus scrapes: read back by its own parser."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from gpuworker import dropped
from jobs import dispatch, drops, hostkeys, hostlink
from jobs.hosts import Watch
from jobs.models import Job, User
from tests.integration.fakehost import FakeHost

Sample = tuple[str, tuple[tuple[str, str], ...]]


def scraped(client: Any) -> dict[Sample, float]:
    answer = client.get("/metrics")
    assert (answer.status_code, answer.headers["Content-Type"].partition(";")[0]) == (200, "text/plain")
    families = text_string_to_metric_families(answer.content.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_queue_hosts_and_devices_are_told_in_numbers(host: FakeHost, submit: Callable[..., Job], client: Any) -> None:
    host.devices = [host.device(0, utilization_pct=55.0), host.device(1, error="lost")]
    host.beat()
    Watch().look(timezone.now())
    submit(name="secret-name")
    submit()
    dispatch.run_pass(timezone.now())
    told = scraped(client)
    assert told["autotrainer_jobs", (("state", "starting"),)] == 1
    assert told["autotrainer_jobs", (("state", "queued"),)] == 1
    assert told["autotrainer_jobs", (("state", "failed"),)] == 0
    assert 0 < told["autotrainer_oldest_queued_job_age_seconds", ()] < 60
    assert told["autotrainer_host_state", (("host", "gpu-a"), ("state", "up"))] == 1
    assert told["autotrainer_host_state", (("host", "gpu-a"), ("state", "lost"))] == 0
    assert told["autotrainer_host_last_heartbeat_age_seconds", (("host", "gpu-a"),)] < 60
    assert told["autotrainer_devices", (("host", "gpu-a"), ("state", "claimed"))] == 1
    device = (("host", "gpu-a"), ("index", "0"), ("uuid", "GPU-gpu-a-0"))
    assert told["autotrainer_device_utilization_pct", device] == 55
    assert [key for key in told if key[0] == "autotrainer_device_utilization_pct"] == [("autotrainer_device_utilization_pct", device)]
    assert told["autotrainer_reports_waiting", (("host", "gpu-a"), ("kind", "logs"))] == 0
    assert told["autotrainer_redis_up", ()] == 1
    assert b"secret-name" not in client.get("/metrics").content
    assert b"ada" not in client.get("/metrics").content


def test_metrics_are_told_without_redis_and_without_a_job(db: None, settings: Any, client: Any, ada: User) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    hostlink.client.cache_clear()
    told = scraped(client)
    hostlink.client.cache_clear()
    assert told["autotrainer_redis_up", ()] == 0
    assert told["autotrainer_jobs", (("state", "queued"),)] == 0
    assert told["autotrainer_oldest_queued_job_age_seconds", ()] == 0


def test_scrape_asks_little_however_many_jobs_there_are(
    host: FakeHost, submit: Callable[..., Job], client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostkeys, "FRESH_S", -1.0)
    with CaptureQueriesContext(connection) as few:
        client.get("/metrics")
    for _ in range(20):
        submit()
    with CaptureQueriesContext(connection) as many:
        client.get("/metrics")
    assert len(many) == len(few) <= 12


def test_dropped_messages_are_told_by_whom_and_of_which_kind(host: FakeHost, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropped, "_counts", Counter())
    none = scraped(client)
    host.beat(dropped={"stop_dropped": 3, "made up by the host": 4})
    one, other = drops.Adder(), drops.Adder()
    dropped.warn(logging.getLogger("test"), "report dropped", action=dropped.Drop.REPORT)
    one.add()
    one.add()
    other.add()  # of another control worker
    for _ in range(30):  # more than are told in the log
        dropped.warn(logging.getLogger("test"), "report dropped", action=dropped.Drop.REPORT)
    one.add()
    told = scraped(client)
    grown = {key[1]: told[key] - none[key] for key in told if key[0] == "autotrainer_messages_dropped_total" and told[key] != none[key]}
    assert grown == {(("host", "gpu-a"), ("kind", "stop_dropped")): 3, (("host", ""), ("kind", "report_dropped")): 32}
    assert len([key for key in none if key[0] == "autotrainer_messages_dropped_total"]) == 2 * len(dropped.Drop)


def test_forged_heartbeat_is_counted_where_it_is_dropped(host: FakeHost, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropped, "_counts", Counter())
    host.key = b"0" * 32
    host.beat()
    Watch().look(timezone.now())
    drops.Adder().add()
    assert scraped(client)["autotrainer_messages_dropped_total", (("host", ""), ("kind", "beat_dropped"))] == 1
