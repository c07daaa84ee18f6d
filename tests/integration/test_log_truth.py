"""Logs and disks with real parts: a real agent, its trainings, a real Redis, and the control plane's ingest and REST."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from gpuworker import disks, protocol
from gpuworker.protocol import Spec
from jobs import dispatch, lifecycle, logs
from jobs.hosts import Watch
from jobs.ingest import Ingest
from jobs.models import Host as HostRow
from jobs.models import Job
from jobs.specs import spec_of
from jobs.states import JobState
from tests.conftest import missing
from tests.integration.host import CLUSTER_KEY, HOST, Host, running_host
from tests.integration.rest import Rest, make_job, person
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

MIB = 2**20
WRITER = Path(__file__).resolve().parent.parent / "programs" / "writer.py"


@dataclass
class Plane:
    """The control plane's part in one host's jobs, played by the test's own thread."""

    host: Host
    ingest: Ingest
    api: Rest
    owner: Any

    def start(self, command: str, **changes: Any) -> tuple[Job, Spec]:
        """A job without a GPU that has been offered to the host."""
        job = make_job(self.owner, command=command, working_dir=str(self.host.home), min_gpus=0, max_gpus=0)
        attempt = lifecycle.dispatch(job, host=HOST, devices=[], now=timezone.now())
        assert attempt
        spec = replace(spec_of(job, attempt), **changes)
        self.host.offer(spec)
        return job, spec

    def take_in(self) -> None:
        try:
            self.ingest.turn(50)
        except OSError:
            pass  # a full disk: the loop of the control worker goes on as well

    def ended(self, job: Job, timeout_s: float = 60) -> Job:
        """The job, once it is over and the control plane has all of its log."""

        def over() -> bool:
            self.take_in()
            job.refresh_from_db()
            attempt = job.attempts.get()
            return bool(attempt.outcome) and logs.size(job.pk, 1) >= attempt.log_bytes

        wait_until(over, timeout_s, f"job {job.pk} has ended and its log is whole")
        return job

    def download(self, job: Job) -> list[tuple[int, bytes]]:
        """The log as a client gets it over REST: (offset, bytes), one part, or two where it was cut."""
        parts: list[tuple[int, bytes]] = []
        at, size = 0, 1
        while at < size:
            answer = self.api("GET", f"jobs/{job.pk}/log/?offset={at}")
            size, begin = int(answer.headers["X-Log-Size"]), int(answer.headers["X-Log-Offset"])
            if parts and begin == at:
                parts[-1] = (parts[-1][0], parts[-1][1] + answer.content)
            else:
                parts.append((begin, answer.content))
            at = begin + len(answer.content)
        return parts


@pytest.fixture
def plane_of(broker: str, settings: Any) -> Callable[[Host], Plane]:
    settings.CLUSTER_KEY = CLUSTER_KEY
    owner = person("ann")
    HostRow.objects.create(name=HOST)
    return lambda host: Plane(host, Ingest(), Rest(owner), owner)


@pytest.fixture
def plane(plane_of: Callable[[Host], Plane], broker: str, tmp_path: Path) -> Iterator[Plane]:
    with running_host(broker, tmp_path) as host:
        yield plane_of(host)


def writer(kind: str, mib: float, digest: Path, *, pause_s: float = 0.0, code: int = 0) -> str:
    return f"exec python3 {WRITER} {kind} {int(mib * MIB)} {digest} {pause_s} {code}"


@pytest.mark.parametrize(("kind", "mib"), [("random", 12), ("one-line", 20)])
def test_log_is_what_was_written_whoever_is_killed_meanwhile(plane: Plane, tmp_path: Path, kind: str, mib: int) -> None:
    digest = tmp_path / "digest"
    job, spec = plane.start(writer(kind, mib, digest, pause_s=0.05, code=7))
    wait_until(lambda: plane.take_in() or logs.size(job.pk, 1) > MIB, 30, "the first MiB")
    plane.host.kill()
    plane.host.client.flushall()
    plane.host.start()
    wait_until(lambda: plane.take_in() or logs.size(job.pk, 1) > 4 * MIB, 60, "4 MiB")
    wait_until(lambda: plane.host.client.xlen(protocol.logs_key(HOST)), 30, "something to lose")
    plane.host.client.flushall()
    ended = plane.ended(job, 90)
    assert (ended.state, ended.exit_code) == (JobState.FAILED, 7)
    [(begin, data)] = plane.download(job)
    assert (begin, len(data)) == (0, mib * MIB)
    assert hashlib.sha256(data).hexdigest() == digest.read_text()
    assert plane.host.folder(spec).joinpath("output.log").stat().st_size == mib * MIB


