"""Whatever is sent, through whichever field: a clear answer, no 500, nothing run or led elsewhere, nothing told to others.

The addresses are taken from the URL configuration itself, so that a new page or call is tried without being named here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from django.core.cache import cache
from django.test import Client
from django.urls import URLPattern, get_resolver
from django.utils import timezone

from jobs import logs
from jobs.models import Job, User
from jobs.states import JobState, Role
from jobs.submission import FIELDS
from jobs.web import forms
from tests.integration.rest import Rest, errors, known_host, make_attempt, make_job, person, put_into

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("database")]

SECRET = "a-secret-3b1c"
MARK = "<script>alert(1)</script>"
TEXTS = {
    "nul": "a\0b",
    "emoji": "🦆" * 50,
    "right to left": "\u202eexe.gnp\u2066",
    "html": f'"><img src=x onerror=alert(1)>{MARK}',
    "script address": "javascript:alert(1)//",
    "huge": "x" * 100_000,
    "huge number": "9" * 400,
    "negative": "-1",
    "odd digits": "²٣",
    "path": "../../../../etc/passwd",
    "format": "%s%n{0}{{7*7}}${7*7}",
    "blank": " \t\r\n ",
    "controls": "\x1b[31m\x07\x7f\u0085\u2028",
}
FEW = ("nul", "html", "huge number", "odd digits", "right to left")
SURROGATE = b"a%ED%A0%80b"
"""As a browser would never send it."""
WRONG_TYPES: list[Any] = [None, True, 0, -1, 1e308, 2**63, [], [[]], {}, {"a": {"b": []}}, [None], ["\0"], *TEXTS.values()]


@pytest.fixture(autouse=True)
def quick_passwords(settings: Any) -> None:
    """Slow ones are not what is tried here."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def anns(ann: User) -> Job:
    """A job of ann that failed, with her secret in all that is hers alone."""
    known_host("gpu-a", 24)
    hidden = {"command": f"echo {SECRET}", "working_dir": f"/{SECRET}", "env": {"A": SECRET}, "notify": [f"{SECRET}@example.org"]}
    job = make_job(ann, **hidden, swaps=[{"target": f"{SECRET}.py", "content": SECRET}], artifacts=[f"{SECRET}*"])
    make_attempt(job, message=f"/{SECRET}", outcome="failed", exit_code=1, ended_at=timezone.now(), log_bytes=len(SECRET))
    put_into(job, JobState.FAILED, ended_at=timezone.now())
    logs.append(job.pk, 1, 0, SECRET.encode())
    return job


def browser(user: User | None) -> Any:
    client: Any = Client()
    if user:
        client.force_login(user)
    return client


# --- every address, as every role ---------------------------------------------------------------------------------------


def addresses(job: Job) -> list[str]:
    """Every address of ours with what it can name filled in: this job, its owner, its host."""
    known = {"id": job.pk, "number": job.pk, "name": "gpu-a", "uuid": "GPU-gpu-a-0", "token": "t", "object_id": job.pk, "uidb64": "MQ"}
    return [re.sub(r"<(?:\w+:)?(\w+)>", lambda found: str(known.get(found[1], "x")), path) for path in sorted(set(_paths()))]


def _paths(patterns: Any = None, before: str = "/") -> Iterator[str]:
    for each in get_resolver().url_patterns if patterns is None else patterns:
        text = str(each.pattern)
        if isinstance(each, URLPattern):
            if not text.startswith("^") and "(?P" not in text:
                yield before + text
        else:
            yield from _paths(each.url_patterns, before + text)


NAMES_ITS_JOB = re.compile(r"/(?:jobs|job)/\d+/")
OWN_ANSWERS = {200, 201, 204, 286, 302, 400, 401, 403, 404, 405, 409, 410, 415}


def test_the_addresses_are_all_of_them(anns: Job) -> None:
    found = addresses(anns)
    assert len(found) > 90
    for path in ("/", "/jobs/", f"/jobs/{anns.pk}/log/find/", f"/api/v1/jobs/{anns.pk}/log/", "/admin/jobs/host/", "/metrics"):
        assert path in found


