"""The product as a user starts it, on a real GPU, with trainings that PyTorch runs there. Skipped where either is missing."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.product import Product
from tests.gpu.test_nvml_real import read
from tests.waiting import wait_until

pytestmark = pytest.mark.gpu

PROGRAMS = {
    "train.py": """
        import os, sys, time
        import torch
        print("sees", torch.cuda.device_count(), "by", os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
        held = torch.ones(3 * 2**30, dtype=torch.uint8, device="cuda")
        weights, until, step = torch.randn(4096, 4096, device="cuda"), time.time() + float(sys.argv[1]), 0
        while time.time() < until:
            weights = torch.nn.functional.normalize(weights @ weights)
            torch.cuda.synchronize()
            step += 1
            if step % 100 == 0:
                print("step", step, flush=True)
        print("last step", step)
    """,
    "too_much.py": """
        import time, torch
        free, _ = torch.cuda.mem_get_info()
        held = torch.ones(free // 2, dtype=torch.uint8, device="cuda")
        torch.cuda.synchronize()
        time.sleep(4)
        torch.ones(free, dtype=torch.uint8, device="cuda")
    """,
    "hold.py": """
        import sys, torch
        held = torch.ones(2 * 2**30, dtype=torch.uint8, device="cuda")
        torch.cuda.synchronize()
        print("holding", flush=True)
        sys.stdin.read()
    """,
}


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """With one card; others that the machine has are drained."""
    pytest.importorskip("torch")
    seen = read(tmp_path_factory.mktemp("look"))
    if seen["source"] != "nvml" or not seen["devices"]:
        pytest.skip(f"NVML finds no device here ({seen['error'] or seen['source']})")
    with Product(tmp_path_factory.mktemp("product"), devices="auto") as started:
        for name, text in PROGRAMS.items():
            (started.work / name).write_text(textwrap.dedent(text))
        for other in devices(started)[1:]:
            started.api("POST", f"devices/{other['uuid']}/drain/", {"reason": "one is enough"})
        yield started


def devices(product: Product) -> list[dict[str, Any]]:
    return [device for device in product.api("GET", "devices/")["results"] if device["allocatable"]]


def device(product: Product) -> dict[str, Any]:
    return devices(product)[0]


def command(name: str, *args: object) -> str:
    return " ".join([sys.executable, name, *map(str, args)])


def wait_until_it_computes(product: Product, job: int) -> None:
    product.wait(job, "running", timeout_s=30)
    wait_until(lambda: b"step 100\n" in product.log(job), 60, "it computes")


def test_training_has_its_card_and_is_measured_there(product: Product) -> None:
    job = product.submit(command("train.py", 12))["id"]
    wait_until(lambda: (device(product)["memory_used_mib"] or 0) > 3072, 60, "its memory is seen")
    assert (device(product)["state"], device(product)["job"]) == ("claimed", job)
    wait_until(lambda: (device(product)["utilization_pct"] or 0) > 20, 30, "its work is seen")
    done = product.wait(job, "completed", timeout_s=60)
    assert done["attempts"][-1]["peak_memory_mib"] > 3072
    lines = product.log(job).decode().splitlines()
    assert lines[0].startswith("sees 1 by ")
    assert lines[-1].startswith("last step ")
    assert lines[1:-1] == [f"step {n}" for n in range(100, 100 * (len(lines) - 1), 100)]


def test_real_out_of_memory_is_told_as_such(product: Product) -> None:
    job = product.submit(command("too_much.py"), max_retries=1, retry_delay_s=1)["id"]
    failed = product.wait(job, "failed", timeout_s=90)
    assert [attempt["oom_detected"] for attempt in failed["attempts"]] == [True, True]
    assert failed["attempts"][0]["peak_memory_mib"] > 1024


def test_job_waits_for_somebody_outside_the_queue_and_starts_when_they_leave(product: Product) -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": device(product)["uuid"]}
    outside = [sys.executable, str(product.work / "hold.py")]
    with subprocess.Popen(outside, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "holding\n"
            wait_until(lambda: device(product)["state"] == "busy_external", 20, "somebody is seen on it")
            job = product.submit(command("train.py", 1))["id"]
            wait_until(lambda: str(process.pid) in str(product.job(job)["wait_reason"]), 20, "the job says whose process it waits for")
        finally:
            process.kill()
    product.wait(job, "completed", timeout_s=60)


def test_memory_of_a_cancelled_training_is_there_for_the_next(product: Product) -> None:
    total = device(product)["memory_total_mib"]
    long = product.submit(command("train.py", 600))["id"]
    product.wait(long, "running", timeout_s=30)
    wait_until(lambda: (device(product)["memory_used_mib"] or 0) > 3072, 60, "it has its memory")
    next_job = product.submit(command("train.py", 1), gpu_memory_mib=total - 2048)["id"]
    product.api("POST", f"jobs/{long}/cancel/")
    product.wait(long, "cancelled", timeout_s=30)
    product.wait(next_job, "completed", timeout_s=60)


def test_training_goes_on_through_a_kill_of_everything_else(product: Product) -> None:
    job = product.submit(command("train.py", 15))["id"]
    wait_until_it_computes(product, job)
    product.kill_all_but_trainings()
    product.start()
    done = product.wait(job, "completed", timeout_s=60)
    assert len(done["attempts"]) == 1
    steps = [line for line in product.log(job).decode().splitlines() if line.startswith("step ")]
    assert steps == [f"step {n}" for n in range(100, 100 * len(steps) + 1, 100)]


def test_stop_signal_reaches_a_training_that_computes(product: Product) -> None:
    trap = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(0)))\n"
    (product.work / "saves.py").write_text(trap + textwrap.dedent(PROGRAMS["train.py"]))
    job = product.submit(command("saves.py", 600))["id"]
    wait_until_it_computes(product, job)
    product.api("POST", f"jobs/{job}/cancel/")
    product.wait(job, "cancelled", timeout_s=40)
    assert product.log(job).decode().splitlines()[-1] == "saved"
