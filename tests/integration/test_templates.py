"""Templates of jobs: kept from the form, which they fill again; one's own alone; the same over REST."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from jobs import jobtemplates
from jobs.models import AuditEntry, Job, JobTemplate, User
from jobs.states import Role
from tests.integration.rest import Rest, errors, known_host, person

pytestmark = pytest.mark.django_db

TYPED = {
    "name": "resnet",
    "command": "python train.py\r\n--lr 0.1",
    "min_gpus": "1",
    "max_gpus": "2",
    "gpu_memory_mib": "20 GiB",
    "time_limit_s": "90m",
    "priority": "3",
    "begin_at": "2031-05-06T07:08",
    "zone": "Asia/Shanghai",
    "env": "A=1\r\nB=b c",
    "hosts": "gpu-a",
    "notify": "ada@example.org",
    "shared": "on",
    "swap_target_1": "loss.py",
    "swap_source_1": "/data/loss.py",
}
FIELDS = {"command": "python t.py", "min_gpus": 2}


@pytest.fixture
def page(ann: User) -> Any:
    return signed_in(ann)


def signed_in(user: User) -> Any:
    client: Any = Client()
    client.force_login(user)
    return client


def save(page: Any, **typed: Any) -> Any:
    return page.post("/jobs/new/", TYPED | {"save_template": "1"} | typed)


def values(answer: Any) -> dict[str, str]:
    return {bound.input.name: bound.value for bound in [*answer.context["inputs"], *answer.context["folded"]]}


def problems(answer: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = answer.context["errors"]
    return found


# --- the pages ----------------------------------------------------------------------------------------------------------


def test_what_is_in_the_form_is_kept_and_fills_it_again(page: Any) -> None:
    answer = save(page, template_name="nightly  run")
    assert answer.headers["Location"] == "/jobs/new/?template=nightly+run"
    assert not Job.objects.exists()
    kept = JobTemplate.objects.get().fields
    assert (kept["min_gpus"], kept["time_limit_s"], kept["shared"], kept["hosts"]) == (1, 5400, True, ["gpu-a"])
    known_host("gpu-a", 24, 24)
    filled = page.get(answer.headers["Location"])
    assert "Kept as the template “nightly run”." in filled.content.decode()
    again = values(filled)
    for name in ("name", "min_gpus", "max_gpus", "gpu_memory_mib", "time_limit_s", "priority", "hosts", "notify", "shared"):
        assert again[name] == TYPED[name].replace("90m", "90m")
    assert (again["command"], again["env"]) == ("python train.py\n--lr 0.1", "A=1\nB=b c")
    assert again["begin_at"] == "2031-05-06T07:08:00+08:00"
    assert again["retry_on_oom"] == ""
    assert [(row.target, row.source) for row in filled.context["swap_rows"]] == [("loss.py", "/data/loss.py")]
    assert problems(filled) == {}
    assert page.post("/jobs/new/", {**TYPED, **again}).status_code == 302
    job = Job.objects.get()
    assert (job.gpu_memory_mib, job.time_limit_s, job.env, job.shared) == (20480, 5400, {"A": "1", "B": "b c"}, True)


def test_template_of_the_same_name_is_replaced_and_that_is_said(page: Any, ann: User) -> None:
    save(page)
    answer = page.post("/jobs/new/", TYPED | {"command": "true", "save_template": "1"}, follow=True)
    assert "The template “resnet” is replaced." in answer.content.decode()
    assert jobtemplates.of(ann).get().fields["command"] == "true"


def test_contents_of_swapped_files_are_not_kept_and_stay_in_the_form(page: Any, ann: User) -> None:
    new = SimpleUploadedFile("new.py", b"x = 1\n")
    answer = save(page, swap_target_2="a.py", swap_content_2="y = 2", swap_target_3="b.py", swap_file_3=new)
    assert answer.status_code == 200
    assert "contents of swapped files are not in it" in answer.content.decode()
    assert [row.content for row in answer.context["swap_rows"]] == ["", "y = 2", "x = 1\n"]
    assert jobtemplates.of(ann).get().fields["swaps"] == [{"target": "loss.py", "source": "/data/loss.py"}]


@pytest.mark.parametrize(
    ("typed", "field"),
    [
        ({"time_limit_s": "soon"}, "time_limit_s"),
        ({"min_gpus": "many"}, "min_gpus"),
        ({"name": "", "template_name": " "}, "template_name"),
        ({"template_name": "x" * 81}, "template_name"),
        ({"template_name": "a\x01b"}, "template_name"),
    ],
)
def test_template_that_cannot_be_kept_is_refused_beside_the_field(page: Any, typed: dict[str, str], field: str) -> None:
    answer = save(page, **typed)
    assert answer.status_code == 400
    assert list(problems(answer)) == [field]
    assert "No template was kept" in answer.content.decode()
    assert f'id="error_{field}"' in answer.content.decode()
    assert not JobTemplate.objects.exists()


def test_form_is_filled_with_what_it_can_when_a_value_is_not_accepted_any_more(page: Any, ann: User) -> None:
    save(page, command="")
    known_host("gpu-b", 8)
    JobTemplate.objects.update(fields=jobtemplates.of(ann).get().fields | {"time_limit_s": [1], "colour": "red", "env": 7})
    answer = page.get("/jobs/new/", {"template": "resnet", "name": "other"})
    assert "3 fields of this template are not accepted any more" in answer.content.decode()
    assert set(problems(answer)) == {"hosts", "time_limit_s", "env"}
    assert (values(answer)["name"], values(answer)["hosts"], values(answer)["env"]) == ("other", "gpu-a", "7")


def test_template_is_found_by_name_and_by_number_and_said_where_there_is_none(page: Any, ann: User) -> None:
    made = jobtemplates.make(ann, name="a/b & c", given=FIELDS)
    for wanted in (made.name, str(made.pk)):
        assert values(page.get("/jobs/new/", {"template": wanted}))["max_gpus"] == "2"
    answer = page.get("/jobs/new/", {"template": "gone\0"})
    assert answer.status_code == 200
    assert "You have no template called" in answer.content.decode()


def test_page_renames_and_deletes(page: Any, ann: User) -> None:
    one, two = (jobtemplates.make(ann, name=name, given=FIELDS) for name in ("one", "two"))
    answer = page.post("/jobs/templates/", {"rename": one.pk, f"name_{one.pk}": " uno ", f"name_{two.pk}": "x"}, follow=True)
    assert "called “uno” now" in answer.content.decode()
    refused = page.post("/jobs/templates/", {"rename": one.pk, f"name_{one.pk}": "two"})
    assert (refused.status_code, "another name" in refused.content.decode()) == (400, True)
    page.post("/jobs/templates/", {"delete": two.pk})
    assert [each.name for each in jobtemplates.of(ann)] == ["uno"]


def test_nobody_sees_or_changes_the_templates_of_others(ann: User) -> None:
    made = jobtemplates.make(ann, name="secret", given=FIELDS)
    admin = person("root", Role.ADMIN)
    theirs, api = signed_in(admin), Rest(admin)
    for wanted in ("secret", made.pk):
        assert "python t.py" not in theirs.get("/jobs/new/", {"template": wanted}).content.decode()
    for typed in ({"delete": made.pk}, {"rename": made.pk, f"name_{made.pk}": "x"}):
        theirs.post("/jobs/templates/", typed)
    assert "python t.py" not in theirs.get("/jobs/templates/").content.decode()
    assert api("GET", "templates/").json()["count"] == 0
    for method in ("GET", "PATCH", "DELETE"):
        assert api(method, f"templates/{made.pk}/", {} if method == "PATCH" else None).status_code == 404
    assert jobtemplates.of(ann).get().name == "secret"


def test_templates_are_for_those_who_may_submit() -> None:
    viewer = person("vic", Role.VIEWER)
    assert signed_in(viewer).get("/jobs/templates/").status_code == 403
    assert Rest(viewer)("POST", "templates/", {"name": "x", "fields": FIELDS}).status_code == 403


# --- REST ---------------------------------------------------------------------------------------------------------------


def test_template_is_made_read_changed_and_deleted_over_rest(ann: User) -> None:
    api = Rest(ann)
    made = api("POST", "templates/", {"name": "t", "fields": FIELDS})
    assert made.status_code == 201
    path = made.headers["Location"].removeprefix("http://testserver/api/v1/")
    read = api("GET", path)
    assert (read.json(), read.headers["ETag"]) == (made.json(), made.headers["ETag"])
    changed = api("PATCH", path, {"name": "u"}, If_Match=read.headers["ETag"])
    assert (changed.json()["name"], changed.json()["fields"]) == ("u", FIELDS)
    stale = api("PATCH", path, {"fields": {}}, If_Match=read.headers["ETag"])
    assert (stale.status_code, api("GET", path).json()["fields"]) == (412, FIELDS)
    assert api("GET", "templates/?name=u").json()["results"] == [changed.json()]
    assert api("GET", "templates/?name=t").json()["count"] == 0
    assert api("DELETE", path).status_code == 204
    assert api("GET", path).status_code == 404
    told = list(AuditEntry.objects.order_by("id").values_list("act", "about", "target", "via"))
    assert told == [("made", "template", "t", "api"), ("changed", "template", "u", "api"), ("deleted", "template", "u", "api")]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"fields": {}}, "name"),
        ({"name": "", "fields": {}}, "name"),
        ({"name": 7, "fields": {}}, "name"),
        ({"name": "taken", "fields": {}}, "name"),
        ({"name": "x"}, "fields"),
        ({"name": "x", "fields": []}, "fields"),
        ({"name": "x", "fields": {"colour": 1}}, "fields.colour"),
        ({"name": "x", "fields": {"min_gpus": "many"}}, "fields.min_gpus"),
        ({"name": "x", "fields": {"swaps": [{"target": "a", "content": "b"}]}}, "fields.swaps"),
        ({"name": "x", "fields": {}, "owner": "bob"}, "owner"),
    ],
)
def test_template_that_makes_no_sense_is_refused_with_its_field(ann: User, body: dict[str, Any], field: str) -> None:
    jobtemplates.make(ann, name="taken", given={})
    answer = Rest(ann)("POST", "templates/", body)
    assert answer.status_code == 400
    assert field in errors(answer)
    assert JobTemplate.objects.count() == 1


def test_nobody_has_too_many(ann: User, page: Any) -> None:
    for number in range(jobtemplates.MOST):
        jobtemplates.make(ann, name=str(number), given={})
    assert "delete one first" in errors(Rest(ann)("POST", "templates/", {"name": "x", "fields": {}}))["name"]
    assert "delete one first" in problems(save(page))["template_name"][0]
    assert save(page, template_name="7").status_code == 302
