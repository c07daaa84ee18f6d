"""The admin as operators and administrators use it, and as nobody else can."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone

from gpuworker.protocol import ProcessReading
from jobs import lifecycle
from jobs.models import Device, Host, Job, JobEvent, User
from jobs.states import TERMINAL, JobState, Role
from tests.integration.fakehost import FakeHost
from tests.integration.rest import known_host, make_attempt, make_job, person, put_into

pytestmark = pytest.mark.django_db

DONE = {"_form_submitted": "True"}
"""What the dialog behind a button sends."""
FORM = {"name": "new", "command": "python train.py", "working_dir": "/data", "min_gpus": "1", "max_gpus": "1", "retry_on_oom": "on"}


class Admin:
    """A browser in the admin, signed in as somebody; paths below /admin/jobs/."""

    def __init__(self, user: User | None = None) -> None:
        self.client = Client()
        if user:
            self.client.force_login(user)

    def get(self, path: str, *, follow: bool = False, **query: Any) -> Any:
        return self.client.get(f"/admin/jobs/{path}", query, follow=follow)

    def post(self, path: str, data: dict[str, Any] | None = None, **options: Any) -> Any:
        return self.client.post(f"/admin/jobs/{path}", data or {}, **options)

    def choose(self, path: str, action: str, *rows: Any, **more: str) -> list[str]:
        """An action of a list on some of its rows; returns what it says afterwards."""
        answer = self.post(path, {"action": action, "_selected_action": [row.pk for row in rows], "index": 0} | more, follow=True)
        assert answer.status_code == 200
        return said(answer)


def said(answer: Any) -> list[str]:
    """The messages of a page that was followed to."""
    return [str(message) for message in answer.context["messages"]]


def shown(answer: Any) -> str:
    """The text of a page, without its tags."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", answer.content.decode())).split())


def beside(answer: Any, field: str) -> str:
    """The error beside a field of a form."""
    return " ".join(answer.context["adminform"].form.errors.get(field, []))


@pytest.fixture
def olga() -> User:
    return person("olga", Role.OPERATOR)


@pytest.fixture
def operator(olga: User) -> Admin:
    return Admin(olga)


@pytest.fixture
def chief() -> User:
    """An administrator by role, no superuser."""
    return person("chief", Role.ADMIN)


@pytest.fixture
def root() -> User:
    return User.objects.create_superuser("root")


# --- who gets in --------------------------------------------------------------------------------------------------------

PAGES = ("job/", "job/add/", "job/{job}/change/", "job/{job}/cancel/", "job/{job}/history/", "host/", "host/{host}/change/", "device/")
PEOPLE = ("user/", "user/add/", "user/{ann}/change/", "user/{ann}/password/", "user/{ann}/delete/")


@pytest.fixture
def paths(ann: User) -> dict[str, int]:
    return {"job": make_job(ann).pk, "host": known_host("gpu-a", 24).pk, "ann": ann.pk}


@pytest.mark.parametrize("role", [None, Role.VIEWER, Role.SUBMITTER])
def test_admin_is_closed_to_all_but_operators(paths: dict[str, int], role: Role | None) -> None:
    browser = Admin(person("bob", role) if role else None)
    for page in (*PAGES, *PEOPLE):
        for answer in (browser.get(page.format(**paths)), browser.post(page.format(**paths), DONE)):
            assert answer.status_code == 302
            assert answer.url.startswith("/admin/login/")
    assert Job.objects.get().state == JobState.QUEUED


def test_admin_says_no_to_whoever_is_signed_in_without_the_right() -> None:
    browser = Client()
    browser.force_login(person("bob"))
    assert browser.get("/admin/", follow=True).status_code == 403


def test_admin_sends_everyone_to_the_one_sign_in_that_counts_tries() -> None:
    browser: Any = Client()
    for answer in (browser.get("/admin/", follow=True), browser.post("/admin/login/", {"username": "a", "password": "b"}, follow=True)):
        assert answer.redirect_chain[-1][0].startswith("/signin/?next=/admin/")
    browser.force_login(person("olga", Role.OPERATOR))
    assert browser.get("/admin/login/").url == "/admin/"


def test_operators_see_jobs_hosts_and_devices_and_no_people(operator: Admin, paths: dict[str, int]) -> None:
    for page in PAGES:
        assert operator.get(page.format(**paths)).status_code == 200, page
    for page in PEOPLE:
        assert operator.get(page.format(**paths)).status_code == 403, page
        assert operator.post(page.format(**paths), {"role": "admin"}).status_code == 403, page
    listed = shown(operator.client.get("/admin/"))
    assert all(word in listed for word in ("Jobs", "Hosts", "Devices"))
    assert "Users" not in listed


@pytest.mark.parametrize("by", ["chief", "root"])
def test_administrators_see_people_too(paths: dict[str, int], by: str, request: pytest.FixtureRequest) -> None:
    browser = Admin(request.getfixturevalue(by))
    for page in (*PAGES, *PEOPLE[:-1]):
        assert browser.get(page.format(**paths)).status_code == 200, page


