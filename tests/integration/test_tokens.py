"""Personal tokens: shown once, kept as a hash, limited in what they may and for how long, and taken back."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from knox.models import AuthToken

from jobs.models import PersonalToken, User
from jobs.tokens import MOST, make
from tests.integration.rest import Rest, errors, make_job, person

pytestmark = pytest.mark.django_db


def test_token_is_made_listed_used_and_taken_back_over_rest(ann: User) -> None:
    api = Rest(ann)
    made = api("POST", "auth/tokens/", {"name": " my  laptop ", "days": 7}).json()
    assert (made["name"], made["scope"], made["last_used_at"]) == ("my laptop", "all", None)
    assert AuthToken.objects.filter(digest__contains=made["token"]).count() == 0
    mine = Rest(token=made["token"])
    assert mine("GET", "auth/me/").json()["username"] == "ann"
    (listed,) = api("GET", "auth/tokens/").json()["results"]
    assert "token" not in listed
    assert listed["last_used_at"] is not None
    assert 6 < (PersonalToken.objects.get().expires_at - timezone.now()) / timedelta(days=1) <= 7
    assert api("DELETE", f"auth/tokens/{listed['id']}/").status_code == 204
    assert mine("GET", "auth/me/").status_code == 401
    assert api("GET", "auth/tokens/").json()["count"] == 0


def test_token_for_reading_changes_nothing(ann: User) -> None:
    job = make_job(ann)
    api = Rest(token=make(ann, name="reader", scope="read", days=1)[1])
    assert api("GET", f"jobs/{job.pk}/").json()["command"]
    for method, path in (("POST", f"jobs/{job.pk}/cancel/"), ("PATCH", f"jobs/{job.pk}/"), ("POST", "jobs/"), ("POST", "auth/tokens/")):
        answer = api(method, path, {})
        assert answer.status_code == 403
        assert "may only read" in errors(answer)[None]
    job.refresh_from_db()
    assert job.state == "queued"


def test_expired_token_opens_nothing(ann: User) -> None:
    made, secret = make(ann, name="old", scope="all", days=1)
    past = timezone.now() - timedelta(seconds=1)
    AuthToken.objects.filter(digest=made.digest).update(expiry=past)
    PersonalToken.objects.filter(pk=made.pk).update(expires_at=past)
    assert Rest(token=secret)("GET", "auth/me/").status_code == 401
    assert Rest(ann)("GET", "auth/tokens/").json()["count"] == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": " "}, "name"),
        ({"name": "x" * 81}, "name"),
        ({"name": "x", "scope": "root"}, "scope"),
        ({"name": "x", "days": 0}, "days"),
        ({"name": "x", "days": 10**9}, "days"),
        ({"name": "x", "days": "7"}, "days"),
        ({"name": "x", "days": True}, "days"),
        ({"name": "x", "colour": 1}, "colour"),
    ],
)
def test_wish_that_makes_no_sense_is_refused_with_its_field(ann: User, body: dict[str, Any], field: str) -> None:
    answer = Rest(ann)("POST", "auth/tokens/", body)
    assert answer.status_code == 400
    assert field in errors(answer)
    assert not PersonalToken.objects.exists()


def test_nobody_takes_back_or_sees_the_tokens_of_others_and_nobody_has_too_many(ann: User) -> None:
    made, _ = make(ann, name="mine", scope="all", days=1)
    bob = Rest(person("bob"))
    assert bob("DELETE", f"auth/tokens/{made.pk}/").status_code == 404
    assert bob("GET", "auth/tokens/").json()["count"] == 0
    for _ in range(MOST - 1):
        make(ann, name="mine", scope="all", days=1)
    assert "take one back" in errors(Rest(ann)("POST", "auth/tokens/", {"name": "one more"}))["name"]


def test_page_makes_a_token_shows_it_once_and_takes_it_back(ann: User, client: Any) -> None:
    client.force_login(ann)
    page = client.post("/account/tokens/", {"name": "laptop", "scope": "read", "days": "30"}).content.decode()
    found = re.search(r'id="secret"[^>]*>(at_\w+)<', page)
    assert found
    assert Rest(token=found[1])("GET", "auth/me/").status_code == 200
    assert found[1] not in client.get("/account/tokens/").content.decode()
    assert client.post("/account/tokens/", {"name": "", "scope": "read", "days": "30"}).status_code == 400
    number = PersonalToken.objects.get().pk
    assert "taken back" in client.post("/account/tokens/", {"take_back": str(number)}, follow=True).content.decode()
    assert Rest(token=found[1])("GET", "auth/me/").status_code == 401
    client.logout()
    assert client.get("/account/tokens/").status_code == 302
