"""The pages as people use them: signing in, looking, submitting, pressing buttons, and what others must not see."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.test import Client, RequestFactory
from django.utils import timezone

from jobs import logs
from jobs.api.errors import server_error
from jobs.models import Job, OneTimeLink, User
from jobs.states import TERMINAL, JobState, Role
from jobs.web import onetime
from jobs.web.views.joblist import PER_PAGE
from tests.integration.fakehost import FakeHost
from tests.integration.rest import known_host, make_attempt, make_job, person, put_into

pytestmark = pytest.mark.django_db

SECRET = "a-secret-3b1c"
PASSWORD = "of the engine"
HOSTILE = [
    "\0",
    "9" * 30,
    "9223372036854775808",
    "-1",
    "0",
    "²",
    "🦆",
    "'; --",
    "<script>",
    "%",
    "\u202e",
    "x" * 5000,
    "\ud83d".encode("utf-8", "replace").decode(),
]


@pytest.fixture
def anns(ann: User) -> Client:
    return browser(ann)


def browser(user: User | None = None) -> Client:
    client = Client()
    if user:
        client.force_login(user)
    return client


def shown(answer: Any) -> str:
    """The text of a page, without its tags."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", answer.content.decode())).split())


def said(answer: Any) -> list[str]:
    return [str(message) for message in answer.context["messages"]]


def beside(answer: Any, field: str) -> str:
    """The error beside a field of the submit form."""
    found = re.search(rf'<p class="error" id="error_{field}">(.*?)</p>', answer.content.decode(), re.DOTALL)
    return unescape(found[1]) if found else ""


def value(answer: Any, field: str) -> str:
    """What stands in a field of the submit form."""
    page = answer.content.decode()
    if area := re.search(rf'<textarea[^>]* id="id_{field}"[^>]*>\n(.*?)</textarea>', page, re.DOTALL):
        return unescape(area[1])
    box = re.search(rf'<input[^>]*id="id_{field}"[^>]*>', page)
    assert box, f"no field {field}"
    if 'type="checkbox"' in box[0]:
        return "on" if " checked" in box[0] else ""
    found = re.search(r'value="([^"]*)"', box[0])
    return unescape(found[1]) if found else ""


# --- signing in ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", password=PASSWORD)


def try_to_sign_in(client: Client, password: str, username: str = "ada", **more: str) -> Any:
    return client.post("/signin/", {"username": username, "password": password} | more)


@pytest.mark.parametrize("page", ["/", "/jobs/", "/jobs/1/", "/jobs/new/", "/jobs/1/log/lines/"])
def test_page_leads_to_signing_in_and_back_when_nobody_is_signed_in(page: str) -> None:
    answer: Any = Client().get(page)
    assert (answer.status_code, answer.url) == (302, f"/signin/?next={page}")
    assert "no-store" in answer.headers["Cache-Control"]


@pytest.mark.parametrize("part", ["/live/", "/jobs/live/", "/jobs/1/live/"])
def test_part_of_a_page_has_the_page_loaded_anew_when_nobody_is_signed_in(part: str) -> None:
    answer = Client().get(part)
    assert (answer.status_code, answer.content, answer.headers["HX-Refresh"]) == (200, b"", "true")


@pytest.mark.parametrize(
    ("wanted", "reached"), [("/jobs/new/", "/jobs/new/"), ("", "/"), ("https://evil.example/", "/"), ("//evil.example", "/")]
)
def test_sign_in_leads_on_to_a_page_of_ours(ada: User, wanted: str, reached: str) -> None:
    client = Client()
    assert f'name="next" value="{wanted if wanted == reached else ""}"' in client.get("/signin/", {"next": wanted}).content.decode()
    assert try_to_sign_in(client, PASSWORD, next=wanted).url == reached
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("username", ["ada", "nobody", "a\0b", "🦆" * 100, "x" * 400, ""])
def test_sign_in_is_refused_with_a_reason_and_keeps_the_name(ada: User, username: str) -> None:
    answer = try_to_sign_in(Client(), "wrong", username)
    assert answer.status_code == 200
    assert answer.context["form"].errors
    assert "wrong" not in answer.content.decode()


def test_sign_in_is_refused_when_the_account_is_closed(ada: User) -> None:
    User.objects.update(is_active=False)
    client = Client()
    assert try_to_sign_in(client, PASSWORD).status_code == 200
    assert client.get("/").status_code == 302