def test_admin_shows_no_secrets_and_nothing_of_the_scheduler() -> None:
    assert {model.__name__ for model in admin.site._registry} == {
        "Job",
        "Host",
        "Device",
        "Notification",
        "User",
        "AuditEntry",
        "Group",
        "PersonalToken",
    }


# --- jobs: looking ------------------------------------------------------------------------------------------------------


def test_job_list_says_where_jobs_run_why_they_wait_and_how_they_ended(operator: Admin, ann: User) -> None:
    waits, runs, failed, held = make_job(ann), make_job(ann), make_job(ann, priority=7), make_job(ann, hold=True)
    put_into(waits, JobState.QUEUED, wait_code="Resources", wait_message="Needs 4 GPUs.")
    make_attempt(runs, devices=[{"uuid": "GPU-1", "index": 3}])
    put_into(runs, JobState.RUNNING)
    make_attempt(failed, outcome="failed", exit_code=3, ended_at=timezone.now())
    put_into(failed, JobState.FAILED)
    page = shown(operator.get("job/"))
    for text in ("Resources: Needs 4 GPUs.", "gpu-a, GPU 3", "with exit code 3.", "Held: Held by ann", f"#{held.pk}", "ann"):
        assert text in page


def test_job_list_takes_as_many_queries_for_many_jobs_as_for_few(operator: Admin, ann: User, django_assert_max_num_queries: Any) -> None:
    for _ in range(30):
        make_attempt(make_job(ann), outcome="failed")
    with django_assert_max_num_queries(15):
        assert operator.get("job/").status_code == 200


def test_job_list_is_filtered_and_searched(operator: Admin, ann: User) -> None:
    first, second = make_job(ann, name="resnet"), make_job(person("bob"), name="bert")
    put_into(first, JobState.RUNNING)

    def ids(**query: Any) -> set[int]:
        return {job.pk for job in operator.get("job/", **query).context["cl"].queryset}

    assert ids(state__exact="running") == {first.pk}
    assert ids(owner__id__exact=str(second.owner_id)) == {second.pk}
    assert ids(q="RESN") == {first.pk}
    assert ids(q="bob") == {second.pk}
    assert ids(q=f"#{first.pk}") == ids(q=f" {first.pk} ") == {first.pk}


@pytest.mark.parametrize("words", ["\0", "#", "9" * 30, "9223372036854775808", "🦆", "'; --", "²", "%"])
def test_job_list_finds_nothing_when_the_search_is_odd(operator: Admin, ann: User, words: str) -> None:
    make_job(ann)
    assert operator.get("job/", q=words, follow=True).status_code == 200


def test_job_page_tells_what_it_asks_for_its_attempts_and_events(operator: Admin, ann: User) -> None:
    job = make_job(ann, command="echo <b>one</b>\necho two", env={"A": "1"})
    make_attempt(job, outcome="failed", exit_code=9, oom_detected=True, message="no <i>memory</i>")
    put_into(job, JobState.FAILED, oom_detected=True)
    answer = operator.get(f"job/{job.pk}/change/")
    page = shown(answer)
    for text in ("Failed with exit code 9: the log says that the GPU ran out of memory.", "Failed, out of GPU memory", "Submitted by ann."):
        assert text in page
    assert "echo &lt;b&gt;one&lt;/b&gt;\necho two" in answer.content.decode()
    assert "no &lt;i&gt;memory" in answer.content.decode()


@pytest.mark.parametrize("number", ["0", "999", "9" * 30, "abc", "1_2F"])
def test_job_page_leads_back_when_there_is_no_such_job(operator: Admin, number: str) -> None:
    assert operator.get(f"job/{number}/change/").url == "/admin/"
    assert operator.post(f"job/{number}/change/", FORM).status_code == 404
    assert operator.post(f"job/{number}/cancel/", DONE).status_code == 404


# --- jobs: submitting ---------------------------------------------------------------------------------------------------


def test_add_submits_a_job_as_rest_does(
    operator: Admin, olga: User, ann: User, woken: list[int], django_capture_on_commit_callbacks: Any
) -> None:
    parent = make_job(ann)
    more = {
        "gpu_memory_mib": "4",
        "time_limit_s": "1h 30m",
        "begin_at": "2031-05-06T07:08",
        "after": f"#{parent.pk}",
        "hosts": "gpu-a gpu-b",
    }
    woken.clear()
    with django_capture_on_commit_callbacks(execute=True):
        answer = operator.post("job/add/", FORM | more | {"env": "A=1\r\nB=x y", "command": "echo 1\r\necho 2", "hold": "on"}, follow=True)
    job = Job.objects.latest("id")
    assert f"#{job.pk} new" in said(answer)[0]
    assert (job.owner, job.state, job.name, job.command) == (olga, JobState.HELD, "new", "echo 1\necho 2")
    assert (job.gpu_memory_mib, job.time_limit_s, job.hosts, job.env) == (4096, 5400, ["gpu-a", "gpu-b"], {"A": "1", "B": "x y"})
    assert (job.begin_at.isoformat() if job.begin_at else "") == "2031-05-06T07:08:00+00:00"
    assert list(job.after.all()) == [parent]
    assert [event.message for event in job.events.all()] == ["Submitted by olga and held."]
    assert woken


