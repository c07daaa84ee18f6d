"""The overview of a lab with more GPUs than anybody looks through: hosts are lines, and open one by one."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from jobs.models import User
from jobs.states import JobState
from jobs.web import cards
from jobs.web.views import overview
from tests.integration.fakehost import FakeHost
from tests.integration.rest import known_host, make_attempt, make_job, put_into

pytestmark = pytest.mark.django_db


@pytest.fixture
def page(broker: str, ann: User, client: Client, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Two hosts with two GPUs each, which is one too many, and one without any; a job runs on gpu-a."""
    monkeypatch.setattr(cards, "FOLD_FROM", 4)
    for name in ("gpu-a", "gpu-b"):
        known_host(name, 24, 24)
        fake = FakeHost(broker, name)
        fake.beat()
        fake.close()
    known_host("bare")
    runs = make_job(ann, name="train")
    make_attempt(runs, devices=[{"uuid": "GPU-gpu-a-1", "index": 1}], started_at=timezone.now() - timedelta(hours=2))
    put_into(runs, JobState.RUNNING)
    client.force_login(ann)
    return client


def cards_on(page: Client, address: str) -> list[str]:
    return re.findall(r'id="gpu-GPU-([\w-]+)"', page.get(address).content.decode())


def test_hosts_are_lines_with_a_mark_for_each_device(page: Client) -> None:
    text = page.get("/").content.decode()
    assert cards_on(page, "/") == []
    assert 'aria-label="Free 1 · In use 1"' in text
    assert '<i class="is-free"></i><i class="is-ours"></i>' in text
    assert "1 of 2 free" in text
    assert 'href="?open=gpu-a#host-gpu-a"' in text
    assert 'aria-labelledby="h-bare">' in text  # there is nothing to fold


def test_opened_hosts_have_their_cards_and_keep_them_while_the_page_follows(page: Client) -> None:
    text = page.get("/?open=gpu-a").content.decode()
    assert cards_on(page, "/?open=gpu-a") == cards_on(page, "/live/?open=gpu-a") == ["gpu-a-0", "gpu-a-1"]
    assert 'hx-get="/live/?open=gpu-a"' in text
    assert 'href="?#host-gpu-a"' in text  # closes it
    assert 'href="?open=gpu-a&amp;open=gpu-b#host-gpu-b"' in text
    assert cards_on(page, "/?open=gpu-b&open=gpu-a") == ["gpu-a-0", "gpu-a-1", "gpu-b-0", "gpu-b-1"]


@pytest.mark.parametrize("given", ["?open=nowhere", "?open=%22%3E%3Cscript%3E", "?open="])
def test_hosts_that_nobody_knows_open_nothing_and_are_not_repeated(page: Client, given: str) -> None:
    text = page.get(f"/{given}").content.decode()
    assert 'hx-get="/live/"' in text
    assert 'href="?open=gpu-a#host-gpu-a"' in text
    assert "<script>" not in text


def test_few_devices_are_never_folded(page: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "FOLD_FROM", 5)
    assert len(cards_on(page, "/?open=gpu-a")) == 4
    assert 'class="fold"' not in page.get("/").content.decode()


def test_running_jobs_beyond_a_screenful_are_counted_and_still_told_on_their_cards(
    page: Client, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "RUNNING_ROWS", 1)
    later = make_job(ann)
    make_attempt(later, devices=[{"uuid": "GPU-gpu-b-0", "index": 0}], started_at=timezone.now() - timedelta(hours=5))
    put_into(later, JobState.RUNNING)
    text = page.get("/?open=gpu-b").content.decode()
    assert f'id="run-{later.pk}"' not in text
    assert "2 jobs run" in text
    assert "1 more runs" in text
    assert "/jobs/?state=active&amp;whose=all" in text
    assert "5 h 0 m" in text