def test_sign_in_waits_after_five_tries_even_with_the_right_password(ada: User) -> None:
    User.objects.create_user("bob", password=PASSWORD)
    client = Client()
    for _ in range(5):
        assert "Too many tries" not in shown(try_to_sign_in(client, "wrong"))
    for username in ("ada", "ADA"):
        assert "Too many tries. Wait" in shown(try_to_sign_in(client, PASSWORD, username))
    assert client.get("/").status_code == 302
    assert try_to_sign_in(client, PASSWORD, "bob").url == "/"


def test_sign_out_needs_a_press_and_ends_the_session(ann: User, anns: Client) -> None:
    assert anns.get("/signout/").status_code == 405
    assert anns.get("/").status_code == 200
    assert anns.post("/signout/").headers["Location"] == "/signin/"
    assert anns.get("/").status_code == 302


def link_for(user: User) -> str:
    return onetime.make_link(user).removeprefix(django_settings.AUTOTRAINER.url)


def test_link_signs_in_once(ann: User) -> None:
    link = link_for(ann)
    first, second = Client(), Client()
    answer: Any = first.get(link)
    assert (answer.status_code, answer.url, answer.headers["Referrer-Policy"]) == (302, "/", "no-referrer")
    assert "ann" in shown(first.get("/"))
    again = second.get(link)
    assert again.status_code == 410
    assert "This link has been used or is too old." in shown(again)
    assert second.get("/").status_code == 302
    assert first.get("/").status_code == 200


def test_link_signs_nobody_in_when_it_is_too_old_invented_or_of_a_closed_account(ann: User) -> None:
    old, closed = link_for(ann), link_for(person("bob"))
    OneTimeLink.objects.filter(user=ann).update(expires_at=timezone.now() - timedelta(seconds=1))
    User.objects.filter(username="bob").update(is_active=False)
    for link in (old, closed, "/signin/invented/", "/signin/%00/", "/signin/🦆/"):
        client = Client()
        assert client.get(link).status_code == 410, link
        assert client.get("/").status_code == 302


def test_pages_run_no_script_and_load_nothing_but_their_own(ann: User, anns: Client) -> None:
    for page in ("/", "/jobs/", "/jobs/new/", f"/jobs/{make_job(ann).pk}/"):
        answer = anns.get(page)
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'; object-src 'none'")
        assert not re.search(r"<script(?![^>]* src=)|<style| on[a-z]+=| style=", answer.content.decode()), page


# --- the overview -------------------------------------------------------------------------------------------------------


def rows(answer: Any, kind: str) -> list[int]:
    """The jobs in a table of the overview, in their order."""
    return [int(number) for number in re.findall(rf'<tr id="{kind}-(\d+)"', answer.content.decode())]


def test_overview_asks_for_the_first_job_when_there_never_was_one(anns: Client) -> None:
    page = anns.get("/")
    assert 'id="first"' in page.content.decode()
    assert "No GPU to give out; 0 jobs run, 0 wait." in shown(page)
    viewer = shown(browser(person("vic", Role.VIEWER)).get("/"))
    assert "An administrator can let you submit jobs." in viewer
    assert "New job" not in viewer


def test_overview_has_what_runs_what_waits_and_what_ended_today(anns: Client) -> None:
    bob = person("bob")
    runs, failed, old, held = (make_job(bob, name=name, command=SECRET) for name in ("runs", "failed", "old", "held"))
    later, first = make_job(bob, name="later"), make_job(bob, name="first", priority=5)
    make_attempt(runs, devices=[{"uuid": "GPU-1", "index": 3}], started_at=timezone.now() - timedelta(hours=2), message=SECRET)
    put_into(runs, JobState.RUNNING, progress=0.5)
    make_attempt(failed, outcome="failed", exit_code=7, started_at=timezone.now(), ended_at=timezone.now())
    put_into(failed, JobState.FAILED, exit_code=7, ended_at=timezone.now())
    put_into(old, JobState.COMPLETED, ended_at=timezone.now() - timedelta(days=2))
    put_into(held, JobState.HELD, wait_message="Held by bob until somebody releases it.")
    put_into(later, JobState.QUEUED, wait_message="Needs 4 GPUs.")
    page = anns.get("/")
    assert rows(page, "run") == [runs.pk]
    assert rows(page, "wait") == [first.pk, later.pk, held.pk]
    assert rows(page, "end") == [failed.pk]
    for text in (
        "gpu-a, GPU 3",
        "2 h 0 m",
        "50 %",
        "Needs 4 GPUs.",
        "Held by bob until",
        "exit code 7",
        "The scheduler has not looked at it",
    ):
        assert text in shown(page)
    assert SECRET not in page.content.decode()
    assert rows(anns.get("/live/"), "wait") == [first.pk, later.pk, held.pk]