def test_add_needs_no_more_than_a_command(operator: Admin) -> None:
    operator.post("job/add/", {"command": "true"})
    job = Job.objects.get()
    assert (job.name, job.min_gpus, job.max_gpus, job.retry_on_oom, job.state) == ("true", 1, 1, False, JobState.QUEUED)


WRONG: list[tuple[dict[str, str], str, str]] = [
    ({"command": " "}, "command", "empty"),
    ({"command": "a\0b"}, "command", "ull characters"),
    ({"name": "x" * 201}, "name", "200"),
    ({"working_dir": "~/x"}, "working_dir", "whole path"),
    ({"min_gpus": "-1"}, "min_gpus", "0 or more"),
    ({"min_gpus": "x"}, "min_gpus", "whole number"),
    ({"min_gpus": "2"}, "max_gpus", "less than “GPUs, at least”"),
    ({"min_gpus": "3", "max_gpus": "3"}, "min_gpus", "the most is 2, on gpu-a"),
    ({"gpu_memory_mib": "99"}, "gpu_memory_mib", "the largest has"),
    ({"gpu_memory_mib": "much"}, "gpu_memory_mib", "512 MiB"),
    ({"time_limit_s": "soon"}, "time_limit_s", "30m, 12h"),
    ({"priority": "1" * 30}, "priority", "whole number"),
    ({"begin_at": "tomorrow"}, "begin_at", "2027-01-31"),
    ({"after": "777"}, "after", "There is no job 777"),
    ({"hosts": "gpu/a"}, "hosts", "host name"),
    ({"env": "no equals"}, "env", "Line 1"),
    ({"swaps": "loss.py"}, "swaps", "the source is empty"),
    ({"swaps": "../loss.py=/x"}, "swaps", "must not lead out"),
    ({"swaps": "loss.py=sha256:" + "0" * 64}, "swaps", "no content with this hash"),
]


@pytest.mark.parametrize(("fields", "field", "text"), WRONG, ids=[f"{n}-{field}" for n, (_, field, _) in enumerate(WRONG)])
def test_add_shows_the_error_beside_its_field_and_saves_nothing(operator: Admin, fields: dict[str, str], field: str, text: str) -> None:
    known_host("gpu-a", 24, 24)
    answer = operator.post("job/add/", FORM | fields)
    assert answer.status_code == 200
    assert text in beside(answer, field)
    assert not Job.objects.exists()
    assert not JobEvent.objects.exists()


def test_add_takes_swaps_and_change_keeps_what_was_handed_in(operator: Admin, olga: User) -> None:
    operator.post("job/add/", FORM | {"swaps": "loss.py=/new/loss.py\r\n\r\n a/b.py = /new/b.py "})
    job = Job.objects.get()
    assert job.swaps == [{"target": "loss.py", "source": "/new/loss.py"}, {"target": "a/b.py", "source": "/new/b.py"}]
    lifecycle.edit(job, {"swaps": [{"target": "c.py", "content": "x"}]}, actor=olga)
    job.refresh_from_db()
    kept = job.swaps
    sent = form_of(operator.get(f"job/{job.pk}/change/"))
    assert sent["swaps"] == f"c.py=sha256:{kept[0]['sha256']}"
    operator.post(f"job/{job.pk}/change/", sent | {"swaps": sent["swaps"] + "\r\nd.py=/d.py"})
    job.refresh_from_db()
    assert job.swaps == [*kept, {"target": "d.py", "source": "/d.py"}]


def test_add_shows_all_errors_at_once_and_keeps_what_was_typed(operator: Admin) -> None:
    answer = operator.post("job/add/", FORM | {"command": "", "time_limit_s": "soon", "name": "kept 🦆"})
    assert set(answer.context["adminform"].form.errors) == {"command", "time_limit_s"}
    assert 'value="kept 🦆"' in answer.content.decode()


def test_add_takes_values_from_its_address(operator: Admin) -> None:
    page = operator.get("job/add/", name="from a link", after="41,42", state="completed").content.decode()
    assert 'value="from a link"' in page
    assert 'value="41,42"' in page


# --- jobs: changing -----------------------------------------------------------------------------------------------------


def form_of(answer: Any) -> dict[str, str]:
    """What a browser would send back of a form that it was shown."""
    form = answer.context["adminform"].form
    values = {name: form[name].value() for name in form.fields}
    return {name: str(value).replace("\n", "\r\n") for name, value in values.items() if value}


def test_change_writes_what_was_changed_and_tells_it(operator: Admin, ann: User) -> None:
    job = make_job(
        ann,
        name="old",
        command="echo 1\necho 2",
        env={"A": "b\nc"},
        time_limit_s=90,
        retry_delay_s=1.5,
        begin_at=timezone.now(),
        retry_on_oom=False,
    )
    before = Job.objects.values().get(pk=job.pk)
    sent = form_of(operator.get(f"job/{job.pk}/change/"))
    answer = operator.post(f"job/{job.pk}/change/", sent | {"name": "new", "priority": "5"}, follow=True)
    assert "changed successfully" in said(answer)[0]
    assert Job.objects.values().get(pk=job.pk) == before | {"name": "new", "priority": 5}
    assert [event.message for event in job.events.order_by("id")][1:] == ["olga changed name, priority."]


