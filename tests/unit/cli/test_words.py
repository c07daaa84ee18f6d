"""Words of the command line client for jobs, devices and refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobs.cli import api, looking, words
from jobs.cli.devices import _user

JOB: dict[str, Any] = {
    "id": 7,
    "state": "running",
    "host": "gpu-a",
    "devices": [{"uuid": "G", "index": 3}],
    "min_gpus": 1,
    "max_gpus": 2,
    "wait_reason": None,
    "progress": None,
    "attempts": [],
    "started_at": "2026-11-26T10:00:00Z",
    "ended_at": None,
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"state": "completed"}, "Job 7 completed."),
        ({"state": "cancelled"}, "Job 7 was cancelled."),
        ({"state": "running"}, "Job 7 is running on gpu-a, GPU 3."),
        ({"state": "queued", "wait_reason": {"code": "Resources", "message": "Needs 1 GPU."}}, "Job 7 is queued: Needs 1 GPU."),
    ],
)
def test_sentence_tells_what_became_of_a_job(changes: dict[str, Any], said: str) -> None:
    assert words.sentence(JOB | changes) == said


def test_gpus_are_those_it_has_and_in_show_those_it_asked_for() -> None:
    assert words.gpus(JOB) == "1"
    facts = dict(looking._facts({name: None for name in FACTS} | JOB | {"hosts": [], "after": [], "max_retries": 0}))
    assert facts["gpus"] == "1-2"
    assert facts["time"]


def test_show_tells_no_time_of_a_job_that_waits_for_its_next_attempt() -> None:
    job = {name: None for name in FACTS} | JOB | {"state": "queued", "hosts": [], "after": [], "max_retries": 0}
    assert dict(looking._facts(job))["time"] == ""


FACTS = (
    *("name", "queue_position", "owner", "command", "working_dir", "gpu_memory_mib", "priority", "environment", "env", "swaps", "notify"),
    *("time_limit_s", "created_at", "begin_at", "exit_code"),
)


def test_process_outside_the_queue_is_told_with_memory_use_and_age() -> None:
    process = {"pid": 737, "user": "root", "command": "python3", "memory_mib": 4706, "utilization_pct": 87.0, "age_s": 65.5, "ours": False}
    assert words.using(process) == "root: python3 (pid 737) 4.6 GiB, 87%, since 1m 05s"
    assert words.using(process | {"user": "", "memory_mib": None, "utilization_pct": None, "age_s": None}) == "?: python3 (pid 737)"
    device = {"state": "busy_external", "processes": [process, process | {"ours": True}], "reason": "Is used.", "simulated": False}
    assert _user(device) == words.using(process)
    assert _user(device | {"state": "drained"}) == "Is used."


def test_refusal_names_options_and_not_the_fields_of_the_api() -> None:
    detail = "shared jobs must say how much they need: give gpu_memory_mib, or min_gpus 0."
    body = json.dumps({"errors": [{"code": "invalid", "detail": detail, "attr": "shared"}]}).encode()
    assert api._sentences(body) == "shared (--shared): shared jobs must say how much they need: give --min-mem, or -g 0."


@pytest.mark.parametrize(
    ("git", "said"),
    [
        (None, ""),
        ({"commit": "", "branch": "", "dirty": None}, ""),
        ({"commit": "0123456789abcdef", "branch": "main", "dirty": False}, "commit 0123456789 of main"),
        ({"commit": "0123456789abcdef", "branch": "", "dirty": True}, "commit 0123456789 with changes"),
    ],
)
def test_attempt_tells_the_commit_of_its_code(git: Any, said: str) -> None:
    attempt = {"number": 1, "outcome": "completed", "host": "gpu-a", "devices": [], "git": git}
    attempt |= {"started_at": "2026-11-26T10:00:00Z", "ended_at": "2026-11-26T10:00:05Z"}
    assert words.commit(attempt) == said
    assert looking._attempt(attempt).endswith(said or "5s")


@pytest.mark.parametrize(
    ("changes", "label", "told"),
    [
        ({"progress": 0.42}, "progress", "42%"),
        ({"state": "queued", "wait_reason": {"code": "Resources", "message": "Needs 1 GPU."}}, "why", "Needs 1 GPU."),
    ],
)
def test_how_far_a_job_is_is_not_called_why(changes: dict[str, Any], label: str, told: str) -> None:
    unset = {"name", "queue_position", "owner", "command", "working_dir", "gpu_memory_mib", "priority", "environment", "env", "max_retries"}
    unset |= {"time_limit_s", "created_at", "begin_at", "exit_code", "notify", "swaps"}
    facts = dict(looking._facts(dict.fromkeys(unset) | {"hosts": [], "after": []} | JOB | changes))
    assert facts[label] == told
    assert len({"progress", "why"} & facts.keys()) == 1