def test_overview_shows_the_cards_and_who_is_on_them(anns: Client, broker: str, ann: User) -> None:
    known_host("gpu-a", 24, 24)
    fake = FakeHost(broker, "gpu-a")
    fake.beat()
    fake.close()
    mine = make_job(ann, name="mine")
    make_attempt(mine, devices=[{"uuid": "GPU-gpu-a-1", "index": 1}], started_at=timezone.now() - timedelta(hours=2))
    put_into(mine, JobState.RUNNING)
    page = shown(anns.get("/"))
    for text in ("1 of 2 GPUs are free; 1 job runs, 0 wait.", "GPU 0 Free", "GPU 1 In use", f"#{mine.pk} mine yours · 2 h 0 m"):
        assert text in page


def test_overview_says_when_a_host_is_silent(anns: Client) -> None:
    known_host("gpu-a", 24, last_seen_at=timezone.now() - timedelta(hours=1))
    page = shown(anns.get("/"))
    assert "Unreachable" in page
    assert "last heard" in page


def test_overview_is_as_quick_with_many_jobs_as_with_few(anns: Client, ann: User, django_assert_max_num_queries: Any) -> None:
    for _ in range(70):
        make_job(ann)
    with django_assert_max_num_queries(20):
        page = anns.get("/")
    assert len(rows(page, "wait")) == 50
    assert "20 more wait" in shown(page)


def test_overview_escapes_what_people_write(anns: Client, ann: User) -> None:
    put_into(make_job(ann, name="<b>x</b>"), JobState.QUEUED, wait_message="<i>y</i>")
    for page in ("/", "/jobs/"):
        text = anns.get(page).content.decode()
        assert "&lt;b&gt;x" in text
        assert "&lt;i&gt;y" in text


# --- the list of jobs ---------------------------------------------------------------------------------------------------


def listed(client: Client, **query: Any) -> list[int]:
    answer = client.get("/jobs/", query)
    assert answer.status_code == 200
    return [int(number) for number in re.findall(r'<tr id="job-(\d+)"', answer.content.decode())]


def test_list_is_of_ones_own_jobs_first_and_of_everyones_for_who_has_none(anns: Client, ann: User) -> None:
    mine, others = make_job(ann), make_job(person("bob"))
    assert listed(anns) == [mine.pk]
    assert listed(anns, whose="all") == [others.pk, mine.pk]
    for role in (Role.OPERATOR, Role.VIEWER):
        client = browser(person(role, role))
        assert listed(client) == [others.pk, mine.pk]
        assert listed(client, whose="mine") == []


def test_list_is_filtered_by_state_and_words(anns: Client, ann: User) -> None:
    jobs = {state: make_job(ann, name=f"is {state}") for state in JobState}
    for state, job in jobs.items():
        put_into(job, state)
    assert listed(anns, state="waiting") == [jobs[JobState.HELD].pk, jobs[JobState.QUEUED].pk]
    assert listed(anns, state="ended") == sorted((jobs[state].pk for state in TERMINAL), reverse=True)
    assert listed(anns, state="stopping") == [jobs[JobState.STOPPING].pk]
    assert listed(anns, search="IS RUN") == [jobs[JobState.RUNNING].pk]
    assert listed(anns, search=f"#{jobs[JobState.HELD].pk}") == [jobs[JobState.HELD].pk]
    assert listed(anns, search="ann", state="failed") == [jobs[JobState.FAILED].pk]
    assert listed(anns, search="nothing like it") == []
    assert "No job is like that." in shown(anns.get("/jobs/?search=nothing"))


def test_list_does_not_search_in_commands_that_are_hidden(anns: Client) -> None:
    make_job(person("bob"), command=SECRET)
    assert listed(anns, whose="all", search=SECRET) == []


def test_list_comes_in_pages_that_keep_the_filter(anns: Client, ann: User) -> None:
    ids = [make_job(ann, name=f"n{n}").pk for n in range(PER_PAGE + 2)][::-1]
    assert listed(anns, search="n") == ids[:PER_PAGE]
    assert listed(anns, search="n", page=2) == ids[PER_PAGE:]
    assert listed(anns, page=999) == ids[PER_PAGE:]
    page = unescape(anns.get("/jobs/", {"search": "n", "state": "waiting"}).content.decode())
    assert "?state=waiting&whose=mine&search=n&page=2" in page
    assert "1 of 2" in page


