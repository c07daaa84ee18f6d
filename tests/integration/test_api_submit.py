"""Submitting over REST: what is taken, what is refused and how, and that the same submission twice is one job."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.conf import settings

from jobs.models import Job, JobEvent, User
from jobs.states import JobState, Role
from tests.integration.fakehost import FakeHost
from tests.integration.rest import Rest, errors, known_host, make_attempt, make_job, person, put_into

pytestmark = pytest.mark.django_db


@pytest.fixture
def api(ann: User) -> Rest:
    return Rest(ann)


def test_submit_answers_with_the_whole_job_when_little_is_given(api: Rest) -> None:
    answer = api("POST", "jobs/", {"command": "python train.py --lr 0.1\n"})
    assert answer.status_code == 201, answer.content
    job = answer.json()
    assert job["name"] == "python train.py --lr 0.1"
    assert job["command"] == "python train.py --lr 0.1\n"
    assert job["working_dir"] == str(settings.BASE_DIR)
    assert (job["min_gpus"], job["max_gpus"], job["max_retries"], job["retry_on_oom"]) == (1, 1, 0, True)
    assert (job["state"], job["owner"], job["attempts"], job["devices"], job["host"]) == ("queued", "ann", [], [], None)
    assert job["queue_position"] == 1
    assert answer.headers["Location"].endswith(f"/api/v1/jobs/{job['id']}/")
    assert api("GET", f"jobs/{job['id']}/").json() == job


def test_submit_stores_every_field_when_all_are_given(api: Rest, ann: User) -> None:
    parent = make_job(ann)
    given = {
        "name": "all",
        "command": "echo $A é漢",
        "working_dir": "sub/dir",
        "min_gpus": 0,
        "max_gpus": 3,
        "gpu_memory_mib": 2048,
        "shared": False,
        "max_retries": 3,
        "retry_delay_s": 1.5,
        "retry_on_oom": False,
        "time_limit_s": 3600,
        "priority": -7,
        "begin_at": "2031-05-06T07:08:09+02:00",
        "after": [parent.pk],
        "hosts": ["gpu-a", "not-yet-there"],
        "env": {"A": "b c\nd"},
        "swaps": [{"target": "loss.py", "source": "/data/new_loss.py"}],
        "artifacts": [],
        "notify": [],
        "on_host_loss": "wait",
        "environment": "/envs/torch",
        "hold": True,
    }
    job = api("POST", "jobs/", given).json()
    expected = given | {"working_dir": str(settings.BASE_DIR / "sub/dir"), "begin_at": "2031-05-06T05:08:09Z"}
    assert {name: job[name] for name in given} == expected
    assert (job["state"], job["wait_reason"]["code"]) == ("held", "Held")


def test_submit_reads_a_time_without_zone_in_the_labs_zone(api: Rest, settings: Any) -> None:
    settings.TIME_ZONE = "Asia/Shanghai"
    job = api("POST", "jobs/", {"command": "true", "begin_at": "2031-05-06T07:08"}).json()
    assert job["begin_at"] == "2031-05-05T23:08:00Z"


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"command": ""}, "command", "empty"),
    ({"command": " \n"}, "command", "empty"),
    ({"command": None}, "command", "text"),
    ({"command": 5}, "command", "text"),
    ({"command": "x" * 65_537}, "command", "65536"),
    ({"command": "a\0b"}, "command", "NUL"),
    ({"command": "\ud800"}, "command", "surrogate"),
    ({"name": "a\0"}, "name", "NUL"),
    ({"name": "x" * 201}, "name", "200"),
    ({"name": "a\nb"}, "name", "Line breaks"),
    ({"working_dir": "~/x"}, "working_dir", "whole path"),
    ({"working_dir": "x" * 5000}, "working_dir", "4096"),
    ({"min_gpus": -1}, "min_gpus", "0 or more"),
    ({"min_gpus": 2, "max_gpus": 1}, "max_gpus", "min_gpus"),
    ({"min_gpus": 10**400}, "min_gpus", "at most"),
    ({"min_gpus": 1.5}, "min_gpus", "whole number"),
    ({"min_gpus": True}, "min_gpus", "whole number"),
    ({"max_gpus": "many"}, "max_gpus", "whole number"),
    ({"gpu_memory_mib": -5}, "gpu_memory_mib", "0 or more"),
    ({"gpu_memory_mib": 2**31}, "gpu_memory_mib", "at most"),
    ({"max_retries": -1}, "max_retries", "0 or more"),
    ({"retry_delay_s": -0.5}, "retry_delay_s", "between"),
    ({"retry_delay_s": 1e300}, "retry_delay_s", "between"),
    ({"retry_on_oom": "yes"}, "retry_on_oom", "true or false"),
    ({"time_limit_s": 0}, "time_limit_s", "1 or more"),
    ({"priority": 1001}, "priority", "1000"),
    ({"begin_at": "tomorrow"}, "begin_at", "2027"),
    ({"begin_at": "0001-01-01T00:00:00+14:00"}, "begin_at", "2027"),
    ({"begin_at": "2031-02-30"}, "begin_at", "2027"),
    ({"after": [987654]}, "after", "987654"),
    ({"after": ["x"]}, "after", "whole number"),
    ({"after": 5}, "after", "list"),
    ({"after": [2**63]}, "after", "at most"),
    ({"hosts": ["a b"]}, "hosts", "host name"),
    ({"hosts": "gpu-a"}, "hosts", "list"),
    ({"env": {"A B": "x"}}, "env", "A B"),
    ({"env": {"A": 5}}, "env", "A"),
    ({"env": {"A": "x\0"}}, "env", "NUL"),
    ({"env": {"\udfff": "x"}}, "env", "surrogate"),
    ({"env": ["A=b"]}, "env", "object"),
    ({"env": {f"V{i}": "" for i in range(257)}}, "env", "256"),
    ({"environment": "~x"}, "environment", "whole path"),
    ({"hold": 1}, "hold", "true or false"),
    ({"gpus": 1}, "gpus", "no such field"),
    ({"swaps": {"target": "a", "source": "/b"}}, "swaps", "list"),
    ({"swaps": ["a"]}, "swaps", "list"),
    ({"swaps": [{"target": "a"}]}, "swaps", "either source"),
    ({"swaps": [{"target": "a", "source": "/b", "content": "x"}]}, "swaps", "either source"),
    ({"swaps": [{"source": "/b"}]}, "swaps", "text"),
    ({"swaps": [{"target": "../a", "source": "/b"}]}, "swaps", "lead out"),
    ({"swaps": [{"target": "/a", "source": "/b"}]}, "swaps", "relative"),
    ({"swaps": [{"target": "a", "source": "~/b"}]}, "swaps", "whole path"),
    ({"swaps": [{"target": "a", "source": "/b", "mode": 1}]}, "swaps", "'mode'"),
    ({"swaps": [{"target": "a", "content": 5}]}, "swaps", "text"),
    ({"swaps": [{"target": "a", "content": "x\0"}]}, "swaps", "NUL"),
    ({"swaps": [{"target": "a", "content": "x" * (2**20 + 1)}]}, "swaps", "1048576"),
    ({"swaps": [{"target": "a", "source": "/b"}, {"target": "./a", "content": ""}]}, "swaps", "twice"),
    ({"swaps": [{"target": "a", "source": "/b"}, {"target": "a/b", "content": ""}]}, "swaps", "below another"),
    ({"swaps": [{"target": str(i), "source": "/b"} for i in range(33)]}, "swaps", "32"),
    ({"swaps": [{"target": "a", "sha256": "0" * 64}]}, "swaps", "handed in no content"),
    ({"swaps": [{"target": "a", "sha256": "../x"}]}, "swaps", "64"),
    ({"shared": True}, "shared", "set gpu_memory_mib"),
    ({"artifacts": "*.png"}, "artifacts", "list of patterns"),
    ({"artifacts": ["/etc/passwd"]}, "artifacts", "no pattern of files in the working directory"),
    ({"artifacts": ["a/../../b"]}, "artifacts", "no pattern of files in the working directory"),
    ({"artifacts": ["x" * 301]}, "artifacts", "no pattern"),
    ({"artifacts": ["*"] * 51}, "artifacts", "At most 50"),
    ({"notify": ["not an address"]}, "notify", "is not a mail address"),
    ({"notify": ["a@b.c\r\nBcc: d@e.f"]}, "notify", "is not a mail address"),
    ({"notify": "a@b.c"}, "notify", "list of mail addresses"),
    ({"notify": ["a@b.c"] * 21}, "notify", "At most 20"),
    ({"on_host_loss": "panic"}, "on_host_loss", "wait, requeue"),
]


@pytest.mark.parametrize(("fields", "attr", "said"), BAD, ids=[f"{n}-{attr}" for n, (_, attr, _) in enumerate(BAD)])
def test_submit_is_refused_with_the_field_and_the_mend(api: Rest, fields: dict[str, Any], attr: str, said: str) -> None:
    answer = api("POST", "jobs/", {"command": "true"} | fields)
    assert answer.status_code == 400
    assert said in errors(answer)[attr]
    assert not Job.objects.exists()
    assert not JobEvent.objects.exists()


def test_submit_names_all_wrong_fields_at_once(api: Rest) -> None:
    assert set(errors(api("POST", "jobs/", {"min_gpus": -1, "colour": "red"}))) == {"command", "min_gpus", "colour"}


BODIES: list[tuple[bytes, str]] = [
    (b"", "command"),
    (b"{", "not readable"),
    (b"\xff\xfe", "UTF-8"),
    (b"[1]", "object"),
    (b'"text"', "object"),
    (b"null", "object"),
    (b'{"command": NaN}', "NaN"),
    (b"[" * 100_000, "not readable"),
    (b'{"command": ' + b"1" * 10_000 + b"}", "not readable"),
    (b'{"a\\u0000": 1, "command": "true"}', "NUL"),
    (json.dumps({"command": "x" * 10 * 2**20}).encode(), "5 MiB"),
]


@pytest.mark.parametrize(("body", "said"), BODIES, ids=range(len(BODIES)))
def test_submit_is_refused_when_the_body_cannot_be_read(api: Rest, body: bytes, said: str) -> None:
    answer = api("POST", "jobs/", raw=body)
    assert answer.status_code == 400
    assert said in str(errors(answer))


def test_submit_is_refused_when_the_body_is_no_json(api: Rest) -> None:
    answer = api("POST", "jobs/", raw=b"command=true", content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 415
    assert errors(answer)


def test_submit_is_refused_when_the_role_is_viewer() -> None:
    answer = Rest(person("vic", Role.VIEWER))("POST", "jobs/", {"command": "true"})
    assert answer.status_code == 403
    assert "administrator" in errors(answer)[None]


# --- what the known hosts have ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "attr", "said"),
    [
        ({"min_gpus": 3}, "min_gpus", "the most is 2, on gpu-a"),
        ({"min_gpus": 2, "hosts": ["gpu-b"]}, "min_gpus", "the most is 1, on gpu-b"),
        ({"gpu_memory_mib": 99_999}, "gpu_memory_mib", "48 GiB"),
        ({"min_gpus": 2, "gpu_memory_mib": 30_000}, "min_gpus", "the most is 1, on gpu-b"),
    ],
)
def test_submit_is_refused_when_no_known_host_can_ever_run_it(api: Rest, fields: dict[str, Any], attr: str, said: str) -> None:
    known_host("gpu-a", 24, 24)
    known_host("gpu-b", 48)
    answer = api("POST", "jobs/", {"command": "true"} | fields)
    assert answer.status_code == 400
    assert said in errors(answer)[attr]


@pytest.mark.parametrize("fields", [{}, {"inventory_known": False}, {"device_error": "the driver does not answer"}])
def test_submit_is_taken_when_a_hosts_devices_are_not_known(api: Rest, fields: dict[str, Any]) -> None:
    if fields:
        known_host("gpu-a", 24, **fields)
    assert api("POST", "jobs/", {"command": "true", "min_gpus": 8, "gpu_memory_mib": 90_000}).status_code == 201


def test_submit_is_taken_when_a_host_has_just_told_its_devices(host: FakeHost, ada: User) -> None:
    known_host("gpu-b", 8)
    answer = Rest(ada)("POST", "jobs/", {"command": "true", "min_gpus": 2, "gpu_memory_mib": 20_000})
    assert answer.status_code == 201, answer.content  # gpu-a's row knows nothing yet, its heartbeat does
    assert "24 GiB" in errors(Rest(ada)("POST", "jobs/", {"command": "true", "gpu_memory_mib": 30_000}))["gpu_memory_mib"]


def test_submit_is_refused_when_it_names_a_host_that_nobody_knows(api: Rest) -> None:
    assert api("POST", "jobs/", {"command": "true", "hosts": ["gpu-z"]}).status_code == 201  # no host has joined: any may
    known_host("gpu-a", 24)
    assert "gpu-z. Known are gpu-a" in errors(api("POST", "jobs/", {"command": "true", "hosts": ["gpu-a", "gpu-z"]}))["hosts"]


def test_submit_shares_only_with_a_number_of_the_memory_that_it_uses(api: Rest) -> None:
    job = api("POST", "jobs/", {"command": "true", "shared": True, "gpu_memory_mib": 4096}).json()
    assert (job["shared"], job["gpu_memory_mib"]) == (True, 4096)
    assert "set gpu_memory_mib" in errors(api("PATCH", f"jobs/{job['id']}/", {"gpu_memory_mib": 0}))["gpu_memory_mib"]
    assert api("PATCH", f"jobs/{job['id']}/", {"gpu_memory_mib": 0, "shared": False}).status_code == 200


def test_submit_needs_no_device_when_it_asks_for_none(api: Rest) -> None:
    known_host("cpu-a")
    assert api("POST", "jobs/", {"command": "true", "min_gpus": 0}).status_code == 201
    assert "ask for 0" in errors(api("POST", "jobs/", {"command": "true"}))["min_gpus"]


# --- after --------------------------------------------------------------------------------------------------------------


def test_submit_is_refused_when_it_waits_for_a_job_that_failed(api: Rest, ann: User) -> None:
    parent = make_job(ann)
    put_into(parent, JobState.FAILED)
    assert f"Job {parent.pk} did not complete" in errors(api("POST", "jobs/", {"command": "true", "after": [parent.pk]}))["after"]


def test_edit_is_refused_when_jobs_would_wait_for_each_other(api: Rest, ann: User) -> None:
    first = make_job(ann)
    second = make_job(ann, after=[first])
    third = make_job(ann, after=[second])
    for parent, said in ((third, f"Job {third.pk} would wait for job {first.pk}"), (first, "itself")):
        answer = api("PATCH", f"jobs/{first.pk}/", {"after": [parent.pk]})
        assert answer.status_code == 400
        assert said in errors(answer)["after"]
    assert api("PATCH", f"jobs/{third.pk}/", {"after": [first.pk]}).json()["after"] == [first.pk]


# --- edit ---------------------------------------------------------------------------------------------------------------


def test_edit_changes_what_is_given_and_tells_it(api: Rest, ann: User) -> None:
    job = make_job(ann, min_gpus=1, max_gpus=2)
    changed = api("PATCH", f"jobs/{job.pk}/", {"name": "new", "priority": 5, "min_gpus": 2, "begin_at": None, "env": {"A": "1"}}).json()
    assert (changed["name"], changed["priority"], changed["min_gpus"], changed["max_gpus"], changed["env"]) == ("new", 5, 2, 2, {"A": "1"})
    assert changed["command"] == "true"
    assert job.events.last().type == "edited"  # type: ignore[union-attr]


@pytest.mark.parametrize("body", [{"min_gpus": 3}, {"hold": True}, {"state": "completed"}, {"command": ""}, {"owner": "bob"}])
def test_edit_is_refused_with_the_field(api: Rest, ann: User, body: dict[str, Any]) -> None:
    job = make_job(ann)
    answer = api("PATCH", f"jobs/{job.pk}/", body)
    assert answer.status_code == 400
    assert job.events.count() == 1


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.STARTING, JobState.COMPLETED, JobState.QUEUED])
def test_edit_is_a_conflict_when_the_job_has_been_started(api: Rest, ann: User, state: JobState) -> None:
    job = make_job(ann)
    make_attempt(job, outcome="" if state in (JobState.RUNNING, JobState.STARTING) else "failed")
    put_into(job, state)
    answer = api("PATCH", f"jobs/{job.pk}/", {"name": "late"})
    assert answer.status_code == 409
    assert str(state) in errors(answer)[None]


# --- once ---------------------------------------------------------------------------------------------------------------


def test_submit_twice_is_one_job_when_the_key_is_the_same(api: Rest) -> None:
    first = api("POST", "jobs/", {"command": "true", "name": "a"}, idempotency_key="k1")
    again = api("POST", "jobs/", {"name": "a", "command": "true"}, idempotency_key="k1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert Job.objects.count() == 1


def test_submit_is_a_conflict_when_the_key_was_used_for_another_body(api: Rest) -> None:
    first = api("POST", "jobs/", {"command": "true"}, idempotency_key="k1").json()
    answer = api("POST", "jobs/", {"command": "false"}, idempotency_key="k1")
    assert answer.status_code == 409
    assert str(first["id"]) in errors(answer)[None]


def test_submit_is_a_job_of_its_own_when_another_person_used_the_key(api: Rest) -> None:
    bob = Rest(person("bob"))
    ids = {who("POST", "jobs/", {"command": "true"}, idempotency_key="k1").json()["id"] for who in (api, bob)}
    assert len(ids) == 2


def test_submit_can_be_mended_when_the_key_was_refused_before(api: Rest) -> None:
    assert api("POST", "jobs/", {"command": ""}, idempotency_key="k1").status_code == 400
    assert api("POST", "jobs/", {"command": "true"}, idempotency_key="k1").status_code == 201
