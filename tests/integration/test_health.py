"""What supervisors and load balancers ask."""

from __future__ import annotations

import gc
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from gpuworker import disks
from jobs import health
from jobs.models import Leader

NO_REDIS = "unix:///nowhere/r.sock"


@pytest.fixture
def leader(db: None) -> Leader:
    return Leader.objects.create(pk=1, term=1, holder="somebody", renewed_at=timezone.now())


def ready() -> tuple[int, list[str]]:
    answer = Client().get("/readyz")
    return answer.status_code, answer.json()["failing"]


def test_web_process_leaves_its_code_out_of_garbage_collection(application: Any) -> None:
    assert gc.get_freeze_count() > 50_000


def test_healthz_answers_without_asking_anything(django_assert_num_queries: Any, db: None) -> None:
    with django_assert_num_queries(0):
        assert Client().get("/healthz").status_code == 200


def test_readyz_is_200_when_everything_works(leader: Leader, redis_url: str, settings: Any) -> None:
    settings.REDIS_URL = redis_url
    assert ready() == (200, [])


def test_readyz_names_redis_when_it_does_not_answer(leader: Leader, settings: Any) -> None:
    settings.REDIS_URL = NO_REDIS
    assert ready() == (503, ["redis"])


@pytest.mark.parametrize("change", [{"renewed_at": timezone.now() - timedelta(seconds=20)}, {"holder": ""}])
def test_readyz_names_the_scheduler_when_nobody_leads(leader: Leader, redis_url: str, settings: Any, change: dict[str, Any]) -> None:
    settings.REDIS_URL = redis_url
    Leader.objects.filter(pk=leader.pk).update(**change)
    assert ready() == (503, ["scheduler"])


def test_readyz_names_migrations_when_some_are_not_applied(
    leader: Leader, redis_url: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.REDIS_URL = redis_url
    monkeypatch.setattr(health, "_migrated", False)
    monkeypatch.setattr("django.db.migrations.executor.MigrationExecutor.migration_plan", lambda self, targets: [object()])
    assert ready() == (503, ["migrations"])


def test_readyz_names_the_disk_when_it_is_low(leader: Leader, redis_url: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REDIS_URL = redis_url
    monkeypatch.setattr(disks, "room", lambda folder: disks.Room(2**29, 2**30))
    assert ready() == (503, ["disk"])
    assert Client().get("/readyz").json()["parts"]["disk"] == "512 MiB free, 1024 MiB are needed"


def test_readyz_tells_no_secrets(leader: Leader, settings: Any) -> None:
    settings.REDIS_URL = "redis://:topsecret@127.0.0.1:1/0"
    assert "topsecret" not in Client().get("/readyz").content.decode()