@pytest.mark.parametrize("name", ["state", "whose", "search", "page"])
def test_list_is_shown_when_its_address_is_hostile(anns: Client, ann: User, name: str) -> None:
    make_job(ann)
    for words in HOSTILE:
        for page in ("/jobs/", "/jobs/live/"):
            answer = anns.get(page, {name: words})
            assert answer.status_code == 200, words
            assert not re.search("<script>|\0", answer.content.decode())  # PostgreSQL takes no NUL, not even to look for it


# --- a job's page -------------------------------------------------------------------------------------------------------


@pytest.fixture
def running(ann: User) -> Job:
    """A running job of ann with a secret in all that is hers alone, and a log."""
    job = make_job(
        ann, name="resnet", command=f"echo {SECRET}\necho <b>", working_dir=f"/{SECRET}", env={"A": SECRET}, environment=f"/{SECRET}"
    )
    make_attempt(job, 1, outcome="failed", exit_code=1, message=SECRET, started_at=timezone.now(), ended_at=timezone.now())
    make_attempt(job, 2, devices=[{"uuid": "GPU-1", "index": 0}], started_at=timezone.now())
    put_into(job, JobState.RUNNING)
    logs.append(job.pk, 1, 0, b"first\n")
    logs.append(job.pk, 2, 0, b"one\ntwo\nthree\n")
    return job


@pytest.mark.parametrize("who", ["ann", "operator"])
def test_job_page_shows_everything_to_its_owner_and_to_operators(running: Job, who: str) -> None:
    client = browser(running.owner if who == "ann" else person("olga", Role.OPERATOR))
    for path in (f"/jobs/{running.pk}/", f"/jobs/{running.pk}/live/"):
        page = client.get(path)
        for text in ("Running on gpu-a, GPU 0", f"echo {SECRET}", f"A={SECRET}", "Submitted by ann.", "14 B"):
            assert text in shown(page), text
        assert "echo &lt;b&gt;" in page.content.decode()
        assert 'data-attempt="2"' in page.content.decode()
    assert client.get(f"/jobs/{running.pk}/log/lines/?attempt=2&offset=8").json() == {"line": 3}
    assert client.get(f"/jobs/{running.pk}/log/lines/?attempt=2&line=3").json() == {"offset": 8}


@pytest.mark.parametrize("role", [Role.SUBMITTER, Role.VIEWER])
@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.FAILED, JobState.HELD])
def test_job_page_hides_command_and_log_from_others(running: Job, role: Role, state: JobState) -> None:
    put_into(running, state, wait_message=SECRET if state == JobState.HELD else "")
    running.attempts.filter(number=2).update(outcome="failed", message=SECRET)
    client = browser(person("bob", role))
    for path in (f"/jobs/{running.pk}/", f"/jobs/{running.pk}/live/", f"/jobs/{running.pk}/?attempt=1"):
        page = client.get(path)
        assert SECRET not in page.content.decode(), path
        assert "Submitted by" not in shown(page)
    page = client.get(f"/jobs/{running.pk}/")
    assert "is for ann and the operators to see" in shown(page)
    assert "log-state" not in page.content.decode()
    assert '<form method="post" action="/jobs/' not in page.content.decode()
    assert client.get(f"/jobs/{running.pk}/log/lines/?attempt=2&offset=8").status_code == 404


def test_job_page_shows_the_attempt_in_its_address(running: Job) -> None:
    client = browser(running.owner)
    assert 'data-attempt="1"' in client.get(f"/jobs/{running.pk}/?attempt=1").content.decode()
    for words in HOSTILE:
        assert 'data-attempt="2"' in client.get(f"/jobs/{running.pk}/", {"attempt": words}).content.decode()


def test_job_page_is_asked_for_no_more_when_the_job_is_over(running: Job) -> None:
    client = browser(running.owner)
    assert client.get(f"/jobs/{running.pk}/live/").status_code == 200
    put_into(running, JobState.COMPLETED)
    assert client.get(f"/jobs/{running.pk}/live/").status_code == 286


def test_job_page_says_when_its_host_is_silent(running: Job) -> None:
    known_host("gpu-a", 24, last_seen_at=timezone.now() - timedelta(hours=1))
    assert "The training goes on there; its log comes when the host is heard again." in shown(
        browser(running.owner).get(f"/jobs/{running.pk}/")
    )


def test_job_page_links_jobs_that_wait_for_each_other(anns: Client, ann: User) -> None:
    parent = make_job(ann)
    child = make_job(ann, after=[parent])
    assert f'href="/jobs/{parent.pk}/"' in anns.get(f"/jobs/{child.pk}/").content.decode()
    assert f'href="/jobs/{child.pk}/"' in anns.get(f"/jobs/{parent.pk}/").content.decode()