@pytest.mark.parametrize("role", [None, Role.VIEWER, Role.SUBMITTER])
def test_no_address_tells_anybody_what_is_anns_alone_or_touches_it(anns: Job, role: Role | None) -> None:
    someone, wrong = person("zoe", role) if role else None, []
    before, client = Job.objects.values().get(), browser(someone)
    for path in addresses(anns):
        for method in ("get", "post", "patch", "delete"):
            if someone and path == "/signout/":
                continue
            answer = getattr(client, method)(path, **({} if method == "get" else {"data": "{}", "content_type": "application/json"}))
            body = b"".join(answer.streaming_content) if answer.streaming and not answer.is_async else getattr(answer, "content", b"")
            if answer.status_code not in OWN_ANSWERS | {200 if path in ("/healthz", "/metrics") else 503} or SECRET.encode() in body:
                wrong.append(f"{method} {path}: {answer.status_code}")
    assert not wrong
    assert Job.objects.values().get(pk=anns.pk) == before


@pytest.mark.parametrize("role", list(Role))
def test_no_address_fails_for_whoever_may_see_all_of_it(anns: Job, role: Role) -> None:
    """The owner in each of these roles, and so an operator and an administrator too."""
    User.objects.filter(pk=anns.owner_id).update(role=role, is_staff=role in (Role.OPERATOR, Role.ADMIN))
    client, wrong = browser(User.objects.get(pk=anns.owner_id)), []
    for path in addresses(anns):
        if path != "/signout/":
            answer = client.get(path)
            if answer.status_code not in OWN_ANSWERS | {503}:
                wrong.append(f"{path}: {answer.status_code}")
    assert not wrong


# --- query parameters ---------------------------------------------------------------------------------------------------

PARAMETERS = (
    *("state", "whose", "search", "page", "from", "attempt", "offset", "line", "limit", "format", "ordering", "owner", "q", "name", "size"),
    *("next", "working_dir", "o", "p", "e", "all", "_popup", "_to_field", "_changelist_filters", "state__exact", "owner__id__exact"),
    *("at__year", "at__month", "actor__id__exact", "month", "user", "group", "csv", "back", "begin", "end"),
)


@pytest.mark.parametrize("kind", [*FEW, "script address", "surrogate"])
def test_no_page_or_call_fails_whatever_its_query_says(anns: Job, kind: str) -> None:
    """All parameters at once, on every address: so that a new one is tried too."""
    value = SURROGATE.decode() if kind == "surrogate" else quote(TEXTS[kind])
    query = "&".join(f"{name}={value}" for name in PARAMETERS)
    client = browser(person("olga", Role.ADMIN))
    assert not [wrong for path in addresses(anns) if path != "/signout/" for wrong in _wrong_with(client, f"{path}?{query}")]


READ = {
    "/jobs/": ("state", "whose", "search", "page"),
    "/jobs/live/": ("page",),
    "/jobs/new/": ("from", "command", "min_gpus", "swaps"),
    "/jobs/{job}/": ("attempt",),
    "/jobs/{job}/live/": ("attempt",),
    "/jobs/{job}/log/find/": ("attempt=1&from=0&q", "q=a&attempt", "attempt=1&q=a&from"),
    "/jobs/{job}/log/lines/": ("attempt=1&offset", "attempt=1&line", "line=1&attempt"),
    "/signin/": ("next",),
    "/api/v1/jobs/": ("state", "owner", "search", "ordering", "limit", "offset"),
    "/api/v1/jobs/{job}/events/": ("limit", "offset"),
    "/api/v1/jobs/{job}/log/": ("attempt", "offset", "limit", "format"),
    "/api/v1/jobs/{job}/curves/": ("attempt",),
    "/api/v1/jobs/{job}/samples/": ("attempt",),
    "/api/v1/jobs/{job}/artifacts/": ("attempt",),
    "/api/v1/jobs/{job}/artifacts/file/": ("name", "name=a&size", "name=a&attempt"),
    "/admin/jobs/job/": ("q", "o", "p", "state__exact", "owner__id__exact", "nonsense"),
    "/admin/jobs/job/usage/": ("from", "to", "by", "format"),
    "/admin/jobs/personaltoken/": ("q", "owner__id__exact"),
    "/admin/auth/group/": ("q",),
    "/admin/jobs/auditentry/": ("q", "at__year", "actor__id__exact", "act__exact"),
}


@pytest.mark.parametrize("path", READ)
def test_each_parameter_may_hold_anything(anns: Job, path: str) -> None:
    """Alone, since another one in error would hide how it is read."""
    values = [SURROGATE.decode(), *(quote(text[:3000]) for text in TEXTS.values())]
    client, there = browser(person("olga", Role.ADMIN)), path.format(job=anns.pk)
    assert not [wrong for name in READ[path] for value in values for wrong in _wrong_with(client, f"{there}?{name}={value}")]