def test_change_of_nothing_changes_nothing(operator: Admin, ann: User) -> None:
    job = make_job(ann, command="a\nb")
    operator.post(f"job/{job.pk}/change/", form_of(operator.get(f"job/{job.pk}/change/")))
    assert job.events.count() == 1


def test_change_to_nothing_means_the_default(operator: Admin, ann: User) -> None:
    parent = make_job(ann)
    job = make_job(ann, name="old", env={"A": "1"}, hosts=["gpu-z"], time_limit_s=60, begin_at=timezone.now(), priority=3, after=[parent])
    emptied = dict.fromkeys(("name", "env", "hosts", "time_limit_s", "begin_at", "priority", "after", "gpu_memory_mib"), "")
    operator.post(f"job/{job.pk}/change/", form_of(operator.get(f"job/{job.pk}/change/")) | emptied)
    job.refresh_from_db()
    assert (job.name, job.env, job.hosts, job.time_limit_s, job.begin_at, job.priority) == ("true", {}, [], None, None, 0)
    assert not job.after.exists()


def test_change_cannot_write_a_state_an_owner_or_what_is_not_in_the_form(operator: Admin, ann: User, olga: User) -> None:
    job = make_job(ann)
    forged = {"state": "completed", "owner": str(olga.pk), "exit_code": "0", "hold": "on", "faults": "9", "uid": "0" * 32, "name": "new"}
    operator.post(f"job/{job.pk}/change/", form_of(operator.get(f"job/{job.pk}/change/")) | forged)
    job.refresh_from_db()
    assert (job.name, job.state, job.owner, job.exit_code, job.faults) == ("new", JobState.QUEUED, ann, None, 0)
    assert not {"state", "owner", "exit_code", "hold"} & set(operator.get(f"job/{job.pk}/change/").context["adminform"].form.fields)


def test_change_shows_the_error_beside_its_field_and_changes_nothing(operator: Admin, ann: User) -> None:
    job, other = make_job(ann), make_job(ann)
    other.after.add(job)
    answer = operator.post(f"job/{job.pk}/change/", {"name": "new", "retry_on_oom": "on", "after": str(other.pk), "min_gpus": "2"})
    assert f"Job {other.pk} would wait for job {job.pk}" in beside(answer, "after")
    assert "“GPUs, at most” is 1, less than “GPUs, at least”" in beside(answer, "max_gpus")
    job.refresh_from_db()
    assert (job.name, job.min_gpus, job.after.count(), job.events.count()) == ("job", 1, 0, 1)


@pytest.mark.parametrize("state", [JobState.STARTING, JobState.RUNNING, JobState.STOPPING, JobState.QUEUED, *sorted(TERMINAL)])
def test_change_is_refused_in_words_when_the_job_has_been_started(operator: Admin, ann: User, state: JobState) -> None:
    job = make_job(ann)
    make_attempt(job, outcome="" if state in (JobState.STARTING, JobState.RUNNING) else "failed")
    put_into(job, state)
    page = operator.get(f"job/{job.pk}/change/")
    assert 'name="name"' not in page.content.decode()
    assert 'name="_save"' not in page.content.decode()
    answer = operator.post(f"job/{job.pk}/change/", FORM, follow=True)
    assert said(answer) == [f"Job {job.pk} is {state} and has been started before: resubmit it, or submit a changed copy."]
    job.refresh_from_db()
    assert (job.name, job.events.count()) == ("job", 1)