@pytest.mark.parametrize("number", ["0", "77", "9" * 30, "-1", "x", "%00", "🦆"])
def test_job_page_is_not_found_when_there_is_no_such_job(anns: Client, number: str) -> None:
    for path in (f"/jobs/{number}/", f"/jobs/{number}/live/", f"/jobs/{number}/log/lines/"):
        assert anns.get(path).status_code == 404
    assert anns.post(f"/jobs/{number}/cancel/").status_code == 404


@pytest.mark.parametrize(
    "query", ["", "attempt=1", "attempt=1&offset=1&line=1", "attempt=x&line=1", "attempt=1&offset=-1", "attempt=²&line=1"]
)
def test_lines_of_a_log_are_refused_when_the_question_makes_no_sense(running: Job, query: str) -> None:
    assert browser(running.owner).get(f"/jobs/{running.pk}/log/lines/?{query}").status_code == 400


# --- buttons ------------------------------------------------------------------------------------------------------------


def buttons(client: Client, job: Job) -> list[str]:
    return re.findall(rf'action="/jobs/{job.pk}/(\w+)/"', client.get(f"/jobs/{job.pk}/").content.decode())


@pytest.mark.parametrize(
    ("action", "before", "after"),
    [
        ("hold", JobState.QUEUED, JobState.HELD),
        ("release", JobState.HELD, JobState.QUEUED),
        ("cancel", JobState.QUEUED, JobState.CANCELLED),
        ("cancel", JobState.RUNNING, JobState.STOPPING),
    ],
)
def test_button_does_what_it_says_and_leads_back(anns: Client, ann: User, action: str, before: JobState, after: JobState) -> None:
    job = make_job(ann)
    put_into(job, before)
    assert action in buttons(anns, job)
    assert anns.get(f"/jobs/{job.pk}/{action}/").status_code == 405
    assert anns.post(f"/jobs/{job.pk}/{action}/").headers["Location"] == f"/jobs/{job.pk}/"
    job.refresh_from_db()
    assert job.state == after


def test_button_runs_it_again_as_a_new_job(anns: Client, ann: User) -> None:
    old = make_job(ann, command="echo hi")
    put_into(old, JobState.FAILED)
    answer = anns.post(f"/jobs/{old.pk}/resubmit/", follow=True)
    new = Job.objects.latest("id")
    assert answer.redirect_chain == [(f"/jobs/{new.pk}/", 302)]
    assert said(answer) == [f"This is a new job like #{old.pk}."]
    assert (new.command, new.state) == ("echo hi", JobState.QUEUED)


def test_button_says_why_not_when_the_state_does_not_allow_it(anns: Client, ann: User) -> None:
    job = make_job(ann)
    put_into(job, JobState.COMPLETED)
    answer = anns.post(f"/jobs/{job.pk}/cancel/", follow=True)
    assert said(answer) == [f"Job {job.pk} is completed; a job that is over cannot be cancelled."]


def test_buttons_are_those_that_make_sense(anns: Client, ann: User) -> None:
    job = make_job(ann)
    seen = {}
    for state in (JobState.QUEUED, JobState.HELD, JobState.RUNNING, JobState.STOPPING, JobState.FAILED):
        put_into(job, state)
        seen[state] = buttons(anns, job)
    assert seen == {
        JobState.QUEUED: ["cancel", "hold", "resubmit"],
        JobState.HELD: ["cancel", "release", "resubmit"],
        JobState.RUNNING: ["cancel", "resubmit"],
        JobState.STOPPING: ["resubmit"],
        JobState.FAILED: ["resubmit"],
    }


@pytest.mark.parametrize("role", [Role.SUBMITTER, Role.VIEWER])
@pytest.mark.parametrize("action", ["cancel", "hold", "release", "resubmit"])
def test_button_of_somebody_elses_job_is_refused(ann: User, role: Role, action: str) -> None:
    job = make_job(ann, hold=action == "release")
    before = job.state
    assert browser(person("bob", role)).post(f"/jobs/{job.pk}/{action}/").status_code == 403
    job.refresh_from_db()
    assert (job.state, Job.objects.count()) == (before, 1)


def test_button_is_refused_when_another_page_presses_it(ann: User) -> None:
    job, client = make_job(ann), Client(enforce_csrf_checks=True)
    client.force_login(ann)
    assert client.post(f"/jobs/{job.pk}/cancel/").status_code == 403


def test_button_that_is_none_is_not_found(anns: Client, ann: User) -> None:
    assert anns.post(f"/jobs/{make_job(ann).pk}/explode/").status_code == 404