def _wrong_with(client: Any, url: str) -> list[str]:
    answer = client.get(url)
    failed = [] if answer.status_code in OWN_ANSWERS | {503} else [str(answer.status_code)]
    return [f"{url[:100]}: {what}" for what in [*failed, *_dangers(answer)]]


def _dangers(answer: Any) -> list[str]:
    """What must be on no page and in no header, whatever was sent."""
    found = []
    to = answer.headers.get("Location", "")
    if re.match(r"(?:[a-z]+:)?//(?!testserver|localhost)|javascript:", to):
        found.append(f"leads to {to}")
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        body = answer.content.decode()
        found += ["runs a script"] if MARK in body or "<img src=x" in body else []
        found += ["has a script address"] if re.search(r"""(?:href|src|action)=["']?\s*javascript:alert""", body) else []
    return found


# --- form fields --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [field.name for field in forms.ALL] + ["swap-0-target", "swap-0-content", "swaps"])
def test_submit_page_answers_whatever_a_field_holds(ann: User, field: str) -> None:
    client, usual = browser(ann), {"command": "true", "min_gpus": "0", "max_gpus": "0"}
    for kind, text in TEXTS.items():
        answer = client.post("/jobs/new/", usual | {field: text})
        assert answer.status_code in (200, 302, 400), kind
        assert not _dangers(answer), kind
    raw = b"command=true&min_gpus=0&max_gpus=0&" + field.encode() + b"=" + SURROGATE
    assert client.post("/jobs/new/", raw, content_type="application/x-www-form-urlencoded").status_code in (200, 302, 400)
    for job in Job.objects.all():
        assert not _dangers(client.get(f"/jobs/{job.pk}/"))
    assert not _dangers(client.get("/jobs/"))
    assert not _dangers(client.get("/"))


@pytest.mark.parametrize("kind", TEXTS)
def test_check_of_what_is_typed_answers_whatever_it_is(ann: User, kind: str) -> None:
    for fields in ({field.name: TEXTS[kind] for field in forms.ALL}, {"command": TEXTS[kind], "working_dir": "/data"}):
        answer = browser(ann).post("/jobs/new/check/", fields)
        assert answer.status_code == 200
        assert not _dangers(answer)


POSTS: list[tuple[str, tuple[str, ...]]] = [
    ("/jobs/act/", ("action", "job", "back")),
    ("/account/tokens/", ("name", "scope", "days", "take_back")),
    ("/account/password/", ("old_password", "new_password1")),
    ("/language/", ("language", "next")),
    ("/signin/", ("username", "password", "next")),
    ("/admin/jobs/job/", ("action", "_selected_action", "select_across", "index")),
    ("/admin/jobs/host/", ("action", "_selected_action", "reason")),
    ("/admin/jobs/device/", ("action", "_selected_action", "reason")),
    ("/admin/jobs/user/", ("action", "_selected_action")),
    ("/admin/jobs/job/{job}/cancel/", ("_form_submitted", "next")),
    ("/admin/jobs/host/{host}/drain/", ("reason",)),
    ("/admin/jobs/host/{host}/rule/", ("reason", "memory_mib", "idle_min")),
    ("/admin/jobs/host/{host}/ignore/", ("reason", "pid")),
    ("/admin/jobs/device/{device}/keep/", ("user", "until", "reason")),
    ("/admin/jobs/user/add/", ("username", "role", "email", "password1", "password2")),
    ("/admin/jobs/user/{ann}/change/", ("username", "role", "email", "first_name", "last_name", "is_active")),
    ("/admin/jobs/user/{ann}/password/", ("password1", "password2")),
    ("/admin/jobs/user/{ann}/change/", ("groups",)),
    ("/admin/jobs/user/{ann}/mail-password-link/", ("_form_submitted",)),
    ("/admin/auth/group/add/", ("name", "members")),
    ("/admin/jobs/personaltoken/", ("action", "_selected_action")),
    ("/admin/jobs/job/add/", ("command", "name", "swaps", "begin_at", "after", "hosts", "env", "time_limit_s", "notify", "artifacts")),
]
USUAL = {
    "action": "cancel_chosen",
    "back": "?state=failed",
    "name": "n",
    "scope": "read",
    "days": "3",
    "_form_submitted": "True",
    "command": "true",
    "min_gpus": "0",
    "max_gpus": "0",
    "username": "new",
    "role": "submitter",
    "password1": "right-0815",
    "password2": "right-0815",
    "until": "2100-01-01T00:00",
    "user": "ann",
    "pid": "1",
}


