"""A lab as its pages see it: people, hosts that are heard, jobs that run, wait and have ended.

Straight into the database and Redis, since submitting a hundred thousand jobs would take longer than all that is measured.
Django must be set up, and its database be empty.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import islice
from typing import Any

from django.utils import timezone

from gpuworker.protocol import AttemptReading, ProcessReading
from jobs import hostlink, line, rings, shares
from jobs.models import Attempt, Device, Host, Job, JobEvent, User
from jobs.rings import Rings
from jobs.states import JobState, Line, Role, WaitReason
from tests.integration.fakehost import FakeHost

AT_ONCE = 2000
DEVICES_EACH = 8
MEMORY_MIB = 80 * 1024
MODELS = ("resnet50", "vit-base", "llama-lora", "unet", "bert", "diffusion", "whisper", "dqn", "gpt2", "yolo")
WHY_WAITING = "Needs 1 free GPU; on gpu-03 GPU 2 runs #17 of person-4, GPU 5 runs #21 of person-1, and 6 more are in use."


@dataclass
class Lab:
    people: list[User]
    hosts: list[FakeHost]
    running: dict[str, list[AttemptReading]] = field(default_factory=dict)

    def beat(self) -> None:
        """Let all hosts be heard now."""
        for host in self.hosts:
            host.beat(attempts=tuple(self.running.get(host.name, ())))


def make(redis_url: str, *, gpus: int, jobs: int, people: int = 12, waiting_pct: int = 60, days: int = 1) -> Lab:
    """One with so many devices, most of which run a job; of the other jobs so many percent wait, the rest ended within so many days."""
    lab = Lab([_person(n) for n in range(people)], [_host(redis_url, n) for n in range(gpus // DEVICES_EACH)])
    running = min(jobs, gpus - gpus // 16)
    waiting = (jobs - running) * waiting_pct // 100
    _run(lab, running)
    _wait(lab.people, waiting)
    _end(lab.people, jobs - running - waiting, days=days)
    lab.beat()
    _hours()
    shares.count(timezone.now())
    return lab


def _person(number: int) -> User:
    return User.objects.create_user(f"person-{number}", role=Role.OPERATOR if number == 0 else Role.SUBMITTER)


def _host(redis_url: str, number: int) -> FakeHost:
    fake = FakeHost(redis_url, f"gpu-{number:02}", devices=DEVICES_EACH, memory_mib=MEMORY_MIB)
    seen = {"utilization_pct": 87.0, "temperature_c": 64.0, "power_w": 390.0, "power_limit_w": 700.0, "memory_used_mib": 61_000}
    fake.devices = [replace(device, name="NVIDIA H100 80GB HBM3", **seen) for device in fake.devices]
    now = timezone.now()
    row = Host.objects.create(name=fake.name, inventory_known=True, device_count=DEVICES_EACH, state="up", last_seen_at=now, job_slots=112)
    Device.objects.bulk_create(
        Device(uuid=d.uuid, host=row, index=d.index, name=d.name, memory_total_mib=MEMORY_MIB, updated_at=now) for d in fake.devices
    )
    return fake


def _job(number: int, owner: User, **fields: Any) -> Job:
    model, created = MODELS[number % len(MODELS)], timezone.now() - timedelta(minutes=number % 600)
    command = f"python train.py --model {model} --config configs/{model}/sweep.yaml --lr {number % 97}e-5 --seed {number} --epochs 90"
    return Job(
        owner=owner,
        name=f"{model}-sweep-{number}",
        command=f"{command} --data /data/sets/{model} --out runs/{model}/{number}",
        working_dir=f"/home/{owner.username}/projects/{model}-experiments",
        env={"WANDB_MODE": "offline", "OMP_NUM_THREADS": "8", "HF_HOME": f"/data/cache/{owner.username}"},
        **{"created_at": created} | fields,
    )


def _store(jobs: Iterator[Job]) -> Iterator[list[Job]]:
    """They get their numbers."""
    while some := list(islice(jobs, AT_ONCE)):
        yield Job.objects.bulk_create(some)


def _run(lab: Lab, count: int) -> None:
    places = [(host, index) for host in lab.hosts for index in range(DEVICES_EACH)][:count]
    now = timezone.now()
    begun = {"started_at": now - timedelta(hours=2), "progress": 0.4, "progress_at": now, "next_attempt": 2}
    jobs = (_job(n, lab.people[n % len(lab.people)], state=JobState.RUNNING, **begun) for n in range(count))
    made = [job for some in _store(jobs) for job in some]
    for job, (host, index) in zip(made, places, strict=True):
        device = host.devices[index]
        attempt = _attempt(job, host.name, [{"uuid": device.uuid, "index": index}], started_at=job.started_at)
        attempt.save()
        reading = AttemptReading(job=str(job.uid), attempt=1, fence=attempt.fence, running=True, devices=(device.uuid,))
        lab.running.setdefault(host.name, []).append(reading)
        process = ProcessReading(pid=4000 + job.pk, user=job.owner.username, command="python train.py", memory_mib=60_500, ours=True)
        host.devices[index] = replace(device, processes=(process,))
    for host, index in [(host, index) for host in lab.hosts for index in range(DEVICES_EACH)][count::2]:
        stranger = ProcessReading(pid=977, user="visitor", command="python notebook.py", memory_mib=12_000, age_s=4000.0)
        host.devices[index] = replace(host.devices[index], in_use_outside=True, processes=(stranger,))


def _attempt(job: Job, host: str, devices: list[dict[str, Any]], **fields: Any) -> Attempt:
    number = int(fields.pop("number", 1))
    given = {"created_at": job.created_at, "offer_expires_at": job.created_at} | fields
    return Attempt(job=job, number=number, fence=job.pk * 10 + number, host=host, devices=devices, **given)


def _wait(people: Sequence[User], count: int) -> None:
    """The owners' queues are of different lengths; some jobs are held, some come later. Each has been told why it waits."""
    later = {
        "wait_code": WaitReason.BEGIN_TIME,
        "wait_message": "Starts not before tonight.",
        "begin_at": timezone.now() + timedelta(hours=6),
    }
    held = {"wait_code": WaitReason.HELD, "wait_message": "Held by person-0 until somebody releases it.", "state": JobState.HELD}

    def all_of_them() -> Iterator[Job]:
        for n in range(count):
            fields = later if n % 50 == 9 else held if n % 40 == 3 else {}
            asked = {"max_gpus": 1 + n % 3, "gpu_memory_mib": 8192 * (n % 3), "priority": (0, 0, 0, 5, -5)[n % 5]}
            yield _job(n, people[n**3 % len(people)], **asked, **fields)

    for _ in _store(all_of_them()):
        line.admit(timezone.now())
    Job.objects.filter(state=JobState.QUEUED, line=Line.IN).update(wait_code=WaitReason.RESOURCES, wait_message=WHY_WAITING)