def test_change_is_refused_in_words_when_the_job_starts_at_that_moment(operator: Admin, ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(ann)
    monkeypatch.setattr(lifecycle, "edit", lambda *args, **kwargs: False)
    answer = operator.post(f"job/{job.pk}/change/", FORM, follow=True)
    assert "has been started before" in said(answer)[0]
    assert not LogEntry.objects.exists()


def test_jobs_cannot_be_deleted_by_anybody(ann: User, root: User) -> None:
    job = make_job(ann)
    browser = Admin(root)
    assert browser.post(f"job/{job.pk}/delete/", {"post": "yes"}).status_code == 403
    assert "delete" not in shown(browser.get(f"job/{job.pk}/change/")).casefold()
    assert "delete_selected" not in browser.get("job/").content.decode()
    assert "No action selected." in browser.choose("job/", "delete_selected", job, post="yes")
    assert Job.objects.exists()


# --- jobs: actions ------------------------------------------------------------------------------------------------------

MOVES = [
    ("hold", JobState.QUEUED, JobState.HELD),
    ("release", JobState.HELD, JobState.QUEUED),
    ("cancel", JobState.QUEUED, JobState.CANCELLED),
    ("cancel", JobState.HELD, JobState.CANCELLED),
    ("cancel", JobState.RUNNING, JobState.STOPPING),
]
REFUSED = [
    ("hold", JobState.RUNNING, "only queued jobs can be held"),
    ("release", JobState.QUEUED, "only held jobs can be released"),
    ("cancel", JobState.COMPLETED, "a job that is over cannot be cancelled"),
]


@pytest.mark.parametrize(("action", "before", "after"), MOVES)
def test_button_of_a_job_asks_first_and_then_does_it(operator: Admin, ann: User, action: str, before: JobState, after: JobState) -> None:
    job = make_job(ann)
    put_into(job, before)
    assert "?" in shown(operator.get(f"job/{job.pk}/{action}/"))
    assert operator.post(f"job/{job.pk}/{action}/").status_code == 200
    job.refresh_from_db()
    assert job.state == before
    answer = operator.post(f"job/{job.pk}/{action}/", DONE)
    assert answer.url == f"/admin/jobs/job/{job.pk}/change/"
    job.refresh_from_db()
    assert job.state == after
    assert job.events.last().actor.username == "olga"  # type: ignore[union-attr]


def test_button_of_a_job_is_no_link_that_other_pages_could_press(ann: User, olga: User) -> None:
    job = make_job(ann)
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(olga)
    assert browser.get(f"/admin/jobs/job/{job.pk}/cancel/", DONE).status_code == 200
    assert browser.post(f"/admin/jobs/job/{job.pk}/cancel/", DONE).status_code == 403
    job.refresh_from_db()
    assert job.state == JobState.QUEUED


def test_button_leads_on_by_htmx_when_a_script_asks(operator: Admin, ann: User) -> None:
    job = make_job(ann)
    answer = operator.post(f"job/{job.pk}/hold/", DONE, headers={"hx-request": "true"})
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (200, f"/admin/jobs/job/{job.pk}/change/")


@pytest.mark.parametrize(("action", "state", "why"), REFUSED)
def test_button_says_why_not_when_the_state_does_not_allow_it(operator: Admin, ann: User, action: str, state: JobState, why: str) -> None:
    job = make_job(ann)
    put_into(job, state)
    answer = operator.post(f"job/{job.pk}/{action}/", DONE, follow=True)
    assert answer.status_code == 200
    assert said(answer) == [f"Job {job.pk} is {state}; {why}."]


def test_buttons_are_those_that_make_sense(operator: Admin, ann: User) -> None:
    job = make_job(ann)

    def buttons() -> list[str]:
        return [button["path"].split("/")[-2] for button in operator.get(f"job/{job.pk}/change/").context["actions_detail"]]

    assert buttons() == ["cancel", "hold", "resubmit"]
    put_into(job, JobState.HELD)
    assert buttons() == ["cancel", "release", "resubmit"]
    put_into(job, JobState.COMPLETED)
    assert buttons() == ["resubmit"]


def test_resubmit_is_a_new_job_of_whoever_pressed_it(operator: Admin, ann: User, olga: User) -> None:
    old = make_job(ann, command="echo hi", env={"A": "1"})
    put_into(old, JobState.FAILED)
    answer = operator.post(f"job/{old.pk}/resubmit/", DONE)
    new = Job.objects.latest("id")
    assert answer.url == f"/admin/jobs/job/{new.pk}/change/"
    assert (new.command, new.env, new.owner, new.state) == ("echo hi", {"A": "1"}, olga, JobState.QUEUED)


@pytest.mark.parametrize(("action", "before", "after"), MOVES)
def test_action_of_the_list_does_it_to_all_chosen_jobs(operator: Admin, ann: User, action: str, before: JobState, after: JobState) -> None:
    jobs = [make_job(ann) for _ in range(3)]
    for job in jobs:
        put_into(job, before)
    assert operator.choose("job/", f"{action}_chosen", *jobs[:2]) == ["Done for all 2."]
    assert [Job.objects.get(pk=job.pk).state for job in jobs] == [after, after, before]


def test_action_of_the_list_names_the_refused_and_does_the_others(operator: Admin, ann: User) -> None:
    good, over = make_job(ann), [make_job(ann) for _ in range(7)]
    for job in over:
        put_into(job, JobState.COMPLETED)
    told = operator.choose("job/", "cancel_chosen", *over, good)
    assert told[0] == "Done for one."
    assert told[1:-1] == [f"Job {job.pk} is completed; a job that is over cannot be cancelled." for job in over[:5]]
    assert told[-1] == "And 2 more were refused."
    good.refresh_from_db()
    assert good.state == JobState.CANCELLED


def test_resubmit_of_the_list_makes_a_job_of_each(operator: Admin, ann: User, olga: User) -> None:
    jobs = [make_job(ann, name=name) for name in ("a", "b")]
    operator.choose("job/", "resubmit_chosen", *jobs)
    assert list(olga.jobs.order_by("id").values_list("name", flat=True)) == ["a", "b"]


# --- hosts and devices --------------------------------------------------------------------------------------------------


@pytest.fixture
def alive(operator: Admin, broker: str) -> Any:
    """A host, gpu-a, with two devices, heard just now."""
    known_host("gpu-a", 24, 24)
    fake = FakeHost(broker, "gpu-a")
    fake.beat()
    yield Host.objects.get()
    fake.close()


@pytest.fixture
def silent() -> Host:
    return known_host("gpu-b", 24, last_seen_at=timezone.now())


def test_host_list_and_page_tell_how_it_is_now(operator: Admin, alive: Host) -> None:
    for page in (shown(operator.get("host/")), shown(operator.get(f"host/{alive.pk}/change/"))):
        assert "Up" in page
        assert "2 of 2 free" in page
    Host.objects.update(drain=True, drain_reason="olga: new fan")
    assert "is drained by olga: new fan" in shown(operator.get("host/"))
    assert "gpu-a is drained by olga: new fan" in shown(operator.get(f"host/{alive.pk}/change/"))


def test_device_list_and_page_tell_how_they_are_now(operator: Admin, alive: Host, ann: User) -> None:
    job = make_job(ann)
    make_attempt(job, devices=[{"uuid": "GPU-gpu-a-1", "index": 1}])
    gone = Device.objects.create(uuid="GPU-gone", host=alive, index=7, present=False, updated_at=timezone.now())
    answer = operator.get("device/")
    assert f'href="/admin/jobs/job/{job.pk}/change/"' in answer.content.decode()
    page = shown(answer)
    for text in ("gpu-a:0", "Free", "gpu-a:1", "In use", f"#{job.pk}", "of 24 GiB used", "Its host shows it no more."):
        assert text in page
    assert "Its host shows it no more." in shown(operator.get(f"device/{gone.pk}/change/"))
    assert "not shown by its host any more" in shown(operator.get(f"host/{alive.pk}/change/"))


@pytest.mark.parametrize("kind", ["host", "device"])
def test_drain_and_resume_by_button_keep_who_and_why(operator: Admin, alive: Host, kind: str) -> None:
    model: type[Host | Device] = Host if kind == "host" else Device
    row = model.objects.order_by("pk")[0]
    assert "Reason" in shown(operator.get(f"{kind}/{row.pk}/drain/"))
    answer = operator.post(f"{kind}/{row.pk}/drain/", DONE | {"reason": " new fan "})
    assert answer.url == f"/admin/jobs/{kind}/{row.pk}/change/"
    row.refresh_from_db()
    assert (row.drain, row.drain_reason) == (True, "olga: new fan")
    operator.post(f"{kind}/{row.pk}/resume/", DONE)
    row.refresh_from_db()
    assert (row.drain, row.drain_reason) == (False, "")


@pytest.mark.parametrize("kind", ["host", "device"])
def test_drain_and_resume_of_the_list_keep_who_and_why(operator: Admin, alive: Host, kind: str) -> None:
    model: type[Host | Device] = Host if kind == "host" else Device
    rows = list(model.objects.all())
    operator.choose(f"{kind}/", "drain_chosen", *rows, reason="new fan")
    assert set(model.objects.values_list("drain", "drain_reason")) == {(True, "olga: new fan")}
    operator.choose(f"{kind}/", "resume_chosen", *rows)
    assert set(model.objects.values_list("drain", "drain_reason")) == {(False, "")}


def test_drain_is_refused_in_words_when_the_reason_is_too_long(operator: Admin, alive: Host) -> None:
    answer = operator.post(f"host/{alive.pk}/drain/", DONE | {"reason": "x" * 501})
    assert "At most 500 characters." in shown(answer)
    assert operator.choose("host/", "drain_chosen", alive, reason="x" * 501) == ["At most 500 characters."]
    assert operator.choose("device/", "drain_chosen", *alive.devices.all(), reason="x" * 501) == ["At most 500 characters."]
    assert not Host.objects.filter(drain=True).exists()


def test_operator_sets_the_rule_of_a_host_and_ignores_a_process_by_button(operator: Admin, alive: Host, broker: str) -> None:
    page = f"host/{alive.pk}/change/"
    assert "uses a device with 1 GiB or more, and for 30 min after computing" in shown(operator.get(page))
    assert "Minutes for which it counts" in shown(operator.get(f"host/{alive.pk}/rule/"))
    operator.post(f"host/{alive.pk}/rule/", DONE | {"memory_mib": "4096", "idle_min": "", "reason": "demo day"})
    text = shown(operator.get(page))
    assert "uses a device with 4 GiB or more, and for 30 min after computing; set by olga: demo day" in text
    assert "the host does not go by this yet" in text
    answer = operator.post(f"host/{alive.pk}/rule/", DONE | {"memory_mib": "0", "idle_min": "", "reason": ""})
    assert "greater than or equal to 1" in shown(answer)
    answer = operator.post(f"host/{alive.pk}/ignore/", DONE | {"pid": "4711", "reason": ""}, follow=True)
    assert said(answer) == ["No process outside the queue with pid 4711 is on a device of gpu-a now."]
    fake = FakeHost(broker, "gpu-a")
    hers = ProcessReading(pid=4711, user="alice", command="python", memory_mib=300, age_s=3 * 3600.0, start_ticks=9, utilization_pct=97.0)
    fake.devices[0] = replace(fake.devices[0], processes=(hers,))
    fake.beat()
    page_of_device = operator.get(f"device/{alive.devices.order_by('index')[0].pk}/change/")
    assert "alice's python (pid 4711), 0.3 GiB, 97 %, for 3 h 0 m" in shown(page_of_device)
    operator.post(f"host/{alive.pk}/ignore/", DONE | {"pid": "4711", "reason": "a viewer"})
    assert "ignores alice's python (pid 4711), by olga: a viewer" in shown(operator.get(page))
    operator.post(f"host/{alive.pk}/heed/", DONE | {"pid": "4711"})
    assert "ignores alice's" not in shown(operator.get(page))
    fake.close()


def test_operator_keeps_a_device_for_a_person_by_button(operator: Admin, alive: Host, ann: User) -> None:
    device = alive.devices.order_by("index")[0]
    answer = operator.post(f"device/{device.pk}/keep/", DONE | {"user": "ann", "until": "soon", "reason": ""})
    assert "Write a date and time such as" in shown(answer)
    answer = operator.post(f"device/{device.pk}/keep/", DONE | {"user": "nobody", "until": "2099-03-09", "reason": ""}, follow=True)
    assert said(answer) == ["Nobody of the name 'nobody' can sign in here."]
    operator.post(f"device/{device.pk}/keep/", DONE | {"user": "ann", "until": "2099-03-09T14:31", "reason": "demo"})
    text = shown(operator.get(f"device/{device.pk}/change/"))
    assert "Is kept for ann until 2099-03-09 14:31 by olga: demo." in text
    operator.post(f"device/{device.pk}/unkeep/", DONE)
    assert "kept for ann" not in shown(operator.get(f"device/{device.pk}/change/"))


def test_lost_is_refused_in_words_when_the_host_still_speaks(operator: Admin, alive: Host) -> None:
    answer = operator.post(f"host/{alive.pk}/lost/", DONE, follow=True)
    assert "gpu-a was heard" in said(answer)[0]


def test_lost_ends_the_attempts_of_a_silent_host(operator: Admin, alive: Host, silent: Host, ann: User) -> None:
    job = make_job(ann)
    make_attempt(job, host="gpu-b", started_at=timezone.now())
    put_into(job, JobState.RUNNING)
    answer = operator.post(f"host/{silent.pk}/lost/", DONE, follow=True)
    assert said(answer) == ["gpu-b is lost; attempts that ended with it: 1."]
    assert job.attempts.get().outcome == "host_lost"
    silent.refresh_from_db()
    assert (silent.state, silent.reason) == ("lost", "was declared lost by olga")


@pytest.mark.parametrize("kind", ["host", "device"])
def test_hosts_and_devices_are_not_written_by_hand(root: User, kind: str) -> None:
    known_host("gpu-a", 24)
    model: type[Host | Device] = Host if kind == "host" else Device
    browser, row = Admin(root), model.objects.get()
    assert browser.get(f"{kind}/add/").status_code == 403
    assert browser.post(f"{kind}/add/", {"name": "gpu-b"}).status_code == 403
    assert browser.post(f"{kind}/{row.pk}/change/", {"name": "other", "state": "up", "drain": "on"}).status_code == 403
    assert browser.post(f"{kind}/{row.pk}/delete/", {"post": "yes"}).status_code == 403
    assert "No action selected." in browser.choose(f"{kind}/", "delete_selected", row, post="yes")
    assert model.objects.values().get() == {field.attname: getattr(row, field.attname) for field in model._meta.concrete_fields}


@pytest.mark.parametrize("page", ["host/", "device/"])
def test_hosts_and_devices_are_shown_without_redis(operator: Admin, settings: Any, page: str) -> None:
    known_host("gpu-a", 24)
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert "gpu-a" in shown(operator.get(page))


# --- people -------------------------------------------------------------------------------------------------------------

NEW = {"username": "new", "role": "submitter", "email": "", "password1": "of the engine", "password2": "of the engine"}


def test_administrators_add_people_who_can_sign_in(chief: User) -> None:
    answer = Admin(chief).post("user/add/", NEW | {"role": "operator"})
    new = User.objects.get(username="new")
    assert answer.url == f"/admin/jobs/user/{new.pk}/change/"
    assert (new.role, new.is_staff, new.is_superuser) == (Role.OPERATOR, True, False)
    assert Client().login(username="new", password="of the engine")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"password1": "short", "password2": "short"}, "password2"),
        ({"password2": "other words"}, "password2"),
        ({"username": "chief"}, "username"),
    ],
)
def test_add_of_people_shows_the_error_beside_its_field(chief: User, fields: dict[str, str], field: str) -> None:
    assert beside(Admin(chief).post("user/add/", NEW | fields), field)
    assert User.objects.count() == 1