# --- submitting ---------------------------------------------------------------------------------------------------------

FORM = {"name": "new", "command": "python train.py", "working_dir": "/data", "min_gpus": "1", "max_gpus": "1", "retry_on_oom": "on"}


def test_submit_makes_the_job_that_was_typed(anns: Client, ann: User) -> None:
    parent = make_job(ann)
    more = {
        "gpu_memory_mib": "512 MiB",
        "time_limit_s": "1d 6h",
        "after": f"#{parent.pk}",
        "hosts": "gpu-a, gpu-b",
        "env": "A=1\r\nexport B= x",
        "hold": "on",
    }
    zoned = {"begin_at": "2031-05-06T07:08", "zone": "Asia/Tokyo", "command": "echo 1\r\necho 2", "retry_delay_s": "1.5s"}
    answer: Any = anns.post("/jobs/new/", FORM | more | zoned)
    job = Job.objects.latest("id")
    assert answer.url == f"/jobs/{job.pk}/"
    assert (job.owner, job.state, job.name, job.command) == (ann, JobState.HELD, "new", "echo 1\necho 2")
    assert (job.gpu_memory_mib, job.time_limit_s, job.retry_delay_s) == (512, 108_000, 1.5)
    assert (job.hosts, job.env) == (["gpu-a", "gpu-b"], {"A": "1", "B": " x"})
    assert (job.begin_at.isoformat() if job.begin_at else "") == "2031-05-05T22:08:00+00:00"
    assert list(job.after.all()) == [parent]


@pytest.mark.parametrize("zone", ["", "Mars/Phobos", "/etc/passwd", "\0", "x" * 5000])
def test_submit_reads_a_time_in_the_labs_zone_when_the_browsers_is_odd(anns: Client, settings: Any, zone: str) -> None:
    settings.TIME_ZONE = "Asia/Shanghai"
    anns.post("/jobs/new/", FORM | {"begin_at": "2031-05-06T07:08", "zone": zone})
    begin_at = Job.objects.get().begin_at
    assert begin_at
    assert begin_at.isoformat() == "2031-05-05T23:08:00+00:00"


WRONG: list[tuple[dict[str, str], str, str]] = [
    ({"command": ""}, "command", "empty"),
    ({"command": "a\0b"}, "command", "NUL"),
    ({"name": "🦆" * 201}, "name", "200"),
    ({"working_dir": "~/x"}, "working_dir", "whole path"),
    ({"min_gpus": "9" * 30}, "min_gpus", "whole number"),
    ({"min_gpus": "2"}, "max_gpus", "less than “GPUs, at least”"),
    ({"max_retries": "many"}, "max_retries", "whole number"),
    ({"min_gpus": "3", "max_gpus": "3"}, "min_gpus", "the most is 2, on gpu-a"),
    ({"gpu_memory_mib": "9" * 400}, "gpu_memory_mib", "such as 20"),
    ({"time_limit_s": "9" * 400 + "d"}, "time_limit_s", "such as 30m"),
    ({"retry_delay_s": "soon"}, "retry_delay_s", "such as 30m"),
    ({"priority": "1e9"}, "priority", "whole number"),
    ({"begin_at": "2031-02-30T10:00"}, "begin_at", "2027-01-31"),
    ({"after": "#"}, "after", "whole number"),
    ({"after": "777"}, "after", "There is no job 777"),
    ({"hosts": "gpu/a"}, "hosts", "host name"),
    ({"environment": "~env"}, "environment", "whole path"),
    ({"env": "A=1\nno equals"}, "env", "Line 2"),
]


@pytest.mark.parametrize(("fields", "field", "text"), WRONG, ids=[f"{n}-{field}" for n, (_, field, _) in enumerate(WRONG)])
def test_submit_shows_the_error_beside_its_field_and_keeps_what_was_typed(
    anns: Client, fields: dict[str, str], field: str, text: str
) -> None:
    known_host("gpu-a", 24, 24)
    typed = FORM | {"priority": "7"} | fields
    answer = anns.post("/jobs/new/", typed)
    assert answer.status_code == 400
    assert text in beside(answer, field)
    assert "Nothing was submitted: one field needs mending." in shown(answer)
    assert {name: value(answer, name) for name in typed} == typed
    assert not Job.objects.exists()


def test_submit_calls_fields_as_the_form_does_in_chinese_too(ann: User) -> None:
    client: Any = Client(headers={"accept-language": "zh-CN"})
    client.force_login(ann)
    answer = client.post("/jobs/new/", FORM | {"min_gpus": "2"})
    assert "“GPU 至多”" in beside(answer, "max_gpus")
    assert "gpus" not in beside(answer, "max_gpus")


