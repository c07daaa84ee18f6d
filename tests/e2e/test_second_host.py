"""One more GPU machine joins: an agent with a home of its own, three settings, no database and no Django."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuworker import protocol
from tests.conftest import missing
from tests.e2e.product import CHECKOUT, Product, alive, free_port, kill
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

COMMAND = "echo on $AUTOTRAINER_HOST with $CUDA_VISIBLE_DEVICES"


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis on the network (of this machine), with a password."""
    program = shutil.which("redis-server") or shutil.which("valkey-server") or missing("redis-server")
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    (folder / "redis.conf").write_text(f"bind 127.0.0.1\nport {port}\nrequirepass open-sesame\nsave ''\ndir {folder}\n")
    with (folder / "redis.txt").open("wb") as output:
        server = subprocess.Popen([str(program), str(folder / "redis.conf")], stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    yield f"redis://:open-sesame@127.0.0.1:{port}/0"
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def product(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    settings = {"AUTOTRAINER_REDIS_URL": redis_url, "AUTOTRAINER_HOST": "gpu-a"}
    with Product(tmp_path_factory.mktemp("control"), devices="sim:1x24GiB", environ=settings) as started:
        yield started


@pytest.fixture(scope="module")
def agent(product: Product, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[bytes]]:
    """What `AutoTrainer.py host` becomes, with the lines that `manage.py join` printed."""
    home = tmp_path_factory.mktemp("gpu-b")
    printed = subprocess.run(
        [sys.executable, "manage.py", "join", "gpu-b"], cwd=CHECKOUT, env=product.environ, capture_output=True, text=True, check=True
    )
    lines = dict(line.split("=", 1) for line in printed.stdout.splitlines())
    assert sorted(lines) == ["AUTOTRAINER_HOST", "AUTOTRAINER_HOST_KEY", "AUTOTRAINER_REDIS_URL"]
    ours = {"AUTOTRAINER_HOME": str(home), "AUTOTRAINER_DEVICES": "sim:2x48GiB", "AUTOTRAINER_HEARTBEAT_S": "1"}
    inherited = {name: value for name, value in product.environ.items() if not name.startswith("AUTOTRAINER_")}
    node = ["-n", protocol.node_name("gpu-b"), "-Q", protocol.host_queue("gpu-b")]
    with (home / "agent.txt").open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "celery",
                "-A",
                "gpuworker",
                "worker",
                "-P",
                "threads",
                "-c",
                "128",
                "--without-gossip",
                "--without-mingle",
                *node,
            ],
            cwd=CHECKOUT,
            env=inherited | lines | ours,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    yield process
    process.terminate()
    process.wait(20)


def two_gpu_job(product: Product) -> int:
    """The number of a job that only the joined host can run; 0 while nobody has written down what that host has."""
    status, body = product.request(
        "POST", "jobs/", {"command": COMMAND, "working_dir": str(product.work), "min_gpus": 2, "max_gpus": 2, "name": "far away"}
    )
    assert status == 201 or b"No known host has 2 GPUs" in body
    return int(json.loads(body)["id"]) if status == 201 else 0


def test_jobs_run_on_the_host_that_joined_and_their_logs_come_home(product: Product, agent: subprocess.Popen[bytes]) -> None:
    far = wait_until(lambda: two_gpu_job(product), 30, "the joined host's devices are known", every_s=0.2)
    assert (product.wait(far, "completed")["host"], product.log(far)) == ("gpu-b", b"on gpu-b with 0,1\n")
    near = product.submit(COMMAND, hosts=["gpu-a"])
    assert (product.wait(near["id"], "completed")["host"], product.log(near["id"])) == ("gpu-a", b"on gpu-a with 0\n")


def test_agent_knows_neither_django_nor_a_database(agent: subprocess.Popen[bytes], product: Product) -> None:
    mapped = Path(f"/proc/{agent.pid}/maps").read_text()
    assert alive(agent.pid)
    assert "_sqlite3" not in mapped
    assert "psycopg" not in mapped
    assert not any("sqlite" in os.path.realpath(f"/proc/{agent.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{agent.pid}/fd"))


def test_host_whose_agent_died_is_not_offered_jobs_and_the_reason_says_so(product: Product, agent: subprocess.Popen[bytes]) -> None:
    kill(agent.pid)
    agent.wait(5)
    wait_until(
        lambda: {d["state"] for d in product.api("GET", "devices/")["results"] if d["host"] == "gpu-b"} == {"unknown"}, 20, "silence"
    )
    job = product.submit("true", hosts=["gpu-b"])
    reason = wait_until(lambda: product.job(job["id"])["wait_reason"], 20, "a reason to wait")
    assert reason["code"] == "HostDown"
    assert "gpu-b" in reason["message"]
    product.api("POST", f"jobs/{job['id']}/cancel/")