@pytest.mark.parametrize(("path", "fields"), POSTS, ids=[f"{path} {fields[0]}" for path, fields in POSTS])
def test_no_form_fails_whatever_a_field_holds(anns: Job, path: str, fields: tuple[str, ...]) -> None:
    host = known_host("gpu-b", 24)
    there = {"job": anns.pk, "host": host.pk, "device": host.devices.get().pk, "ann": anns.owner_id}
    client = browser(person("olga", Role.ADMIN))
    kinds = FEW if path.startswith("/admin/") else TEXTS
    for field in fields:
        for kind in kinds:
            cache.clear()
            answer = client.post(path.format(**there), USUAL | {field: TEXTS[kind]})
            assert answer.status_code < 500, (field, kind)
            assert not _dangers(answer), (field, kind)
        usual = "&".join(f"{name}={quote(value)}" for name, value in USUAL.items() if name != field)
        raw = f"{usual}&{field}=".encode() + SURROGATE
        assert client.post(path.format(**there), raw, content_type="application/x-www-form-urlencoded").status_code < 500, field


# --- REST ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [*FIELDS, "nonsense", "state", "owner", "id"])
def test_submit_and_edit_name_the_field_whatever_it_holds(ann: User, field: str) -> None:
    api, job = Rest(ann), make_job(ann)
    for value in WRONG_TYPES:
        for method, path in (("POST", "jobs/"), ("PATCH", f"jobs/{job.pk}/"))[: 2 if type(value) in (str, list) else 1]:
            answer = api(method, path, {"command": "true", "min_gpus": 0, field: value})
            if answer.status_code not in (200, 201):
                assert answer.status_code == 400, (method, value)
                assert {field} <= errors(answer).keys() or field in ("max_gpus", "shared", "gpu_memory_mib"), (method, value, answer.json())
    job.refresh_from_db()
    assert (job.state, job.owner) == (JobState.QUEUED, ann)
    assert api("GET", "jobs/?limit=100").status_code == 200


OPERATED = [
    ("hosts/gpu-a/drain/", ("reason",)),
    ("hosts/gpu-a/rule/", ("memory_mib", "idle_min", "reason")),
    ("hosts/gpu-a/ignore/", ("pid", "reason")),
    ("devices/GPU-gpu-a-0/keep/", ("user", "until", "reason")),
    ("auth/tokens/", ("name", "scope", "days")),
    ("auth/login/", ("username", "password")),
]


@pytest.mark.parametrize(("path", "fields"), OPERATED)
def test_other_calls_name_the_field_whatever_it_holds(anns: Job, path: str, fields: tuple[str, ...]) -> None:
    api = Rest(person("olga", Role.OPERATOR))
    usual = {"user": "ann", "until": "2100-01-01T00:00Z", "name": "n", "username": "ann", "password": "x", "pid": 1}
    usual = {name: value for name, value in usual.items() if name in fields}
    for field in fields:
        for value in WRONG_TYPES:
            cache.clear()
            answer = api("POST", path, usual | {field: value})
            assert answer.status_code in (200, 201, 400, 401, 409), (field, value)
            if answer.status_code == 400:
                assert field in errors(answer), (field, value)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b'"a"',
        b"\xff\xfe",
        b'{"command": "\\ud800"}',
        b'{"\\u0000": 1}',
        b"[" * 100_000,
        b'{"command":' + b"[" * 50_000,
    ],
    ids=range(10),
)
def test_body_that_is_none_is_a_400(ann: User, raw: bytes) -> None:
    answer = Rest(ann)("POST", "jobs/", raw=raw)
    assert answer.status_code == 400
    assert errors(answer)


def test_lone_surrogate_is_refused_with_its_field(ann: User) -> None:
    for field in ("command", "name", "working_dir", "environment"):
        answer = Rest(ann)("POST", "jobs/", raw=json.dumps({"command": "true", field: "a\ud800"}).encode())
        assert "lone surrogate" in errors(answer)[field]


