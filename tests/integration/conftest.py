"""The control plane on the test database and a real Redis, and hosts that are a few lines of test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.core.management import call_command
from kombu import pools

from autotrainer_site.celery import app
from gpuworker.settings import celery_url
from jobs import hostkeys, hostlink, lifecycle
from jobs.models import Host, Job, User
from tests.integration.databases import connected_to, postgres_as_default
from tests.integration.fakehost import FakeHost
from tests.integration.rest import person
from tests.nvml_stub.fixtures import driver, library  # noqa: F401
from tests.postgres import Postgres


@pytest.fixture(autouse=True)
def fresh(settings: Any, tmp_path: Path) -> Iterator[None]:
    """No logs, and no tries to sign in, of other tests."""
    settings.LOGS_HOME = tmp_path / "logs"
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def broker(redis_url: str, settings: Any, db: None) -> Iterator[str]:
    """Celery and the control plane's own Redis client on the session's Redis, emptied. Hosts' rows say which keys are theirs."""
    settings.REDIS_URL = redis_url
    hostlink.client.cache_clear()
    hostkeys.look_afresh()
    hostlink.forget_heartbeats()
    app.conf.broker_url = celery_url(redis_url)
    app._pool = app.amqp._producer_pool = None
    yield redis_url
    pools.reset()
    app._pool = app.amqp._producer_pool = None
    hostlink.client().close()
    hostlink.client.cache_clear()


@pytest.fixture(scope="session")
def application(django_db_setup: None, django_db_blocker: Any) -> Any:
    """What uvicorn serves. It looks at the database when it is loaded."""
    with django_db_blocker.unblock():
        return import_module("autotrainer_site.asgi").application


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, transactional_db: None) -> Iterator[str]:
    """The test happens once on each."""
    if request.param == "sqlite":
        yield "sqlite"
        return
    with postgres_as_default(request.getfixturevalue("migrated_postgres")):
        yield "postgresql"


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Postgres, django_db_blocker: Any) -> Postgres:
    with django_db_blocker.unblock(), connected_to(postgres):
        call_command("migrate", verbosity=0)
    return postgres


@pytest.fixture
def ada(transactional_db: None) -> User:
    return User.objects.create_user("ada", password="of the engine")


@pytest.fixture
def ann(db: None) -> User:
    return person("ann")


@pytest.fixture
def host(ada: User, broker: str) -> Iterator[FakeHost]:
    """One host, gpu-a, with two free devices of 24 GiB, heard just now."""
    Host.objects.create(name="gpu-a")
    fake = FakeHost(broker, "gpu-a")
    fake.beat()
    yield fake
    fake.close()


@pytest.fixture
def submit(ada: User, host: FakeHost) -> Callable[..., Job]:
    """Submit a job as ada: one GPU, unless the fields say otherwise."""

    def submit(owner: User = ada, *, after: tuple[Job, ...] = (), hold: bool = False, **fields: Any) -> Job:
        given = {"name": "train", "command": "python train.py", "working_dir": "/data"} | fields
        given.setdefault("max_gpus", max(1, given.get("min_gpus", 1)))
        return lifecycle.submit(owner, given, after=after, hold=hold)

    return submit


@pytest.fixture
def woken() -> Iterator[list[int]]:
    """Grows with each wake-up of the scheduler of this process."""
    calls: list[int] = []
    lifecycle.on_wake.append(lambda: calls.append(1))
    yield calls
    lifecycle.on_wake.clear()