def test_role_decides_who_gets_into_the_admin(chief: User, ann: User) -> None:
    browser = Admin(chief)
    for role, staff in ((Role.OPERATOR, True), (Role.VIEWER, False), (Role.ADMIN, True)):
        browser.post(f"user/{ann.pk}/change/", {"username": "ann", "role": role, "is_active": "on"})
        ann.refresh_from_db()
        assert (ann.role, ann.is_staff) == (role, staff)


def test_change_of_a_person_leaves_what_was_not_changed(chief: User, ann: User) -> None:
    sent = {"username": "ann", "role": "submitter", "is_active": "on", "email": "ann@example.org"}
    ann.set_password("of the engine")
    ann.save(update_fields=["password"])
    Admin(chief).post(f"user/{ann.pk}/change/", sent)
    ann.refresh_from_db()
    assert ann.email == "ann@example.org"
    assert ann.check_password("of the engine")


def test_administrators_make_no_superusers_and_touch_none(chief: User, ann: User, root: User) -> None:
    browser = Admin(chief)
    browser.post("user/add/", NEW | {"is_superuser": "on", "is_staff": "on"})
    browser.post(
        f"user/{ann.pk}/change/", {"username": "ann", "role": "submitter", "is_active": "on", "is_superuser": "on", "is_staff": "on"}
    )
    assert set(User.objects.filter(is_superuser=True)) == {root}
    assert set(User.objects.filter(is_staff=True)) == {root, chief}
    assert browser.get(f"user/{root.pk}/change/").status_code == 200
    assert browser.post(f"user/{root.pk}/change/", {"username": "root", "role": "viewer"}).status_code == 403
    assert browser.get(f"user/{root.pk}/password/").status_code == 403
    assert browser.post(f"user/{root.pk}/password/", {"password1": "of the engine", "password2": "of the engine"}).status_code == 403
    assert browser.post(f"user/{root.pk}/delete/", {"post": "yes"}).status_code == 403
    assert browser.choose("user/", "close", root) == ["root is a superuser: only superusers change that account."]
    root.refresh_from_db()
    assert (root.is_active, root.is_superuser, root.has_usable_password()) == (True, True, False)