def test_nul_is_refused_before_a_database_that_takes_none_sees_it(anns: Job) -> None:
    """PostgreSQL fails on it where SQLite does not."""
    client = browser(person("olga", Role.ADMIN))
    page = client.post("/account/tokens/", {"name": "a\0b", "scope": "all", "days": "3"})
    assert (page.status_code, "NUL characters" in page.content.decode()) == (400, True)
    api = Rest(person("otto", Role.OPERATOR))
    for path in ("hosts/a%00b/drain/", "hosts/a%00b/rule/", "hosts/a%00b/heed/", "devices/a%00b/drain/", "devices/a%00b/keep/"):
        assert api("POST", path, {"pid": 1} if "heed" in path else {}).status_code == 404
    for query in ("state__exact=%00", "q=%00", "a%00=1"):
        assert client.get(f"/admin/jobs/job/?{query}").url.endswith("?e=1")


# --- whose door it is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "a b", "[::1", "testserver:99999999"]
)
def test_host_header_that_is_not_ours_is_refused(host: str, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
    client = Client(raise_request_exception=False)
    for path in ("/", "/signin/", "/api/v1/jobs/", "/admin/", "/api/v1/docs/"):
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 400, path
        assert "evil" not in answer.content.decode()
    assert errors(client.get("/api/v1/jobs/", headers={"host": host}))


def test_forwarded_host_moves_no_link(ann: User) -> None:
    answer = Rest(ann)("POST", "jobs/", {"command": "true", "min_gpus": 0}, X_Forwarded_Host="evil.example", Forwarded="host=evil.example")
    assert "evil" not in answer.headers["Location"] + answer.content.decode()


@pytest.mark.parametrize("path", ["/jobs/new/", "/jobs/act/", "/account/tokens/", "/signout/", "/language/", "/jobs/{job}/cancel/"])
def test_post_of_another_site_is_refused(anns: Job, path: str) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(anns.owner)
    for head in ({}, {"origin": "https://evil.example"}, {"origin": "null"}):
        answer = client.post(path.format(job=anns.pk), {"command": "true", "action": "cancel", "job": anns.pk}, headers=head)
        assert answer.status_code == 403
    assert Job.objects.count() == 1
    assert client.get("/jobs/").status_code == 200


def test_calls_of_another_site_are_refused_and_told_nothing(anns: Job) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(anns.owner)
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
        answer = client.post(f"/api/v1/jobs/{anns.pk}/resubmit/", "{}", content_type=kind, headers={"origin": "https://evil.example"})
        assert answer.status_code == 403, kind
    answer = client.get(f"/api/v1/jobs/{anns.pk}/", headers={"origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
    assert client.options("/api/v1/jobs/", headers={"origin": "https://evil.example"}).status_code == 405
    assert Job.objects.count() == 1


# --- paths --------------------------------------------------------------------------------------------------------------

TRICKS = (
    *("../../etc/passwd", "/etc/passwd", "..%2f..%2fetc%2fpasswd", "....//....//etc/passwd", "..\\..\\etc\\passwd", ".", "..", "a/../../b"),
    *("a\0.png", "file:///etc/passwd", "~/.ssh/id_rsa", "\u2025/etc/passwd", "C:\\x", "1.log", "artifacts/../1.log", "x" * 5000),
)


@pytest.mark.parametrize("name", TRICKS, ids=range(len(TRICKS)))
def test_no_trick_with_a_path_reads_another_file(anns: Job, name: str) -> None:
    api = Rest(anns.owner)
    for size in ("", "&size=thumb"):
        answer = api("GET", f"jobs/{anns.pk}/artifacts/file/?name={quote(name)}{size}")
        assert answer.status_code in (400, 404)
        assert errors(answer)
        assert b"root:" not in answer.content + str(answer.headers).encode()
    for path in (
        f"jobs/{quote(name, safe='')}/log/",
        f"jobs/{anns.pk}/log/?attempt={quote(name)}",
        f"jobs/{anns.pk}/swaps/{quote(name, safe='')}/",
    ):
        assert api("GET", path).status_code in (400, 404, *([200] if name in (".",) else []))


def test_static_files_are_no_way_out(client: Any) -> None:
    for path in ("/static/../manage.py", "/static/..%2fmanage.py", "/static/jobs/../../../manage.py", "/static/%2e%2e/%2e%2e/etc/passwd"):
        assert client.get(path).status_code == 404
