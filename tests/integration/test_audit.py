"""Who changed what: one row for each change, through whichever door it came."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from jobs import retention
from jobs.models import AuditEntry, User
from jobs.models.audit import Act
from jobs.states import JobState, Role
from tests.integration.rest import Rest, known_host, make_attempt, make_job, person, put_into

pytestmark = pytest.mark.django_db

DONE = {"_form_submitted": "True"}
"""What the dialog behind a button of the admin sends."""


def told() -> list[tuple[str, str, str, str, str]]:
    """(by, act, about, target, via), oldest first; and none any more."""
    rows = list(AuditEntry.objects.order_by("id").values_list("actor_name", "act", "about", "target", "via"))
    AuditEntry.objects.all().delete()
    return rows


@pytest.fixture
def olga() -> User:
    return person("olga", Role.OPERATOR)


def signed_in(user: User) -> Any:
    client: Any = Client(REMOTE_ADDR="192.0.2.7")
    client.force_login(user)
    return client


def test_each_change_of_a_job_is_one_row_whatever_the_door(olga: User) -> None:
    ann = person("ann")
    number = Rest(ann)("POST", "jobs/", {"command": "true", "min_gpus": 0}).json()["id"]
    assert told() == [("ann", "submitted", "job", str(number), "api")]
    signed_in(ann).post(f"/jobs/{number}/hold/")
    assert told() == [("ann", "held", "job", str(number), "page")]
    signed_in(olga).post(f"/admin/jobs/job/{number}/release/", DONE)
    assert told() == [("olga", "released", "job", str(number), "admin")]
    Rest(ann)("PATCH", f"jobs/{number}/", {"priority": 3, "name": "x"})
    assert AuditEntry.objects.get().detail == "ann changed name, priority."
    assert told() == [("ann", "edited", "job", str(number), "api")]
    copy = Rest(ann)("POST", f"jobs/{number}/resubmit/").json()["id"]
    assert told() == [("ann", "submitted", "job", str(copy), "api")]
    signed_in(ann).post("/jobs/act/", {"action": "cancel", "job": [number, copy]})
    assert told() == [("ann", "cancelled", "job", str(number), "page"), ("ann", "cancelled", "job", str(copy), "page")]
    running = make_job(ann)
    put_into(running, JobState.RUNNING)
    make_attempt(running)
    told()
    Rest(olga)("POST", f"jobs/{running.pk}/cancel/")
    assert told() == [("olga", "stopping", "job", str(running.pk), "api")]


def test_what_is_refused_or_only_read_leaves_no_row(olga: User) -> None:
    ann, bob = person("ann"), person("bob")
    job = make_job(ann)
    told()
    Rest(bob)("POST", f"jobs/{job.pk}/cancel/")
    Rest(ann)("POST", f"jobs/{job.pk}/release/")
    Rest(ann)("POST", "jobs/", {"command": ""})
    Rest(ann)("PATCH", f"jobs/{job.pk}/", {"priority": "high"})
    Rest(olga)("POST", "hosts/gpu-z/drain/", {})
    Rest(ann)("GET", "jobs/")
    assert told() == []


def test_hosts_and_devices_have_their_rows(olga: User, broker: str) -> None:
    known_host("gpu-a", 24)
    device, api = "GPU-gpu-a-0", Rest(olga)
    for path, body, act, about, target in (
        ("hosts/gpu-a/drain/", {"reason": "new fan"}, "drained", "host", "gpu-a"),
        ("hosts/gpu-a/resume/", {}, "resumed", "host", "gpu-a"),
        ("hosts/gpu-a/rule/", {"memory_mib": 100}, "rule_set", "host", "gpu-a"),
        ("hosts/gpu-a/lost/", {}, "declared_lost", "host", "gpu-a"),
        (f"devices/{device}/drain/", {}, "drained", "device", device),
        (f"devices/{device}/resume/", {}, "resumed", "device", device),
        (f"devices/{device}/keep/", {"user": "olga", "until": "2100-01-01T00:00Z", "reason": "demo"}, "kept", "device", device),
        (f"devices/{device}/unkeep/", {}, "given_back", "device", device),
    ):
        assert api("POST", path, body).status_code == 200
        detail = AuditEntry.objects.get().detail
        assert body.get("reason", "") in detail
        assert told() == [("olga", act, about, target, "api")]


def test_tokens_and_signing_in_have_their_rows() -> None:
    cache.clear()
    User.objects.create_user("eve", password="right-0815")
    token = Rest()("POST", "auth/login/", {"username": "eve", "password": "right-0815"}).json()["token"]
    Client().post("/signin/", {"username": "eve", "password": "right-0815"})
    assert told() == [("eve", "signed_in", "person", "eve", "api"), ("eve", "signed_in", "person", "eve", "page")]
    api = Rest(token=token)
    made = api("POST", "auth/tokens/", {"name": "laptop", "scope": "read"}).json()
    api("DELETE", f"auth/tokens/{made['id']}/")
    assert told() == [("eve", "made", "token", "laptop", "api"), ("eve", "taken_back", "token", "laptop", "api")]
    assert made["token"] not in str(AuditEntry.objects.values_list("detail"))


def test_changes_of_people_have_their_rows_and_outlive_them() -> None:
    chief, client = person("chief", Role.ADMIN), None
    ann, client = person("ann"), signed_in(chief)
    form = {"username": "ann", "role": "operator", "is_active": "on", "email": "", "first_name": "", "last_name": ""}
    assert client.post(f"/admin/jobs/user/{ann.pk}/change/", form).status_code == 302
    assert "Now operator." in AuditEntry.objects.get().detail
    assert AuditEntry.objects.get().address == "192.0.2.7"
    client.post("/admin/jobs/user/", {"action": "close", "_selected_action": [ann.pk], "index": 0})
    client.post(f"/admin/jobs/user/{ann.pk}/delete/", {"post": "yes"})
    assert told() == [("chief", act, "person", "ann", "admin") for act in ("changed", "changed", "deleted")]


def test_rows_stay_when_the_one_who_made_them_is_deleted() -> None:
    ann = person("ann")
    AuditEntry.objects.create(at=timezone.now(), actor=ann, actor_name="ann", via="api", act=Act.MADE, about="token", target="t")
    ann.delete()
    assert (AuditEntry.objects.get().actor, AuditEntry.objects.get().actor_name) == (None, "ann")


def test_a_command_on_the_machine_has_a_row_without_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    person("ann")
    call_command("signin", "ann")
    assert told() == [("", "link_made", "person", "ann", "command")]
    assert capsys.readouterr().out


def test_rows_are_kept_for_two_years_and_longer_where_logs_are() -> None:
    now = timezone.now()
    for days in (10, 800, 5000):
        AuditEntry.objects.create(at=now - timedelta(days=days), via="api", act=Act.MADE, about="token", target=str(days))
    assert retention.prune(days=0, now=now, dry_run=True).audit == 2
    assert retention.prune(days=1000, now=now).audit == 1
    assert retention.prune(days=0, now=now).audit == 1
    assert AuditEntry.objects.get().target == "10"


# --- the admin's page ---------------------------------------------------------------------------------------------------


def test_operators_look_at_the_rows_and_nobody_writes_them(olga: User) -> None:
    job = make_job(person("ann"), name="<b>x</b>")
    Rest(olga)("POST", f"jobs/{job.pk}/cancel/")
    row = AuditEntry.objects.first()
    assert row
    root, path = User.objects.create_superuser("root"), "/admin/jobs/auditentry/"
    for user in (olga, root):
        client = signed_in(user)
        page = client.get(path).content.decode()
        assert f"/admin/jobs/job/{job.pk}/change/" in page
        assert "Cancelled by olga." in page
        for query in ("?act=cancelled", "?about=job", "?via=api", f"?actor__id__exact={olga.pk}", "?q=olga", f"?q={job.pk}"):
            assert client.get(path + query).context["cl"].result_count == (2 if query in ("?about=job", f"?q={job.pk}") else 1), query
        assert client.get(path, {"q": "\0"}).status_code < 500
        assert client.get(f"{path}{row.pk}/change/").status_code == 200
        assert client.get(f"{path}add/").status_code == 403
        for url in (f"{path}{row.pk}/change/", f"{path}{row.pk}/delete/"):
            assert client.post(url, {"act": "held", "post": "yes"}).status_code == 403
        client.post(path, {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"})
    assert AuditEntry.objects.count() == 2
    assert signed_in(person("bob")).get(path).status_code == 302
