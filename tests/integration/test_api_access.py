"""Every call as nobody, as another person, as viewer and as operator."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client
from drf_spectacular.generators import SchemaGenerator
from knox.models import AuthToken

from jobs import logs
from jobs.models import Job, User
from jobs.states import JobState, Role
from tests.integration.rest import Rest, errors, known_host, make_attempt, make_job, person, put_into

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("database")]

SECRET = "a-secret-3b1c"
SWAPS = [{"target": f"{SECRET}.py", "content": SECRET}]
PUBLIC = {"/api/v1/auth/login/", "/api/v1/schema/", "/api/v1/docs/"}


@pytest.fixture
def anns() -> Job:
    """A running job of ann with her secret in all that is hers alone, and a log."""
    known_host("gpu-a", 24)
    job = make_job(person("ann"), command=f"echo {SECRET}", working_dir=f"/{SECRET}", env={"A": SECRET}, swaps=SWAPS)
    make_attempt(job, message=f"/{SECRET} is missing")
    put_into(job, JobState.RUNNING)
    logs.append(job.pk, 1, 0, SECRET.encode())
    return job


def operations() -> list[tuple[str, str]]:
    document = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return [(method.upper(), path) for path, item in document["paths"].items() for method in item if path not in PUBLIC]


def filled(path: str, job: Job) -> str:
    return path.replace("{id}", str(job.pk)).replace("{number}", "1").replace("{name}", "gpu-a").replace("{uuid}", "GPU-gpu-a-0")


CONTRACT = """GET jobs/ · POST jobs/ · GET jobs/{id}/ · PATCH jobs/{id}/ · POST jobs/{id}/cancel/ · POST jobs/{id}/hold/
 · POST jobs/{id}/release/ · POST jobs/{id}/resubmit/ · GET jobs/{id}/events/ · GET jobs/{id}/log/ · GET jobs/{id}/log/stream/
 · GET hosts/ · POST hosts/{name}/drain/ · POST hosts/{name}/resume/ · POST hosts/{name}/lost/ · GET devices/
 · POST devices/{uuid}/drain/ · POST devices/{uuid}/resume/ · POST devices/{uuid}/unkeep/
 · POST hosts/{name}/rule/"""


def test_schema_tells_of_every_call() -> None:
    promised = {(method, f"/api/v1/{path}") for method, path in (call.split() for call in CONTRACT.split("·"))}
    assert promised <= set(operations())


@pytest.mark.parametrize("token", ["", "0" * 64, "at_", "é"])
def test_every_call_is_401_when_nobody_is_signed_in(anns: Job, token: str) -> None:
    api = Rest(token=token)
    wrong = []
    for method, path in operations():
        answer = api(method, filled(path, anns), None if method == "GET" else {})
        if answer.status_code != 401 or not errors(answer):
            wrong.append(f"{method} {path}: {answer.status_code}")
    assert not wrong


def test_every_call_is_401_when_the_account_is_closed(anns: Job) -> None:
    api = Rest(anns.owner)
    User.objects.filter(pk=anns.owner_id).update(is_active=False)
    answers = {api(method, filled(path, anns), None if method == "GET" else {}).status_code for method, path in operations()}
    assert answers == {401}


@pytest.mark.parametrize("role", [Role.SUBMITTER, Role.VIEWER])
def test_no_call_shows_or_touches_a_job_of_somebody_else(anns: Job, role: Role) -> None:
    api = Rest(person("bob", role))
    held = make_job(anns.owner, command=SECRET, swaps=SWAPS, hold=True)
    wrong = []
    for job in (anns, held):
        for method, path in operations():
            if "/jobs/{id}" not in path:
                continue
            answer = api(method, filled(path, job), {"priority": 9} if method == "PATCH" else None if method == "GET" else {})
            redacted = (method, path) in (("GET", "/api/v1/jobs/{id}/"), ("GET", "/api/v1/jobs/{id}/samples/"))
            if answer.status_code != (200 if redacted else 403) or SECRET in answer.content.decode():
                wrong.append(f"{method} {path}: {answer.status_code}")
    assert not wrong
    anns.refresh_from_db()
    assert (anns.state, anns.priority) == (JobState.RUNNING, 0)


def test_others_see_the_queue_without_the_details(anns: Job) -> None:
    api = Rest(person("bob"))
    for path in ("jobs/", f"jobs/?search={SECRET}", "jobs/?owner=ann", "jobs/?state=running"):
        assert SECRET not in api("GET", path).content.decode()
    assert api("GET", f"jobs/?search={SECRET}").json()["count"] == 0
    job = api("GET", f"jobs/{anns.pk}/").json()
    assert (job["name"], job["owner"], job["state"], job["host"]) == ("job", "ann", "running", "gpu-a")
    assert [job[name] for name in ("command", "working_dir", "env", "swaps", "artifacts", "notify")] == [None] * 6
    assert job["attempts"][0]["message"] is None


def test_others_see_the_details_when_the_lab_is_open(anns: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.access.settings.AUTOTRAINER", _Open())
    api = Rest(person("bob"))
    assert api("GET", f"jobs/{anns.pk}/").json()["command"] == f"echo {SECRET}"
    assert api("GET", f"jobs/{anns.pk}/log/").content == SECRET.encode()
    assert api("POST", f"jobs/{anns.pk}/cancel/").status_code == 403


class _Open:
    open_lab = True


def test_operators_see_and_manage_every_job(anns: Job) -> None:
    api = Rest(person("olga", Role.OPERATOR))
    assert api("GET", f"jobs/{anns.pk}/").json()["env"] == {"A": SECRET}
    assert api("GET", f"jobs/?search={SECRET}").json()["count"] == 1
    assert api("GET", f"jobs/{anns.pk}/events/").status_code == 200
    assert api("POST", f"jobs/{anns.pk}/cancel/").json()["state"] == "stopping"


def test_a_session_is_as_good_as_a_token_when_the_request_is_its_own(anns: Job) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(anns.owner)
    assert browser.get(f"/api/v1/jobs/{anns.pk}/").json()["command"] == f"echo {SECRET}"
    answer = browser.post(f"/api/v1/jobs/{anns.pk}/cancel/")
    assert answer.status_code == 403
    assert "CSRF" in errors(answer)[None]


# --- hosts and devices --------------------------------------------------------------------------------------------------

OPERATED = [re.sub(r"^POST ", "", call.strip()) for call in CONTRACT.split("·") if re.match(r"\s*POST (hosts|devices)", call)]


@pytest.mark.parametrize("path", OPERATED)
def test_hosts_and_devices_are_managed_by_operators_only(anns: Job, path: str) -> None:
    target = path.replace("{name}", "gpu-a").replace("{uuid}", "GPU-gpu-a-0")
    nowhere = path.replace("{name}", "gpu-z").replace("{uuid}", "GPU-z")
    assert Rest(anns.owner)("POST", target, {}).status_code == 403
    assert Rest(anns.owner)("POST", nowhere, {}).status_code == 403
    operator = Rest(person("olga", Role.OPERATOR))
    assert operator("POST", nowhere, {}).status_code == 404
    assert errors(operator("POST", target, {"colour": "red"}))["colour"]
    assert operator("POST", target).status_code in (200, 409)


def test_hosts_and_devices_are_seen_by_everyone_who_is_signed_in(anns: Job) -> None:
    api = Rest(person("bob", Role.VIEWER))
    host = api("GET", "hosts/").json()["results"][0]
    assert (host["name"], host["device_count"], host["state"]) == ("gpu-a", 1, "unreachable")
    device = api("GET", "devices/").json()["results"][0]
    assert (device["uuid"], device["index"], device["host"], device["memory_total_mib"]) == ("GPU-gpu-a-0", 0, "gpu-a", 24576)
    assert device["processes"] == []


# --- signing in ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def eve() -> User:
    cache.clear()
    return User.objects.create_user(username="eve", password="right-0815")


def login(username: Any, password: Any, **more: Any) -> Any:
    return Rest()("POST", "auth/login/", {"username": username, "password": password} | more)


def test_login_gives_a_token_that_works_until_it_is_signed_out(eve: User) -> None:
    answer = login("eve", "right-0815")
    assert answer.status_code == 200
    assert set(answer.json()) == {"token", "expires_at"}
    api = Rest(token=answer.json()["token"])
    assert api("GET", "jobs/").status_code == 200
    assert api("POST", "auth/logout/").status_code == 204
    assert api("GET", "jobs/").status_code == 401


def test_login_is_401_when_the_password_is_wrong(eve: User) -> None:
    for username, password in (("eve", "wrong"), ("nobody", "right-0815")):
        answer = login(username, password)
        assert answer.status_code == 401
        assert errors(answer)[None] == "The user name or the password is wrong."


@pytest.mark.parametrize("body", [{}, {"username": "eve"}, {"username": 5, "password": "x"}, {"username": "a\0", "password": "x"}])
def test_login_is_400_when_something_is_missing(eve: User, body: dict[str, Any]) -> None:
    assert Rest()("POST", "auth/login/", body).status_code == 400


def test_login_is_throttled_by_address_and_user(eve: User) -> None:
    person("ann")
    codes = [login("eve", "wrong").status_code for _ in range(6)]
    assert codes == [401] * 5 + [429]
    refused = login("Eve", "right-0815")
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert login("ann", "wrong").status_code == 401
    assert AuthToken.objects.count() == 0


def test_calls_with_a_token_are_not_throttled(eve: User) -> None:
    api = Rest(eve)
    assert {api("GET", "auth/me/").status_code for _ in range(150)} == {200}


def test_a_token_is_refused_when_it_has_expired(eve: User) -> None:
    _, secret = AuthToken.objects.create(eve, expiry=timedelta(seconds=-1))
    assert Rest(token=secret)("GET", "jobs/").status_code == 401


# --- odd addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["nothing/", "jobs/abc/", "jobs/-1/", f"jobs/{10**30}/", f"jobs/{10**30}/log/stream/", "jobs/1/explode/"])
def test_an_odd_address_is_a_404_in_json(path: str) -> None:
    answer = Rest(person("bob"))("GET", path)
    assert answer.status_code == 404
    assert errors(answer)


def test_a_method_that_is_not_there_is_a_405_in_json(anns: Job) -> None:
    for method, path in (("DELETE", f"jobs/{anns.pk}/"), ("PUT", f"jobs/{anns.pk}/"), ("POST", f"jobs/{anns.pk}/log/stream/")):
        answer = Rest(anns.owner)(method, path, {})
        assert (answer.status_code, bool(errors(answer))) == (405, True)


def test_schema_and_docs_are_open_and_need_no_other_server() -> None:
    document = json.loads(Client().get("/api/v1/schema/", headers={"accept": "application/json"}).content)
    assert document["openapi"].startswith("3.1")
    page = Client().get("/api/v1/docs/").content.decode()
    assert not re.findall(r"(?:src|href)=[\"'](?:https?:)?//", page)
