"""A GPU host as the control plane sees it: sealed heartbeats and reports in Redis, and the queue it would read."""

from __future__ import annotations

import base64
import json
import time
from typing import Any, TypeVar

import redis
from django.conf import settings
from django.utils import timezone

from gpuworker import protocol
from gpuworker.protocol import (
    Ack,
    AttemptReading,
    Beat,
    DeviceReading,
    DeviceRef,
    Ended,
    EndReason,
    Kind,
    LogChunk,
    Message,
    Refused,
    Rules,
    Spec,
    Started,
    Stuck,
)
from jobs import dispatch
from jobs.ingest import Ingest
from jobs.models import Job
from jobs.states import JobState

M = TypeVar("M", bound=Message)


class FakeHost:
    def __init__(self, redis_url: str, name: str, *, devices: int = 2, memory_mib: int = 24 * 1024) -> None:
        self.name, self.redis = name, redis.Redis.from_url(redis_url)
        self.key = protocol.derive_host_key(settings.CLUSTER_KEY, name)
        self.devices = [self.device(i, memory_mib) for i in range(devices)]
        self.boot_id = "boot-1"
        self.rules_serial = 0
        self._acks_from = b"0"

    def device(self, index: int, memory_mib: int = 24 * 1024, **more: Any) -> DeviceReading:
        return DeviceReading(
            uuid=f"GPU-{self.name}-{index}", index=index, name="Fake 24", memory_total_mib=memory_mib, memory_used_mib=3, **more
        )

    def close(self) -> None:
        self.redis.close()

    # --- what it sends ----------------------------------------------------------------------------------------------

    def beat(self, *, age_s: float = 0.0, attempts: tuple[AttemptReading, ...] = (), at: float | None = None, **more: Any) -> None:
        beat = Beat(
            host=self.name,
            at=time.time() - age_s if at is None else at,
            boot_id=self.boot_id,
            agent_version="0",
            device_source="simulated",
            devices=tuple(self.devices),
            attempts=attempts,
            **({"job_slots": 112, "rules_serial": self.rules_serial} | more),
        )
        left_ms = int((protocol.BEAT_LIFETIME_S - age_s) * 1000)
        self.redis.set(protocol.beat_key(self.name), self._sealed(Kind.BEAT, beat), px=left_ms)

    def started(self, spec: Spec, **more: Any) -> Started:
        told = {"boot_id": self.boot_id, "pid": 4711, "start_ticks": 99, "started_at": time.time(), "devices": self.taken(spec)} | more
        return self._report(Kind.STARTED, Started(job=spec.job, attempt=spec.attempt, fence=spec.fence, **told))

    def ended(self, spec: Spec, exit_code: int | None = 0, **more: Any) -> Ended:
        told = {"reason": EndReason.EXITED, "exit_code": exit_code, "started_at": time.time() - 1, "ended_at": time.time()}
        told |= {"devices": self.taken(spec)} | more
        return self._report(Kind.ENDED, Ended(job=spec.job, attempt=spec.attempt, fence=spec.fence, **told))

    def refused(self, spec: Spec, code: str = "device_busy", message: str = "GPU 0 is busy.") -> Refused:
        told = Refused(job=spec.job, attempt=spec.attempt, fence=spec.fence, code=code, message=message)
        return self._report(Kind.REFUSED, told)

    def stuck(self, spec: Spec, *processes: str) -> Stuck:
        return self._report(Kind.STUCK, Stuck(job=spec.job, attempt=spec.attempt, fence=spec.fence, processes=processes))

    def log(self, spec: Spec, data: bytes, offset: int = 0, *, cut_from: int | None = None, key: bytes | None = None) -> None:
        chunk = LogChunk(job=spec.job, attempt=spec.attempt, fence=spec.fence, offset=offset, data=data, cut_from=cut_from)
        self.redis.xadd(protocol.logs_key(self.name), protocol.seal_chunk(self.name, chunk, key or self.key))

    def taken(self, spec: Spec) -> tuple[DeviceRef, ...]:
        index = {d.uuid: d.index for d in self.devices}
        return tuple(DeviceRef(uuid=uuid, index=index.get(uuid, 0)) for uuid in spec.devices[: spec.device_count])

    def _report(self, kind: Kind, report: M) -> M:
        self.redis.xadd(protocol.reports_key(self.name), {"e": self._sealed(kind, report)})
        return report

    def _sealed(self, kind: Kind, message: Message) -> str:
        return protocol.seal(kind, self.name, message.body(), self.key)

    # --- what it gets -----------------------------------------------------------------------------------------------

    def offers(self) -> list[Spec]:
        """The specs in its queue, taken out, oldest first."""
        found = []
        while raw := self.redis.rpop(f"{protocol.KEY_PREFIX}{protocol.host_queue(self.name)}"):
            message = json.loads(raw)
            if message["headers"]["task"] != protocol.TRAIN_TASK:
                continue  # a canary
            (_, sealed), _, _ = json.loads(base64.b64decode(message["body"]))
            found.append(Spec.read(protocol.unseal(Kind.SPEC, self.name, sealed, [self.key])))
        return found

    def goes_by_its_rules(self) -> Rules | None:
        """What lies there for it; its next heartbeat says that it goes by this."""
        text: Any = self.redis.get(protocol.rules_key(self.name))
        if text is None:
            return None
        rules = Rules.read(protocol.unseal(Kind.RULES, self.name, text, [self.key]))
        self.rules_serial = rules.serial
        return rules

    def acks(self) -> list[Ack]:
        """What was acknowledged since the last call."""
        found = self.redis.xrange(protocol.acks_key(self.name), min=b"(" + self._acks_from if self._acks_from != b"0" else "-")
        if found:
            self._acks_from = found[-1][0]
        return [Ack.read(protocol.unseal(Kind.ACK, self.name, fields[b"e"], [self.key])) for _, fields in found]

    def left(self) -> int:
        """Entries of its streams that nobody has taken in."""
        return sum(self.redis.xlen(key) for key in (protocol.logs_key(self.name), protocol.reports_key(self.name)))


def runs(job: Job, host: FakeHost) -> None:
    """The host can read its offer, and is believed."""
    dispatch.run_pass(timezone.now())
    (spec,) = host.offers()
    host.started(spec)
    Ingest().turn(block_ms=1)
    job.refresh_from_db()
    assert job.state == JobState.RUNNING
    assert [ack.what for ack in host.acks()][-1] == "started"
