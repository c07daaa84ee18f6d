"""A host agent as a real process, and the control plane's half of the conversation, as short as it can be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from gpuworker import groups, identity, messageguard, protocol
from gpuworker import settings as environment
from gpuworker.protocol import Ack, Beat, Canary, Ended, Kind, Refused, Spec, Started, Stop
from tests.waiting import wait_until

CLUSTER_KEY = b"the cluster key of this test"
HOST = "gpu-a"
KEY = protocol.derive_host_key(CLUSTER_KEY, HOST)
REPORTS: dict[str, type[Started] | type[Ended] | type[Refused]] = {"started": Started, "ended": Ended, "refused": Refused}


@dataclass
class Host:
    """One host: its home, its agents one after the other, and what the control plane sees of it."""

    url: str
    home: Path
    devices: str = "sim:2x8GiB"
    acknowledges: bool = True
    program: tuple[str, ...] = ("-m", "celery", "-A", "gpuworker")
    """What the agent is started with: the worker as it is, or tests/programs/hooked_worker.py."""
    variables: dict[str, str] = field(default_factory=dict)
    key: bytes = KEY
    """Changed by the test that replaces it."""
    agent: subprocess.Popen[bytes] | None = None
    reports: list[Started | Ended | Refused] = field(default_factory=list)
    logs: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client = redis.Redis.from_url(self.url)
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("AUTOTRAINER_", "DJANGO_"))},
            "AUTOTRAINER_HOME": str(self.home),
            "AUTOTRAINER_REDIS_URL": self.url,
            "AUTOTRAINER_HOST": HOST,
            "AUTOTRAINER_HOST_KEY": self.key.hex(),
            "AUTOTRAINER_DEVICES": self.devices,
            "AUTOTRAINER_HEARTBEAT_S": "0.3",
            "DJANGO_SETTINGS_MODULE": "autotrainer_site.settings",
            **self.variables,
        }
        self.settings = environment.load({k: v for k, v in self.env.items() if k.startswith("AUTOTRAINER_")})
        self.app = Celery("control-of-the-test", set_as_current=False)
        self.app.config_from_object(environment.celery_conf(self.settings, "test"))
        messageguard.install(self.app)  # as the control plane does

    @property
    def attempts(self) -> Path:
        return self.settings.host_home / "attempts"

    # --- the agent ------------------------------------------------------------------------------------------------------

    def start(self) -> subprocess.Popen[bytes]:
        before, said = self.beat(), len(self.words())
        agent = self.spawn()
        wait_until(lambda: agent.poll() is not None or self.beat() != before, 20, "a heartbeat")
        assert agent.poll() is None, self.words()
        wait_until(lambda: "ready." in self.words()[said:] or agent.poll() is not None, 20, "a ready worker")
        return agent

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start an agent and wait for nothing."""
        command = [sys.executable, *self.program, "worker", "-P", "threads", "-c", "128"]
        command += ["-Q", protocol.host_queue(HOST), "-n", protocol.node_name(HOST), "--without-gossip", "--without-mingle", "-l", "INFO"]
        with (self.home / "agent.log").open("ab") as log:
            self.agent = subprocess.Popen(command, env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        return self.agent

    def kill(self) -> None:
        assert self.agent
        self.agent.kill()
        self.agent.wait()

    def words(self) -> str:
        log = self.home / "agent.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def close(self) -> None:
        if self.agent and self.agent.poll() is None:
            self.agent.kill()
            self.agent.wait()
        _end_trainings(self.attempts)
        self.app.close()
        self.client.close()

    # --- what the control plane says ------------------------------------------------------------------------------------

    def spec(self, command: str, **changes: Any) -> Spec:
        spec = Spec(
            job=str(uuid.uuid4()),
            number=7,
            name="a job",
            attempt=1,
            fence=100,
            expires_at=time.time() + protocol.SPEC_LIFETIME_S,
            command=command,
            working_dir=str(self.home),
            device_count=1,
            devices=self.uuids,
            env={},
            kill_grace_s=2.0,
            retry_delay_s=1.0,
        )
        return replace(spec, **changes)

    @property
    def uuids(self) -> tuple[str, ...]:
        beat = self.beat()
        return tuple(device.uuid for device in beat.devices) if beat else ()

    def offer(self, spec: Spec, *, sealed: str = "") -> Spec:
        sealed = sealed or protocol.seal(Kind.SPEC, HOST, spec.body(), self.key)
        self.send([spec.job, sealed], task_id=spec.job, retries=spec.retries_spent, argsrepr=spec.command)
        return spec

    def send(self, args: list[Any], *, task_id: str, **options: Any) -> None:
        self.app.send_task(protocol.TRAIN_TASK, args=args, task_id=task_id, queue=protocol.host_queue(HOST), **options)

    def stop(self, spec: Spec, **changes: Any) -> str:
        order = Stop(
            job=spec.job,
            attempt=spec.attempt,
            fence=spec.fence,
            expires_at=time.time() + protocol.COMMAND_LIFETIME_S,
            nonce=uuid.uuid4().hex,
            kill_grace_s=1.0,
        )
        sealed = protocol.seal(Kind.STOP, HOST, replace(order, **changes).body(), self.key)
        self.command(sealed)
        return sealed

    def canary(self) -> None:
        """As the leader does every 20 seconds."""
        now = time.time()
        body = Canary(at=now, expires_at=now + protocol.COMMAND_LIFETIME_S).body()
        sealed = protocol.seal(Kind.CANARY, HOST, body, self.key)
        self.app.send_task(protocol.CANARY_TASK, args=[sealed], queue=protocol.host_queue(HOST))
        self.client.set(protocol.canary_key(HOST), sealed, ex=60)

    def command(self, sealed: object) -> None:
        self.app.control.broadcast(protocol.STOP_COMMAND, destination=[protocol.node_name(HOST)], arguments={"sealed": sealed})

    # --- what it hears --------------------------------------------------------------------------------------------------

    def beat(self) -> Beat | None:
        text: Any = self.client.get(protocol.beat_key(HOST))
        return Beat.read(protocol.unseal(Kind.BEAT, HOST, text, [self.key, KEY])) if text else None

    def hear(self) -> None:
        """Read what has come, logs before reports, and acknowledge it."""
        for key, take in ((protocol.logs_key(HOST), self._take_log), (protocol.reports_key(HOST), self._take_report)):
            entries: Any = self.client.xrange(key)
            for entry, fields in entries:
                take(fields)
                self.client.xdel(key, entry)

    def _take_log(self, fields: dict[bytes, bytes]) -> None:
        chunk = protocol.unseal_chunk(HOST, fields, [self.key, KEY])
        key = protocol.attempt_key(chunk.job, chunk.attempt, chunk.fence)
        stored = self.logs.get(key, b"")
        if chunk.offset <= len(stored):
            self.logs[key] = stored + chunk.data[len(stored) - chunk.offset :]
        self._acknowledge(chunk.job, chunk.attempt, chunk.fence, "log", offset=len(self.logs.get(key, b"")))

    def _take_report(self, fields: dict[bytes, bytes]) -> None:
        for kind, message in REPORTS.items():
            if f'"k": "{kind}"'.encode() in fields[b"e"][:80]:
                report = message.read(protocol.unseal(Kind(kind), HOST, fields[b"e"], [self.key, KEY]))
                self.reports.append(report)
                self._acknowledge(report.job, report.attempt, report.fence, kind)

    def _acknowledge(self, job: str, attempt: int, fence: int, what: str, offset: int = 0) -> None:
        if self.acknowledges:
            ack = Ack(job=job, attempt=attempt, fence=fence, what=what, offset=offset)
            self.client.xadd(protocol.acks_key(HOST), {"e": protocol.seal(Kind.ACK, HOST, ack.body(), self.key)})

    def report(self, kind: type[Any], spec: Spec, timeout_s: float = 15.0) -> Any:
        """The first report of this kind about this attempt."""

        def look() -> Any:
            self.hear()
            return next((r for r in self.reports if isinstance(r, kind) and (r.job, r.fence) == (spec.job, spec.fence)), None)

        try:
            return wait_until(look, timeout_s, f"{kind.__name__} of {spec.command!r}")
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.words()}") from None

    def log(self, spec: Spec) -> bytes:
        return self.logs.get(protocol.attempt_key(spec.job, spec.attempt, spec.fence), b"")

    def folder(self, spec: Spec) -> Path:
        return self.attempts / protocol.attempt_key(spec.job, spec.attempt, spec.fence)

    def claims(self) -> dict[str, str]:
        found: Any = self.client.hgetall(protocol.claims_key(HOST))
        return {uuid.decode(): value.split()[0].decode() for uuid, value in found.items()}


def _end_trainings(attempts: Path) -> None:
    """Nothing of a test outlives it: processes with the mark of one of these attempts, then their shims."""
    for folder in attempts.iterdir() if attempts.is_dir() else ():
        mark = f"AUTOTRAINER_MARK={folder.name}".encode()
        for proc in Path("/proc").iterdir():
            if proc.name.isdigit() and carries(proc, mark):
                _kill(int(proc.name))
        group = identity.group_of(None, groups.parent_for(), folder.name)
        if group:
            group.kill()
            wait_until(group.remove, 10, f"{group.path} is empty")


def carries(proc: Path, entry: bytes) -> bool:
    try:
        return entry in (proc / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


@contextmanager
def running_host(url: str, home: Path, **options: Any) -> Iterator[Host]:
    host = Host(url, home, **options)
    try:
        host.start()
        yield host
    finally:
        host.close()
