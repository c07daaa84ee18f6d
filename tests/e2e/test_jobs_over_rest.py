"""What a script that submits jobs may rely on, through the whole product."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.product import Product
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

DEVICES = "sim:2x24GiB"


def ended(product: Product, command: str, **fields: Any) -> dict[str, Any]:
    return product.wait(product.submit(command, **fields)["id"])


def environment_of(product: Product, **fields: Any) -> dict[str, str]:
    """What a command sees in its environment."""
    job = ended(product, "env -0 > $AUTOTRAINER_JOB_ID.env", **fields)
    assert job["state"] == "completed", job
    text = (product.work / f"{job['id']}.env").read_text()
    return dict(line.split("=", 1) for line in text.split("\0") if line)


def test_command_sees_its_devices_and_its_job_and_none_of_our_secrets(product: Product) -> None:
    seen = environment_of(product, name="looks around", env={"MINE": "yes", "CUDA_VISIBLE_DEVICES": "7"})
    job_id = int(seen["AUTOTRAINER_JOB_ID"])
    attempt = product.job(job_id)["attempts"][0]
    assert seen["CUDA_VISIBLE_DEVICES"] == str(attempt["devices"][0]["index"])
    assert seen["AUTOTRAINER_GPU_UUIDS"] == attempt["devices"][0]["uuid"]
    assert (seen["AUTOTRAINER_JOB_NAME"], seen["AUTOTRAINER_ATTEMPT"], seen["AUTOTRAINER_HOST"]) == ("looks around", "1", attempt["host"])
    assert (seen["CUDA_DEVICE_ORDER"], seen["PYTHONUNBUFFERED"], seen["MINE"]) == ("PCI_BUS_ID", "1", "yes")
    given = {"AUTOTRAINER_" + n for n in ("JOB_ID", "JOB_NAME", "ATTEMPT", "GPU_UUIDS", "HOST", "MAIL", "MARK", "SIM_DIR")}
    assert {name for name in seen if name.startswith(("AUTOTRAINER_", "DJANGO_", "CELERY_", "FLOWER_", "SUPERVISOR_"))} <= given


def test_job_gets_as_many_devices_as_it_asked_for(product: Product) -> None:
    assert environment_of(product, min_gpus=2, max_gpus=2)["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert environment_of(product, min_gpus=0, max_gpus=0)["CUDA_VISIBLE_DEVICES"] == ""


def test_jobs_that_share_are_on_one_device_and_one_that_does_not_is_not(product: Product) -> None:
    gate = product.work / "sharers-go"
    script = f"while [ ! -e {gate} ]; do sleep 0.05; done; echo $CUDA_VISIBLE_DEVICES"
    sharing = [product.submit(script, shared=True, gpu_memory_mib=8 * 1024)["id"] for _ in range(3)]
    alone = product.submit(script)["id"]
    for job in (*sharing, alone):
        product.wait(job, "running")
    devices = product.api("GET", "devices/")["results"]
    assert sorted([device["jobs"], device["job"]] for device in devices) == sorted([[sharing, sharing[0]], [[alone], alone]])
    fourth = product.submit("true", shared=True, gpu_memory_mib=1024, min_gpus=2, max_gpus=2)["id"]
    waits = wait_until(lambda: product.job(fourth)["wait_reason"], 10, "a reason")
    assert "leave 0 MiB to share" in waits["message"]
    gate.touch()
    for job in (*sharing, alone, fourth):
        assert product.wait(job)["exit_code"] == 0
    assert len({product.log(job) for job in sharing}) == 1


def test_missing_working_directory_is_launch_failed_and_names_the_path(product: Product) -> None:
    job = ended(product, "true", working_dir=str(product.work / "nowhere"))
    assert (job["state"], job["attempts"][0]["outcome"]) == ("failed", "launch_failed")
    assert any(str(product.work / "nowhere") in event["message"] for event in product.events(job["id"]))


def test_unknown_command_is_a_failed_attempt_with_the_words_of_the_shell(product: Product) -> None:
    job = ended(product, "no-such-program-here --fast")
    assert (job["state"], job["exit_code"], job["attempts"][0]["outcome"]) == ("failed", 127, "failed")
    assert b"no-such-program-here" in product.log(job["id"])


def test_signal_that_ends_the_command_is_told_beside_the_exit_code(product: Product) -> None:
    attempt = ended(product, "kill -9 $$")["attempts"][0]
    assert (attempt["outcome"], attempt["exit_code"], attempt["signal"]) == ("failed", None, 9)


def test_retries_stop_at_the_first_success(product: Product) -> None:
    job = ended(product, "echo attempt $AUTOTRAINER_ATTEMPT; test $AUTOTRAINER_ATTEMPT = 2", max_retries=5, retry_delay_s=0.1)
    assert [a["outcome"] for a in job["attempts"]] == ["failed", "completed"]
    assert (job["state"], job["exit_code"]) == ("completed", 0)
    assert [product.log(job["id"], number) for number in (1, 2)] == [b"attempt 1\n", b"attempt 2\n"]


def test_time_limit_ends_the_tree_and_is_not_retried(product: Product) -> None:
    job = ended(product, "sleep 600 & sleep 600", time_limit_s=1, max_retries=3)
    assert (job["state"], [a["outcome"] for a in job["attempts"]]) == ("failed", ["timed_out"])
    assert product.trainings(job["id"]) == []


def test_what_a_command_leaves_running_is_ended_with_it(product: Product) -> None:
    job = ended(product, "setsid sh -c 'sleep 600' & setsid sleep 600 & echo bye")
    assert (job["state"], product.log(job["id"])) == ("completed", b"bye\n")
    assert product.trainings(job["id"]) == []


def test_held_job_starts_when_it_is_released_and_can_be_changed_before(product: Product) -> None:
    job = product.submit("echo before", hold=True)
    assert (job["state"], job["wait_reason"]["code"]) == ("held", "Held")
    product.api("PATCH", f"jobs/{job['id']}/", {"command": "echo after"})
    product.api("POST", f"jobs/{job['id']}/release/")
    product.wait(job["id"], "completed")
    assert product.log(job["id"]) == b"after\n"
    assert product.request("PATCH", f"jobs/{job['id']}/", {"command": "echo too late"})[0] == 409


def test_jobs_never_run_beside_each_other_on_one_device(product: Product) -> None:
    diary = product.work / "diary"
    command = f"echo start $CUDA_VISIBLE_DEVICES >> {diary}; sleep 0.05; echo end $CUDA_VISIBLE_DEVICES >> {diary}"
    jobs = [product.submit(command, name=f"crowd {i}")["id"] for i in range(12)]
    assert [product.wait(job)["state"] for job in jobs] == ["completed"] * 12
    holding = set[str]()
    for line in diary.read_text().splitlines():
        word, mask = line.split()
        assert (mask in holding) == (word == "end"), diary.read_text()
        holding ^= {mask}
    assert holding == set()


def test_higher_priority_starts_first(product: Product) -> None:
    gate = product.work / "both-held"
    blockers = [product.submit(f"until test -e {gate}; do sleep 0.05; done", min_gpus=2, max_gpus=2)["id"]]
    product.wait(blockers[0], "running")
    low, high = (product.submit("true", priority=p, min_gpus=2, max_gpus=2)["id"] for p in (0, 5))
    wait_until(lambda: product.job(low)["queue_position"] == 2, 10, "the second place")
    gate.touch()
    assert product.wait(high)["started_at"] <= product.wait(low)["started_at"]


def test_health_pages_say_yes(product: Product) -> None:
    assert [product.request("GET", path)[0] for path in ("/healthz", "/readyz")] == [200, 200]
