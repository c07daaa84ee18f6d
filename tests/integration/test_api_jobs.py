"""Looking at jobs and doing things to them over REST."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.test.utils import CaptureQueriesContext
from rest_framework.fields import Field

from jobs.api import schemas
from jobs.models import Job, User
from jobs.states import JobState
from tests.integration.rest import Rest, errors, make_attempt, make_job, person, put_into

pytestmark = pytest.mark.django_db


@pytest.fixture
def api(ann: User) -> Rest:
    return Rest(ann)


def test_job_tells_of_its_attempts_and_shows_the_last_ones_devices(api: Rest, ann: User) -> None:
    job = make_job(ann, max_retries=1)
    at = datetime(2031, 5, 6, 7, 8, 9, 123456, UTC)
    first = {
        "outcome": "failed",
        "exit_code": 3,
        "started_at": at,
        "ended_at": at,
        "log_bytes": 10,
        "peak_memory_mib": 700,
        "log_removed_at": None,
        "devices": [{"uuid": "GPU-1", "index": 1}],
    }
    make_attempt(job, 1, **first)
    make_attempt(job, 2, host="gpu-b", devices=[{"uuid": "GPU-2", "index": 0}])
    put_into(job, JobState.RUNNING, exit_code=3)
    body = api("GET", f"jobs/{job.pk}/").json()
    assert (body["host"], body["devices"], body["exit_code"]) == ("gpu-b", [{"uuid": "GPU-2", "index": 0}], 3)
    assert body["attempts"][0] == first | {
        "number": 1,
        "host": "gpu-a",
        "signal": None,
        "oom_detected": False,
        "message": "",
        "git": None,
        "started_at": "2031-05-06T07:08:09.123456Z",
        "ended_at": "2031-05-06T07:08:09.123456Z",
    }
    assert [a["outcome"] for a in body["attempts"]] == ["failed", None]


def test_answers_have_the_fields_that_the_schema_tells(api: Rest, ann: User) -> None:
    job = make_job(ann)
    make_attempt(job)
    body = api("GET", f"jobs/{job.pk}/").json()
    assert set(body) == _named(schemas.JobBody)
    assert set(body["attempts"][0]) == _named(schemas.AttemptBody)
    assert set(api("GET", f"jobs/{job.pk}/events/").json()["results"][0]) == _named(schemas.EventBody)


def _named(kind: type[schemas.Body]) -> set[str]:
    fields: dict[str, Field[Any, Any, Any, Any]] = kind().fields
    return set(fields)


def test_list_is_the_whole_queue_in_pages(api: Rest, ann: User) -> None:
    ids = [make_job(person(f"p{n}")).pk for n in range(5)]
    page = api("GET", "jobs/?limit=2&offset=1").json()
    assert (page["count"], [job["id"] for job in page["results"]]) == (5, [ids[3], ids[2]])
    assert "offset=3" in page["next"]
    assert "limit=2" in page["previous"]
    for query, found in (("limit=2&offset=3", 2), ("limit=2&offset=4", 1), ("offset=5", 0), ("offset=99", 0), ("search=nobody", 0)):
        page = api("GET", f"jobs/?{query}").json()
        assert (page["count"], len(page["results"])) == (0 if "search" in query else 5, found), query


def test_list_takes_as_many_queries_for_many_jobs_as_for_few(api: Rest, ann: User, django_assert_max_num_queries: Any) -> None:
    parent = make_job(ann)
    for _ in range(30):
        make_attempt(make_job(ann, after=[parent]))
    api("GET", "jobs/?limit=1")  # a token's first request asks, too, whether it is a personal one
    with django_assert_max_num_queries(10) as queries:
        assert len(api("GET", "jobs/").json()["results"]) == 31
    assert isinstance(queries, CaptureQueriesContext)


def test_list_is_filtered_by_state_owner_and_words(api: Rest, ann: User) -> None:
    running, queued = make_job(ann, name="resnet", command="python a.py"), make_job(ann, name="bert")
    held, bobs = make_job(ann, hold=True, name="held"), make_job(person("bob"), name="bobs", command="python a.py")
    put_into(running, JobState.RUNNING)

    def ids(query: str) -> set[int]:
        return {job["id"] for job in api("GET", f"jobs/?{query}").json()["results"]}

    assert ids("state=running,held") == {running.pk, held.pk}
    assert ids("owner=bob") == {bobs.pk}
    assert ids("search=RESN") == {running.pk}
    assert ids("search=a.py") == {running.pk}
    assert ids(f"search=%23{queued.pk}") == {queued.pk}
    assert [job["id"] for job in api("GET", "jobs/?ordering=name").json()["results"]] == [queued.pk, bobs.pk, held.pk, running.pk]


@pytest.mark.parametrize(
    ("query", "attr"),
    [("state=flying", "state"), ("ordering=command", "ordering"), ("limit=x", "limit"), ("offset=-1", "offset"), ("search=%00", "search")],
)
def test_list_is_400_with_the_parameter_when_it_makes_no_sense(api: Rest, query: str, attr: str) -> None:
    answer = api("GET", f"jobs/?{query}")
    assert answer.status_code == 400
    assert attr in errors(answer)


def test_queue_position_is_the_place_in_line(api: Rest, ann: User) -> None:
    later, first = make_job(ann), make_job(ann, priority=5)
    held = make_job(ann, hold=True)
    places = {job["id"]: job["queue_position"] for job in api("GET", "jobs/").json()["results"]}
    assert places == {first.pk: 1, later.pk: 2, held.pk: None}


def test_events_are_sentences_oldest_first(api: Rest, ann: User) -> None:
    job = make_job(ann)
    api("POST", f"jobs/{job.pk}/hold/")
    told = api("GET", f"jobs/{job.pk}/events/").json()["results"]
    assert [(e["type"], e["actor"], e["message"]) for e in told] == [
        ("submitted", "ann", "Submitted by ann."),
        ("held", "ann", "Held by ann."),
    ]


@pytest.mark.parametrize(
    ("action", "before", "after"),
    [
        ("hold", JobState.QUEUED, JobState.HELD),
        ("release", JobState.HELD, JobState.QUEUED),
        ("cancel", JobState.QUEUED, JobState.CANCELLED),
        ("cancel", JobState.HELD, JobState.CANCELLED),
        ("cancel", JobState.RUNNING, JobState.STOPPING),
        ("cancel", JobState.STOPPING, JobState.STOPPING),
    ],
)
def test_action_answers_with_the_job_as_it_is_then(api: Rest, ann: User, action: str, before: JobState, after: JobState) -> None:
    job = make_job(ann)
    put_into(job, before)
    answer = api("POST", f"jobs/{job.pk}/{action}/")
    assert (answer.status_code, answer.json()["state"]) == (200, after)


@pytest.mark.parametrize(
    ("action", "state"),
    [(a, s) for a, s in (("hold", "running"), ("hold", "held"), ("release", "queued"), ("cancel", "completed"), ("cancel", "cancelled"))],
)
def test_action_is_a_conflict_in_words_when_the_state_does_not_allow_it(api: Rest, ann: User, action: str, state: str) -> None:
    job = make_job(ann)
    put_into(job, JobState(state))
    answer = api("POST", f"jobs/{job.pk}/{action}/")
    assert answer.status_code == 409
    assert errors(answer)[None].startswith(f"Job {job.pk} is {state}; ")


def test_action_is_refused_when_it_is_given_what_it_does_not_know(api: Rest, ann: User) -> None:
    job = make_job(ann)
    assert "reason" in errors(api("POST", f"jobs/{job.pk}/cancel/", {"reason": "x"}))
    job.refresh_from_db()
    assert job.state == JobState.QUEUED


def test_resubmit_is_a_new_job_like_the_old_one(api: Rest, ann: User) -> None:
    old = make_job(ann, command="echo hi", env={"A": "1"}, max_retries=2)
    put_into(old, JobState.FAILED)
    answer = api("POST", f"jobs/{old.pk}/resubmit/")
    assert answer.status_code == 201
    new = answer.json()
    assert (new["command"], new["env"], new["max_retries"], new["state"]) == ("echo hi", {"A": "1"}, 2, "queued")
    assert Job.objects.count() == 2


# --- edits on top of each other -----------------------------------------------------------------------------------------


def test_edit_on_top_of_another_is_refused_when_the_job_is_not_what_was_read(api: Rest, ann: User) -> None:
    job = make_job(ann)
    first = api("GET", f"jobs/{job.pk}/").headers["ETag"]
    edited = api("PATCH", f"jobs/{job.pk}/", {"priority": 4}, If_Match=first)
    assert edited.status_code == 200
    late = api("PATCH", f"jobs/{job.pk}/", {"name": "late"}, If_Match=first)
    assert (late.status_code, late.json()["errors"][0]["code"]) == (412, "changed")
    assert errors(late)[None].startswith(f"Job {job.pk} was changed after you read it")
    again = api("PATCH", f"jobs/{job.pk}/", {"name": "late"}, If_Match=f'"other", {edited.headers["ETag"]}')
    assert (again.status_code, again.json()["name"], again.json()["priority"]) == (200, "late", 4)
    assert again.headers["ETag"] == api("GET", f"jobs/{job.pk}/").headers["ETag"] != edited.headers["ETag"]


def test_edit_without_a_condition_or_on_whatever_there_is_is_as_before(api: Rest, ann: User) -> None:
    job = make_job(ann)
    assert api("PATCH", f"jobs/{job.pk}/", {"priority": 4}).status_code == 200
    assert api("PATCH", f"jobs/{job.pk}/", {"priority": 5}, If_Match="*").status_code == 200


@pytest.mark.parametrize("bad", ["abc", '"a', "W/x", '"a" "b"', '"é"', '"' + "x" * 2000 + '"'])
def test_condition_that_cannot_be_read_is_a_400_that_names_it(api: Rest, ann: User, bad: str) -> None:
    job = make_job(ann)
    assert "If-Match" in errors(api("PATCH", f"jobs/{job.pk}/", {"priority": 4}, If_Match=bad))


def test_weak_etag_is_no_condition_that_holds(api: Rest, ann: User) -> None:
    tag = api("GET", f"jobs/{make_job(ann).pk}/").headers["ETag"]
    assert api("PATCH", f"jobs/{Job.objects.get().pk}/", {"priority": 4}, If_Match=f"W/{tag}").status_code == 412


def test_etag_is_not_moved_by_what_moves_by_itself_and_says_nothing_to_others(api: Rest, ann: User) -> None:
    job = make_job(ann)
    tag = api("GET", f"jobs/{job.pk}/").headers["ETag"]
    Job.objects.filter(pk=job.pk).update(wait_code="Resources", wait_message="later", progress=0.3)
    assert api("GET", f"jobs/{job.pk}/").headers["ETag"] == tag
    assert "ETag" not in Rest(person("bob"))("GET", f"jobs/{job.pk}/").headers
    Job.objects.filter(pk=job.pk).update(command="false")
    assert api("GET", f"jobs/{job.pk}/").headers["ETag"] != tag


def test_etag_changes_with_what_it_waits_for(api: Rest, ann: User) -> None:
    parent, job = make_job(ann), make_job(ann)
    tag = api("GET", f"jobs/{job.pk}/").headers["ETag"]
    assert api("PATCH", f"jobs/{job.pk}/", {"after": [parent.pk]}).headers["ETag"] != tag