def test_log_over_its_limit_keeps_head_and_end_on_host_and_control_plane(plane: Plane, tmp_path: Path, settings: Any) -> None:
    settings.AUTOTRAINER = replace(settings.AUTOTRAINER, log_limit_bytes=MIB)
    job, spec = plane.start(writer("numbered", 30, tmp_path / "digest", pause_s=0.02))
    folder = plane.host.folder(spec)
    wait_until(lambda: _is_small(folder / "output.log") and not (folder / "exit.json").exists(), 30, "the log is cut while it grows")
    ended = plane.ended(job)
    (_, head), (begin, end) = plane.download(job)
    size = ended.attempts.get().log_bytes
    whole = b"".join(b"%07d\n" % i for i in range(size // 8))
    assert size == len(whole) == 30 * MIB
    assert (head, end) == (whole[: len(head)], whole[begin:])
    assert len(head) == MIB // 4
    assert len(end) >= MIB // 2
    stored, written = logs.log_path(job.pk, 1), folder / "output.log"
    assert [path.stat().st_blocks * 512 <= MIB for path in (stored, written)] == [True, True]
    assert plane.api("GET", f"jobs/{job.pk}/log/").headers["X-Log-Cut"] == f"{len(head)}-{begin}"
    assert job.events.filter(type="log_cut").count() == 1


def test_log_is_cut_also_when_the_shim_is_dead(plane: Plane, tmp_path: Path) -> None:
    job, spec = plane.start(writer("numbered", 500, tmp_path / "digest", pause_s=0.03), log_limit_bytes=MIB)
    folder = plane.host.folder(spec)
    wait_until(lambda: (folder / "started.json").exists() and (folder / "output.log").exists(), 20, "it runs")
    os.kill(json.loads((folder / "shim.json").read_text())["pid"], signal.SIGKILL)
    wait_until(lambda: _is_small(folder / "output.log") and not (folder / "ended.json").exists(), 60, "the log is cut while it grows")
    os.kill(json.loads((folder / "started.json").read_text())["pid"], signal.SIGKILL)
    wait_until(lambda: plane.take_in() or (folder / "ended.json").exists(), 30, "its end")
    assert job.attempts.count() == 1


def test_log_that_its_command_truncates_is_told_in_an_event(plane: Plane) -> None:
    job, _ = plane.start("echo before; sleep 0.5; echo after > /dev/stderr; sleep 0.3; echo more")
    plane.ended(job)
    assert plane.download(job) == [(0, b"before\nafter\nmore\n")]
    assert job.events.filter(type="log_truncated").count() == 1


def test_log_waits_while_the_control_planes_disk_is_full(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: object) -> disks.Room:
        return disks.Room(0, 2**30)

    monkeypatch.setattr(disks, "room", full)
    job, spec = plane.start("head -c 3000000 /dev/zero | tr '\\0' x; exit 3")
    wait_until(lambda: plane.take_in() or Job.objects.get(pk=job.pk).state == JobState.FAILED, 30, "the end")
    assert (Job.objects.get(pk=job.pk).exit_code, logs.size(job.pk, 1)) == (3, 0)
    assert not (plane.host.folder(spec) / "ack-log").exists()
    monkeypatch.undo()
    plane.ended(job)
    assert plane.download(job) == [(0, b"x" * 3_000_000)]


# --- a full disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 48 MiB of our own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", str(folder)], capture_output=True).returncode:
        missing("permission to mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_costs_no_exit_code_and_no_agent_and_holds_the_next_job(
    plane_of: Callable[[Host], Plane], broker: str, small_disk: Path
) -> None:
    with running_host(broker, small_disk) as host:
        plane = plane_of(host)
        fill = "head -c 100000000 /dev/zero > ballast; echo full >&2 || exit 5; exit 6"
        job, _ = plane.start(fill)
        ended = plane.ended(job)
        assert (ended.state, ended.exit_code) == (JobState.FAILED, 5)  # its own print failed
        assert host.agent
        assert host.agent.poll() is None
        _next_job_waits(plane)
        late, _ = plane.start("touch ran")  # sent before the heartbeat told
        wait_until(lambda: plane.take_in() or _state(late) is JobState.QUEUED, 30, "it is back in the queue")
        assert "disk" in late.events.filter(type="requeued").get().message
        (small_disk / "ballast").unlink()
        wait_until(lambda: not _disk_is_low(host), 10, "room in a heartbeat")
        after, _ = plane.start("exit 0")
        assert plane.ended(after).state == JobState.COMPLETED
        assert not (small_disk / "ran").exists()


def test_exit_code_is_on_record_although_the_disk_stays_full(plane_of: Callable[[Host], Plane], broker: str, small_disk: Path) -> None:
    with running_host(broker, small_disk) as host:
        plane = plane_of(host)
        job, spec = plane.start("(while :; do head -c 1000000 /dev/zero >> ballast; done 2>/dev/null & ); sleep 1; exit 9")
        wait_until(lambda: (host.folder(spec) / "exit.json").exists(), 30, "the exit code, beside a process that takes each byte")
        assert plane.ended(job).exit_code == 9


def _is_small(log: Path) -> bool:
    found = log.stat() if log.exists() else None
    return found is not None and found.st_size > 12 * MIB and found.st_blocks * 512 < 8 * MIB


def _next_job_waits(plane: Plane) -> None:
    wait_until(lambda: _disk_is_low(plane.host), 10, "a low disk in a heartbeat")
    Watch().look(timezone.now())
    job = make_job(plane.owner, command="true", min_gpus=0, max_gpus=0)
    dispatch.run_pass(timezone.now())
    job.refresh_from_db()
    assert (job.state, job.wait_code) == (JobState.QUEUED, "LowDisk")
    assert "gpu-a has 0 MiB of disk free, and starts nothing new with less than 4 MiB" in job.wait_message
    told = plane.api("GET", "hosts/").json()["results"][0]
    assert "of disk free" in told["reason"]
    lifecycle.cancel(job, actor=plane.owner)


def _disk_is_low(host: Host) -> bool:
    beat = host.beat()
    assert beat
    return (beat.disk_free_bytes or 0) < (beat.disk_least_bytes or 0)


def _state(job: Job) -> JobState:
    job.refresh_from_db()
    return JobState(job.state)