def _end(people: Sequence[User], count: int, *, days: int) -> None:
    """Most completed; one in nine failed, some of those after retries."""
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    newest = max(timezone.now() - midnight, timedelta(minutes=1)) if days == 1 else timedelta(days=days)

    def all_of_them() -> Iterator[Job]:
        for n in range(count):
            state = JobState.FAILED if n % 9 == 2 else JobState.CANCELLED if n % 31 == 5 else JobState.COMPLETED
            ended = timezone.now() - newest * ((count - n - 0.5) / count)
            moments = {"created_at": ended - timedelta(hours=9), "started_at": ended - timedelta(hours=3), "ended_at": ended}
            code = {JobState.FAILED: 1, JobState.COMPLETED: 0}.get(state)
            yield _job(n, people[n * 7 % len(people)], state=state, exit_code=code, next_attempt=2, **moments)

    for some in _store(all_of_them()):
        Attempt.objects.bulk_create([attempt for job in some for attempt in _attempts(job)])
        JobEvent.objects.bulk_create([event for job in some for event in _events(job)])


def _attempts(job: Job) -> Iterator[Attempt]:
    device = [{"uuid": f"GPU-gpu-{job.pk % 8:02}-{job.pk % 7}", "index": job.pk % 7}]
    times = {"started_at": job.started_at, "ended_at": job.ended_at}
    how = {"outcome": job.state, "exit_code": job.exit_code, "log_bytes": 4096, "failure": "-", **times}
    retries = 2 if job.state == JobState.FAILED and job.pk % 3 == 0 else 0
    for number in range(1, 2 + retries):
        yield _attempt(job, f"gpu-{job.pk % 8:02}", device, number=number, **how)


def _events(job: Job) -> Iterator[JobEvent]:
    said = [
        ("submitted", "Submitted."),
        ("attempt_started", "Attempt 1 began on gpu-01, GPU 3."),
        ("attempt_ended", f"Attempt 1 {job.state}."),
    ]
    for (kind, message), at in zip(said, (job.created_at, job.started_at, job.ended_at), strict=True):
        yield JobEvent(job=job, type=kind, at=at, message=message)


def _hours() -> None:
    """What the cards did in the last hour, as the leader would have noted it down."""
    heard, noted, now_s = hostlink.heard([host.name for host in Host.objects.all()]), Rings(), time.time()
    for ago in range(rings.MINUTES, -1, -1):
        at = now_s - 60 * ago
        noted.note({name: replace(one, beat=replace(one.beat, at=at)) for name, one in heard.items()}, now_s=at, fresh_s=60)