def test_submit_names_all_wrong_fields_at_once(anns: Client) -> None:
    answer = anns.post("/jobs/new/", FORM | {"command": "", "time_limit_s": "soon", "after": "x"})
    assert all(beside(answer, field) for field in ("command", "time_limit_s", "after"))
    assert "Nothing was submitted: 3 fields need mending." in shown(answer)
    assert "<details open>" in answer.content.decode()


def test_submit_form_begins_with_the_defaults_and_what_its_address_says(anns: Client) -> None:
    page = anns.get("/jobs/new/", {"name": "🦆", "command": "a\nb", "zone": "x"})
    assert (value(page, "name"), value(page, "command"), value(page, "min_gpus"), value(page, "hold")) == ("🦆", "a\nb", "1", "")
    assert value(page, "retry_on_oom") == "on"
    assert "<details>" in page.content.decode()


def test_submit_form_is_filled_like_an_old_job(anns: Client, ann: User) -> None:
    old = make_job(
        ann, name="old", command="echo 1", env={"A": "1"}, time_limit_s=5400, gpu_memory_mib=512, retry_on_oom=False, hosts=["gpu-a"]
    )
    page = anns.get(f"/jobs/new/?from={old.pk}&name=other")
    assert f"like #{old.pk} old" in shown(page)
    filled = {name: value(page, name) for name in ("name", "command", "env", "time_limit_s", "gpu_memory_mib", "retry_on_oom", "hosts")}
    assert filled == {
        "name": "other",
        "command": "echo 1",
        "env": "A=1",
        "time_limit_s": "90m",
        "gpu_memory_mib": "512 MiB",
        "retry_on_oom": "",
        "hosts": "gpu-a",
    }


def test_submit_form_takes_nothing_from_jobs_of_others(anns: Client) -> None:
    others = make_job(person("bob"), command=SECRET)
    page = anns.get(f"/jobs/new/?from={others.pk}")
    assert (page.status_code, value(page, "command")) == (200, "")
    assert SECRET not in page.content.decode()


@pytest.mark.parametrize("name", ["from", "name", "command", "min_gpus", "begin_at", "template"])
def test_submit_form_is_shown_when_its_address_is_hostile(anns: Client, name: str) -> None:
    for words in HOSTILE:
        answer = anns.get("/jobs/new/", {name: words})
        assert answer.status_code == 200, words
        assert "<script>" not in answer.content.decode()


def test_submit_is_for_those_who_may() -> None:
    viewer = browser(person("vic", Role.VIEWER))
    assert viewer.get("/jobs/new/").status_code == 403
    assert viewer.post("/jobs/new/", FORM).status_code == 403
    assert not Job.objects.exists()