def test_superusers_make_superusers(root: User, ann: User) -> None:
    Admin(root).post(f"user/{ann.pk}/change/", {"username": "ann", "role": "submitter", "is_active": "on", "is_superuser": "on"})
    ann.refresh_from_db()
    assert (ann.is_superuser, ann.is_staff) == (True, True)


@pytest.mark.parametrize("by", ["chief", "root"])
def test_nobody_takes_or_gives_himself_rights(by: str, request: pytest.FixtureRequest) -> None:
    me: User = request.getfixturevalue(by)
    before = (me.role, me.is_active, me.is_superuser, me.is_staff)
    browser = Admin(me)
    browser.post(f"user/{me.pk}/change/", {"username": by, "role": "viewer", "is_superuser": "on", "email": "me@example.org"}, follow=True)
    assert browser.choose("user/", "close", me) == ["Your own account stays as it is: ask another administrator."]
    assert browser.post(f"user/{me.pk}/delete/", {"post": "yes"}).status_code == 403
    me.refresh_from_db()
    assert (me.role, me.is_active, me.is_superuser, me.is_staff) == before
    assert me.email == "me@example.org"


def test_administrators_set_passwords_by_djangos_form(chief: User, ann: User) -> None:
    browser = Admin(chief)
    assert browser.post(f"user/{ann.pk}/password/", {"password1": "short", "password2": "short"}).status_code == 200
    sent = {"password1": "of the engine", "password2": "of the engine", "usable_password": "true"}
    assert browser.post(f"user/{ann.pk}/password/", sent).status_code == 302
    ann.refresh_from_db()
    assert ann.check_password("of the engine")


