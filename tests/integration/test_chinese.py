"""Pages as somebody reads them who reads Chinese: what is ours is in Chinese, whatever the state of things."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from gpuworker.protocol import ProcessReading
from jobs import audit, dispatch, drains, eventphrases, keeping
from jobs.hosts import Watch
from jobs.models import Host, Job, JobEvent, Notification, User
from jobs.models.audit import About, Act
from jobs.scheduling import phrases
from jobs.states import JobState, Outcome
from tests.integration.fakehost import FakeHost
from tests.integration.rest import make_attempt, make_job, put_into

NAMES = (
    r"AutoTrainer|Redis|Flower|NVIDIA|CUDA|SMTP|EMinder|REST|API|GPU|MIG|PyTorch|GitHub|Python|Django|Swagger|OpenAPI|English|conda|venv|"
    r"GiB|MiB|PID|URL|CSV|UUID|ID|JSON|ISO|HTML|Ctrl|Enter|Esc|Tab|IP|pid|kB|MB|GB|cron|tqdm|SIGKILL|SIGTERM|W|Tesla|Test"
)
"""Names are the same in each language."""
CODE = re.compile(r"<(script|style|pre|code|svg|textarea|kbd|samp)\b.*?</\1>|<!--.*?-->", re.DOTALL)
"""Not prose: what somebody typed, and what a machine reads."""


def words(page: str) -> list[str]:
    """Runs of two and more English words that a reader of this page sees, or hears."""
    heard = re.findall(r'\b(?:aria-label|title|alt|placeholder)="([^"]*)"', CODE.sub(" ", page))
    seen = re.sub(r"<[^>]+>", " | ", CODE.sub(" | ", page))
    found = []
    for text in [unescape(seen), *map(unescape, heard)]:
        plain = re.sub(rf"\b(?:{NAMES})s?\b", " ", text)
        found += re.findall(r"[A-Za-z][a-z']+(?: [A-Za-z]?[a-z']+)+", plain)
    return sorted(set(found))


@pytest.fixture
def olga(host: FakeHost) -> User:
    """An operator; what she sees is all that there is."""
    return User.objects.create_superuser("olga")


@pytest.fixture
def reader(olga: User) -> Client:
    client = Client(headers={"accept-language": "zh-CN,zh;q=0.9"})
    client.force_login(olga)
    return client


STRANGERS = (ProcessReading(pid=7, user="alice", command="python", memory_mib=9000, start_ticks=5),)
ENDS: dict[Outcome, dict[str, Any]] = {
    Outcome.COMPLETED: {"exit_code": 0},
    Outcome.FAILED: {"exit_code": 1, "oom_detected": True},
    Outcome.TIMED_OUT: {},
    Outcome.CANCELLED: {},
    Outcome.HOST_LOST: {"message": eventphrases.DECLARED_LOST % {"person": "olga", "host": "gpu-b"}},
    Outcome.EXIT_LOST: {"message": eventphrases.KNOWS_NOTHING % {"host": "gpu-b"}},
    Outcome.LAUNCH_FAILED: {},
}
WAITS: list[dict[str, Any]] = [
    {},
    {"priority": 9},
    {"min_gpus": 4, "max_gpus": 4},
    {"min_gpus": 90, "max_gpus": 90},
    {"hosts": ["gpu-b"]},
    {"hosts": ["gpu-z", "gpu-y"]},
    {"hold": True},
]


TOLD = {"size": "3 GiB", "held": "3 GiB", "ended": "failed", "place": "GPU 0 of gpu-a", "device": "GPU 1", "index": "1", "attempt": "1"}
SAMPLES: Mapping[str, str] = defaultdict(lambda: "3", TOLD)
"""What stands at the placeholders of an event."""


@pytest.fixture
def stock(olga: User, host: FakeHost) -> list[Job]:
    """Jobs in each state and with each outcome, an event of each kind, hosts and devices that are not well."""
    now = timezone.now()
    host.devices = [host.device(n) for n in range(5)]
    host.devices[1] = host.device(1, in_use_outside=True, processes=STRANGERS)
    host.beat(disk_free_bytes=1 << 20, disk_least_bytes=1 << 30)
    Watch().look(now)
    drains.drain_device(host.devices[2].uuid, olga, "维护")
    keeping.keep(host.devices[3].uuid, olga, person="olga", until=now + timedelta(hours=4), reason="演示")
    sick = phrases.SICK % {"n": 3, "failures": phrases.FAILURE % {"job": 7, "how": phrases.NOT_LAUNCHED}}
    drains.drain_sick_device(host.name, host.devices[4].uuid, sick)
    Host.objects.create(name="gpu-b", state="lost", inventory_known=True, device_count=0)
    Host.objects.create(name="gpu-c", drain=True, drain_reason="olga: 机房", inventory_known=True, device_count=0)
    jobs = [_over(olga, outcome, **how) for outcome, how in ENDS.items()]
    jobs += [make_job(olga, name="resnet", **wait) for wait in WAITS]
    jobs += [make_job(olga, name="resnet", begin_at=now + timedelta(hours=3)), make_job(olga, name="resnet", after=(jobs[-1],))]
    for job, state in ((make_job(olga, name="resnet"), state) for state in (JobState.STARTING, JobState.RUNNING, JobState.STOPPING)):
        make_attempt(job, started_at=now, devices=[{"uuid": "GPU-x", "index": 0}])
        put_into(job, state, started_at=now)
        jobs.append(job)
    dispatch.run_pass(now)
    for template in eventphrases.SENTENCES:
        JobEvent.objects.create(job=jobs[0], type="told", at=now, message=template % SAMPLES)
    for state in (Notification.PENDING, Notification.SENT, Notification.DEAD):
        event = JobEvent.objects.create(job=jobs[0], type="completed", at=now, message=eventphrases.LOOK)
        told = {"channel": "smtp", "recipient": "a@b.example", "next_at": now, "created_at": now}
        Notification.objects.create(event=event, job=jobs[0], state=state, **told)
    for number, act in enumerate(Act):
        audit.record(olga, act, list(About)[number % len(About)], target=str(jobs[0].pk))
    return jobs


def _over(owner: User, outcome: Outcome, **how: Any) -> Job:
    job, now = make_job(owner, name="resnet"), timezone.now()
    make_attempt(job, outcome=outcome, started_at=now - timedelta(hours=1), ended_at=now, devices=[{"uuid": "GPU-x", "index": 0}], **how)
    state = {Outcome.COMPLETED: JobState.COMPLETED, Outcome.CANCELLED: JobState.CANCELLED}.get(outcome, JobState.FAILED)
    put_into(job, state, started_at=now - timedelta(hours=1), ended_at=now, oom_detected=how.get("oom_detected", False))
    return job


def test_pages_are_in_chinese_whatever_the_state_of_things(reader: Client, stock: list[Job]) -> None:
    pages = ["/", "/jobs/", "/jobs/?show=all", "/jobs/new/", "/nowhere/"]
    pages += ["/account/password/", "/account/notifications/", "/account/tokens/", "/jobs/templates/", "/account/chat/"]
    left = {path: words(reader.get(path).content.decode()) for path in pages + [f"/jobs/{job.pk}/" for job in stock]}
    assert {path: found for path, found in left.items() if found} == {}


def test_what_was_wrong_is_said_in_chinese(reader: Client, stock: list[Job]) -> None:
    typed = {
        "name": "x" * 300,
        "command": "",
        "working_dir": "~/x",
        "min_gpus": "-1",
        "max_gpus": "x",
        "gpu_memory_mib": "viel",
        "time_limit_s": "lang",
        "after": "99999",
        "hosts": "a!b",
        "notify": "x@y",
        "env": "a",
        "begin_at": "x",
        "artifacts": "../x",
    }
    assert words(reader.post("/jobs/new/", typed).content.decode()) == []
    assert words(reader.post("/jobs/new/", {"command": "true", "min_gpus": "90", "max_gpus": "90"}).content.decode()) == []
    assert words(reader.post("/jobs/new/", {"command": "true", "save_template": "1", "template_name": "x" * 90}).content.decode()) == []
    wrong: dict[str, Any] = {"tokens": {"name": "", "scope": "x"}, "password": {}, "notifications": {"language": "xx"}}
    for path, data in ((f"/account/{page}/", data) for page, data in wrong.items()):
        assert words(reader.post(path, data).content.decode()) == [], path
    for action in ("hold", "release", "cancel", "resubmit"):
        assert words(reader.post(f"/jobs/{stock[0].pk}/{action}/", follow=True).content.decode()) == [], action
    assert words(Client(headers={"accept-language": "zh-CN"}).post("/signin/", {"username": "x", "password": "y"}).content.decode()) == []


def test_admin_is_in_chinese(reader: Client, stock: list[Job]) -> None:
    models = ("job", "host", "device", "user", "notification", "auditentry", "personaltoken", "group")
    found = {}
    for model in models:
        path = f"/admin/jobs/{model}/"
        answer = reader.get(path)
        if answer.status_code == 200:
            found[path] = words(answer.content.decode())
            for link in sorted(set(re.findall(rf'href="({path}[^"?]+/change/|{path}add/)', answer.content.decode())))[:4]:
                found[link] = words(reader.get(link).content.decode())
    found["/admin/"] = words(reader.get("/admin/").content.decode())
    for english in ("Jobs", "Attempts"):  # which `words` takes for names
        assert not re.search(rf">\s*{english}\s*<", reader.get(f"/admin/jobs/job/{stock[0].pk}/change/").content.decode())
    assert len(found) > 12
    assert {path: left for path, left in found.items() if left} == {}
