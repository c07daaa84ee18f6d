"""A lab at work, to be looked at: people, and real trainings on simulated devices that run, wait, fail, swap files and leave pictures."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.product import CHECKOUT, Product
from tests.waiting import wait_until

DEVICES = "sim:4x24GiB"
PEOPLE = """
from knox.models import AuthToken
from jobs.models import User
from jobs.web.onetime import make_link
print("link", make_link(User.objects.get(username="admin")))
for name, role in (("ada", "submitter"), ("bob", "submitter"), ("林悦", "submitter"), ("olga", "operator"), ("vic", "viewer")):
    user = User.objects.create_user(name, role=role, email=f"{role}-{len(name)}@example.org")
    print(name, AuthToken.objects.create(user)[1])
"""
LOADER = """
def batches(epochs):
    for epoch in range(epochs):
        print(f"Epoch {epoch + 1}/{epochs} loss: {0.9 / (epoch + 1):.3f}", flush=True)
    config = {"momentum": 0.9}
    return config["lr"]

batches(3)
"""
LOSS = ("def loss(x):\n    return x * x\n", "def loss(x):\n    return abs(x)  # less sure of outliers\n")


@dataclass
class Scene:
    """`jobs` by what is to be seen of them."""

    product: Product
    jobs: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    link: str = ""
    """Signs the administrator in, once."""

    def submit(self, what: str, owner: str, command: str, **fields: Any) -> int:
        """As this person, who answers for it in the pictures."""
        mine, self.product.token = self.product.token, self.tokens[owner]
        try:
            number: int = self.product.submit(command, **fields)["id"]
        finally:
            self.product.token = mine
        self.jobs[what] = number
        return number


@contextmanager
def playing(root: Path) -> Iterator[Scene]:
    """The product before anybody has submitted anything, with its people."""
    with Product(root, devices=DEVICES, environ={"AUTOTRAINER_HOST": "gpu-a", "AUTOTRAINER_TIME_ZONE": "Asia/Shanghai"}) as product:
        done = subprocess.run(
            [sys.executable, "manage.py", "shell", "--no-imports", "-c", PEOPLE],
            cwd=CHECKOUT,
            env=product.environ,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        )
        told = dict(line.split() for line in done.stdout.splitlines())
        yield Scene(product, link=told.pop("link"), tokens=told)


@contextmanager
def outsider(product: Product) -> Iterator[None]:
    """A process that is not ours on the last device."""
    process = subprocess.Popen(["sleep", "1000"])
    try:
        (folder,) = (product.home / "hosts").glob("*/sim")
        (folder / f"{process.pid}@3").write_text("11200 71")
        yield
    finally:
        process.kill()
        process.wait()


def fill(scene: Scene) -> None:
    """What has ended, then what runs, then what waits for it; returns when all of it is so."""
    work = scene.product.work
    shutil.copy(CHECKOUT / "mock_train.py", work / "train.py")
    (work / "loader.py").write_text(LOADER)
    (work / "loss.py").write_text(LOSS[0])
    _ended(scene)
    _running(scene)
    _waiting(scene)


def _ended(scene: Scene) -> None:
    submit = scene.submit
    submit("completed", "ada", "python train.py --name cifar10 --seconds 1", name="cifar10-baseline", artifacts=["result_cifar10.png"])
    submit("failed", "bob", "python loader.py", name="gan-v2", min_gpus=0, max_gpus=0)
    submit("oom", "ada", "python train.py --name bert --mode oom --mem 22 --seconds 0.5", name="bert-batch64")
    submit("timed out", "林悦", "sleep 60", name="asr-语音识别", time_limit_s=1, min_gpus=0, max_gpus=0)
    swap = {"target": "loss.py", "content": LOSS[1]}
    submit("swapped", "ada", "cat loss.py; python train.py --name ablation --seconds 0.5", name="loss-ablation", swaps=[swap])
    for what in ("completed", "failed", "oom", "timed out", "swapped"):
        scene.product.wait(scene.jobs[what], timeout_s=60)


def _running(scene: Scene) -> None:
    submit = scene.submit
    limits = {"time_limit_s": 8 * 3600, "max_retries": 2}
    submit("running", "ada", "python train.py --name resnet50 --epochs 30 --seconds 120 --mem 18", name="resnet50-imagenet", **limits)
    submit("wide", "bob", "python train.py --name llama --epochs 12 --seconds 600 --mem 21", name="llama-lora", min_gpus=2, max_gpus=2)
    for what in ("running", "wide"):
        scene.product.wait(scene.jobs[what], "running")


def _waiting(scene: Scene) -> None:
    submit = scene.submit
    submit(
        "waiting", "林悦", "python train.py --name vit --mem 20", name="vit-large 扫描学习率", min_gpus=2, max_gpus=4, gpu_memory_mib=20480
    )
    submit("after", "ada", "python evaluate.py", name="evaluate", after=[scene.jobs["running"]], min_gpus=0, max_gpus=0)
    submit("held", "bob", "python train.py --name clip", name="clip-finetune", hold=True)
    submit("backoff", "ada", "python loader.py", name="flaky-loader", max_retries=3, retry_delay_s=3600, min_gpus=0, max_gpus=0)

    def told() -> bool:
        found = [scene.product.job(scene.jobs[what])["wait_reason"] for what in ("waiting", "after", "backoff")]
        return all(found)

    wait_until(told, 30, "the scheduler has said why each of them waits", every_s=0.1)


def keep_templates(scene: Scene) -> None:
    """Two of the administrator's, who is the one that looks."""
    for name, fields in (
        ("resnet, 4 GPUs", {"command": "python train.py --name resnet50 --epochs 90", "min_gpus": 1, "max_gpus": 4, "time_limit_s": 28800}),
        ("每晚评测", {"command": "python evaluate.py", "min_gpus": 0, "max_gpus": 0, "notify": ["lab@example.org"]}),
    ):
        scene.product.api("POST", "templates/", {"name": name, "fields": fields | {"working_dir": str(scene.product.work)}})
    scene.product.api("POST", "auth/tokens/", {"name": "laptop", "days": 30})