def test_who_has_jobs_is_closed_and_not_deleted(chief: User, ann: User) -> None:
    make_job(ann)
    browser, anns = Admin(chief), Admin(ann).client
    assert browser.post(f"user/{ann.pk}/delete/", {"post": "yes"}).status_code == 403
    assert "Delete" not in shown(browser.get(f"user/{ann.pk}/change/"))
    assert browser.choose("user/", "close", ann) == ["Done for one."]
    assert anns.get("/").headers["Location"].startswith("/signin/")
    browser.choose("user/", "reopen", ann)
    assert anns.get("/").status_code == 200
    assert ann.jobs.count() == 1


def test_who_never_had_a_job_can_be_deleted_alone(chief: User, ann: User) -> None:
    browser = Admin(chief)
    assert "No action selected." in browser.choose("user/", "delete_selected", ann, post="yes")
    assert browser.post(f"user/{ann.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not User.objects.filter(username="ann").exists()


def test_job_that_can_be_changed_no_more_is_told_as_it_was_typed(ann: User, olga: User) -> None:
    job = make_job(ann, hosts=["gpu-a", "gpu-b"], env={"A": "<1>", "B": "2"}, time_limit_s=28800, gpu_memory_mib=20480)
    put_into(job, JobState.RUNNING)
    text = shown(Admin(olga).get(f"job/{job.pk}/change/"))
    for told in ("Only on these hosts gpu-a, gpu-b", "Environment variables A=<1> B=2", "Time limit 8h", "20 GiB", "Files it leaves -"):
        assert told in text