def test_submit_is_refused_when_another_page_sends_it(ann: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(ann)
    assert client.post("/jobs/new/", FORM).status_code == 403
    assert not Job.objects.exists()


# --- languages ----------------------------------------------------------------------------------------------------------


def test_page_speaks_the_browsers_language_until_somebody_chooses(client: Client, ann: User) -> None:
    client.force_login(ann)
    chinese = {"HTTP_ACCEPT_LANGUAGE": "zh-CN,zh;q=0.9,en;q=0.5"}
    page = client.get("/", **chinese).content.decode()
    assert 'lang="zh-hans"' in page
    assert "总览" in page
    assert "Overview" not in page
    assert client.post("/language/", {"language": "en", "next": "/jobs/"}, **chinese).headers["Location"] == "/jobs/"
    page = client.get("/", **chinese).content.decode()
    assert "Overview" in page
    assert client.post("/language/", {"language": "zh-hans", "next": "https://elsewhere.example/"}).headers["Location"] == "/"
    assert "总览" in client.get("/").content.decode()


def test_ended_job_is_told_in_chinese(client: Client, ann: User) -> None:
    client.force_login(ann)
    job = make_job(ann, name="x")
    make_attempt(job, 1, outcome="failed", exit_code=3, started_at=timezone.now(), ended_at=timezone.now())
    put_into(job, JobState.FAILED, ended_at=timezone.now(), exit_code=3)
    page = client.get(f"/jobs/{job.pk}/", HTTP_ACCEPT_LANGUAGE="zh-CN").content.decode()
    assert "退出码 3" in page
    assert "失败" in page


# --- several jobs at once -----------------------------------------------------------------------------------------------


def test_action_is_done_to_all_that_are_ticked_and_refusals_are_said(client: Client, ann: User) -> None:
    client.force_login(ann)
    queued, over, others = make_job(ann), make_job(ann), make_job(person("bob"))
    put_into(over, JobState.COMPLETED)
    ticked = {"action": "cancel", "job": [queued.pk, over.pk, others.pk, "x", 10**30], "back": "?state=waiting&whose=mine"}
    answer = client.post("/jobs/act/", ticked, follow=True)
    assert answer.redirect_chain[-1][0] == "/jobs/?state=waiting&whose=mine"
    assert said(answer) == [
        "Done for 1 job.",
        f"Job {over.pk} is completed; a job that is over cannot be cancelled.",
        f"#{others.pk} is not yours.",
    ]
    assert [Job.objects.get(pk=job.pk).state for job in (queued, others)] == [JobState.CANCELLED, JobState.QUEUED]


@pytest.mark.parametrize(("action", "state"), [("hold", JobState.HELD), ("resubmit", JobState.QUEUED)])
def test_jobs_are_held_and_run_again_together(client: Client, ann: User, action: str, state: JobState) -> None:
    client.force_login(ann)
    jobs = [make_job(ann) for _ in range(3)]
    client.post("/jobs/act/", {"action": action, "job": [job.pk for job in jobs]})
    assert Job.objects.filter(state=state).count() == (6 if action == "resubmit" else 3)


def test_nothing_is_done_where_nothing_is_ticked_or_the_action_is_none(client: Client, ann: User) -> None:
    client.force_login(ann)
    assert said(client.post("/jobs/act/", {"action": "hold", "back": "//elsewhere"}, follow=True)) == ["Tick the jobs first."]
    assert client.post("/jobs/act/", {"action": "delete"}).status_code == 404
    assert client.get("/jobs/act/").status_code == 405


def test_only_jobs_that_one_may_change_can_be_ticked(client: Client, ann: User) -> None:
    mine, others = make_job(ann), make_job(person("bob"))
    client.force_login(ann)
    page = client.get("/jobs/?whose=all").content.decode()
    assert f'name="job" value="{mine.pk}"' in page
    assert f'name="job" value="{others.pk}"' not in page
    client.force_login(person("vera", Role.VIEWER))
    assert 'id="bulk"' not in client.get("/jobs/").content.decode()


# --- searching a log ----------------------------------------------------------------------------------------------------


def test_search_of_a_log_leads_to_its_lines(client: Client, ann: User) -> None:
    job = make_job(ann)
    make_attempt(job, 1)
    logs.append(job.pk, 1, 0, b"one\ntwo needle\nthree\nfour NEEDLE <b>\n")
    client.force_login(ann)
    told = client.get(f"/jobs/{job.pk}/log/find/", {"attempt": 1, "q": "needle"}).json()
    assert [(hit["line"], hit["match"], hit["after"]) for hit in told["hits"]] == [(2, "needle", ""), (4, "NEEDLE", " <b>")]
    assert told["next"] is None
    for wrong in ({"q": "x"}, {"attempt": 1}, {"attempt": 1, "q": " "}, {"attempt": 1, "q": "x" * 201}, {"attempt": 1, "q": "\0"}):
        assert client.get(f"/jobs/{job.pk}/log/find/", wrong).status_code == 400
    client.force_login(person("bob"))
    assert client.get(f"/jobs/{job.pk}/log/find/", {"attempt": 1, "q": "needle"}).status_code == 404


# --- what is not there --------------------------------------------------------------------------------------------------


def test_missing_and_forbidden_pages_look_like_the_others(client: Client, ann: User) -> None:
    client.force_login(person("vic", Role.VIEWER))
    for path, status, said in (("/nowhere/", 404, "There is nothing at this address"), ("/jobs/new/", 403, "You may not see or do this")):
        answer = client.get(path)
        assert (answer.status_code, said in answer.content.decode(), 'href="/jobs/"' in answer.content.decode()) == (status, True, True)
    client.logout()
    assert "There is nothing at this address" in client.get("/nowhere/").content.decode()


def test_page_of_an_error_can_be_shown_when_nothing_else_can() -> None:
    assert "Something went wrong here" in server_error(RequestFactory().get("/")).content.decode()


def test_lists_say_that_a_job_ended_at_its_time_limit(client: Client, ann: User) -> None:
    client.force_login(ann)
    job = make_job(ann)
    make_attempt(job, outcome="timed_out", signal=15, ended_at=timezone.now())
    put_into(job, JobState.FAILED, ended_at=timezone.now())
    for path in ("/", "/jobs/"):
        text = client.get(path).content.decode()
        assert "at its time limit" in text
        assert "signal 15" not in text
