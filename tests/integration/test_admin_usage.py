"""GPU-hours by person or group and month, summed right and shown to operators only."""

from __future__ import annotations

import csv
import io
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.contrib.auth.models import Group
from django.test import Client
from django.utils import timezone

from jobs import usage
from jobs.models import User
from jobs.states import Role
from tests.integration.rest import make_attempt, make_job, person

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DEVICES = [{"uuid": f"GPU-{index}", "index": index} for index in range(4)]


def used(owner: User, begin: datetime, hours: float | None, gpus: int = 1) -> None:
    """An attempt of a job of its own; without hours it still runs."""
    ended = {} if hours is None else {"outcome": "completed", "ended_at": begin + timedelta(hours=hours)}
    make_attempt(make_job(owner), created_at=begin, devices=DEVICES[:gpus], **ended)


def table(rows: list[usage.Used]) -> list[tuple[str, str, float, int]]:
    return [(row.who, f"{row.month:%Y-%m}", round(row.gpu_hours, 3), row.attempts) for row in rows]


@pytest.fixture
def utc(settings: Any) -> None:
    settings.TIME_ZONE = "UTC"


@pytest.mark.usefixtures("database", "utc")
def test_hours_are_summed_by_person_and_month_and_cut_where_a_month_ends() -> None:
    ann, bob = person("ann"), person("bob")
    used(ann, datetime(2026, 10, 5, tzinfo=UTC), 10, gpus=2)
    used(ann, datetime(2026, 10, 6, tzinfo=UTC), 1.5)
    used(ann, datetime(2026, 10, 7, tzinfo=UTC), 100, gpus=0)
    used(ann, datetime(2026, 10, 31, 22, tzinfo=UTC), 5, gpus=4)  # two hours in October, three in November
    used(bob, NOW - timedelta(hours=7), None, gpus=2)  # still runs
    used(bob, datetime(2026, 8, 1, tzinfo=UTC), 24 * 92)  # longer than a month and a half on both sides
    rows = usage.by_person(date(2026, 9, 1), date(2026, 11, 1), now=NOW)
    assert table(rows) == [
        ("ann", "2026-11", 12, 1),
        ("bob", "2026-11", 14, 1),
        ("ann", "2026-10", 20 + 1.5 + 8, 4),
        ("bob", "2026-10", 24 * 31, 1),
        ("bob", "2026-09", 24 * 30, 1),
    ]


@pytest.mark.django_db
def test_months_are_those_of_the_labs_zone(settings: Any) -> None:
    settings.TIME_ZONE = "Asia/Shanghai"
    used(person("ann"), datetime(2026, 11, 1, 0, 30, tzinfo=ZoneInfo("Asia/Shanghai")), 1)
    assert table(usage.by_person(date(2026, 11, 1), date(2026, 11, 1), now=NOW)) == [("ann", "2026-11", 1, 1)]
    assert usage.by_person(date(2026, 10, 1), date(2026, 10, 1), now=NOW) == []


@pytest.mark.django_db
@pytest.mark.usefixtures("utc")
def test_groups_have_the_hours_of_their_members() -> None:
    ann, bob = person("ann"), person("bob")
    vision, audio, _ = (Group.objects.create(name=name) for name in ("vision", "audio", "nobody"))
    vision.user_set.add(ann, bob)
    audio.user_set.add(bob)
    used(ann, datetime(2026, 11, 1, tzinfo=UTC), 2)
    used(bob, datetime(2026, 11, 1, tzinfo=UTC), 3)
    used(person("cyd"), datetime(2026, 11, 1, tzinfo=UTC), 9)
    assert table(usage.by_group(date(2026, 11, 1), date(2026, 11, 1), now=NOW)) == [("audio", "2026-11", 3, 1), ("vision", "2026-11", 5, 2)]


# --- the page -----------------------------------------------------------------------------------------------------------

PAGE = "/admin/jobs/job/usage/"


def browser(user: User) -> Any:
    client: Any = Client()
    client.force_login(user)
    return client


@pytest.mark.django_db
def test_operators_see_the_table_and_take_it_along_as_csv() -> None:
    used(person("+ann"), timezone.now() - timedelta(hours=3), None, gpus=2)
    client = browser(person("olga", Role.OPERATOR))
    assert PAGE in client.get("/admin/jobs/job/").content.decode()
    page = client.get(PAGE).content.decode()
    assert "+ann" in page
    assert client.get(f"{PAGE}?by=group").status_code == 200
    answer = client.get(f"{PAGE}?format=csv")
    assert (answer.headers["Content-Type"], "gpu-hours.csv" in answer.headers["Content-Disposition"]) == ("text/csv; charset=utf-8", True)
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert {row["person"] for row in rows} == {"'+ann"}  # no formula
    assert 5.9 < sum(float(row["gpu_hours"]) for row in rows) < 6.1


@pytest.mark.django_db
@pytest.mark.parametrize(
    "query", ["from=x", "to=2026-13", "from=2026-05&to=2026-04", "from=2000-01&to=2026-01", "by=command", "to=9999-12"]
)
def test_question_that_makes_no_sense_is_a_400(query: str) -> None:
    assert browser(person("olga", Role.OPERATOR)).get(f"{PAGE}?{query}").status_code == 400


@pytest.mark.django_db
@pytest.mark.parametrize("role", [Role.VIEWER, Role.SUBMITTER])
def test_nobody_else_sees_it(role: Role) -> None:
    assert browser(person("bob", role)).get(PAGE).status_code == 302
