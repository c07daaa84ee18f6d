"""Reading and submitting while Redis is down: nobody waits for it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from jobs import hostlink
from jobs.states import Role
from tests.integration.rest import Rest, known_host, person

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(params=["nothing listens", "nobody answers"])
def no_redis(request: pytest.FixtureRequest, settings: Any) -> Iterator[None]:
    """The two ways to be down: refused at once, and silent for ever."""
    hostlink.client.cache_clear()
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        if request.param == "nobody answers":
            deaf.listen(8)
        settings.REDIS_URL = f"redis://127.0.0.1:{deaf.getsockname()[1]}/0"
        yield
        hostlink.client.cache_clear()


def test_submit_is_quick_and_safe_without_redis(no_redis: None) -> None:
    api = Rest(person("ann"))
    began = time.monotonic()
    ids = [api("POST", "jobs/", {"command": "true"}).json()["id"] for _ in range(20)]
    assert time.monotonic() - began < 3
    assert [job["id"] for job in api("GET", "jobs/?ordering=id").json()["results"]] == ids
    assert api("POST", f"jobs/{ids[0]}/cancel/").json()["state"] == "cancelled"


def test_reading_hosts_works_without_redis(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    hostlink.client.cache_clear()
    known_host("gpu-a", 24)
    api = Rest(person("olga", Role.OPERATOR))
    assert api("GET", "hosts/").json()["results"][0]["state"] == "unreachable"
    assert api("GET", "devices/").json()["results"][0]["state"] == "unknown"
    assert api("POST", "hosts/gpu-a/drain/", {"reason": "new fan"}).status_code == 200
    hostlink.client.cache_clear()
