"""Many thin GPU hosts in one process: `python -m benchmarks.crowd_of_hosts HOSTS MINUTES_PER_JOB SECONDS`, with the product's environment.

They speak the real protocol through the real Redis: sealed heartbeats with eight devices each, offers taken out of their
Celery queues, sealed reports of starts and ends. What a real host does on its own machine (claims, processes, logs) they do
not. It prints a line a second, JSON: what runs, starts and ends so far, and how long its own round took.
"""

from __future__ import annotations

import base64
import heapq
import json
import os
import random
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import django

DEVICES_EACH = 8
BEAT_S = 2.0
ROUND_S = 0.1


def main(hosts: int, mean_min: float, seconds: float) -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "autotrainer_site.settings"
    django.setup()
    crowd = Crowd(hosts, mean_s=mean_min * 60)
    until, said_at = time.monotonic() + seconds, 0.0
    while time.monotonic() < until:
        began = time.monotonic()
        crowd.round()
        took = time.monotonic() - began
        if time.monotonic() - said_at >= 1:
            said_at = time.monotonic()
            print(json.dumps({"at": time.time(), "round_ms": took * 1000, **crowd.counts()}), flush=True)
        time.sleep(max(0.0, ROUND_S - took))


@dataclass
class Thin:
    """One host: its fake, what runs on it, and when it beats next."""

    fake: Any
    running: dict[int, Any] = field(default_factory=dict)
    next_beat: float = 0.0


class Crowd:
    def __init__(self, count: int, *, mean_s: float) -> None:
        from django.conf import settings

        from tests.integration.fakehost import FakeHost

        self.hosts = [Thin(FakeHost(settings.REDIS_URL, name_of(n), devices=DEVICES_EACH, memory_mib=80 * 1024)) for n in range(count)]
        for n, host in enumerate(self.hosts):
            host.next_beat = time.monotonic() + BEAT_S * n / count
        self.redis, self.mean_s = self.hosts[0].fake.redis, mean_s
        self.ends: list[tuple[float, int, Any]] = []
        """(when, fence, (host, spec)): what ends next is first."""
        self.started = self.ended = 0

    def counts(self) -> dict[str, int]:
        return {"running": len(self.ends), "started": self.started, "ended": self.ended}

    def round(self) -> None:
        self._take_offers()
        now = time.monotonic()
        while self.ends and self.ends[0][0] <= now:
            _when, fence, (host, spec) = heapq.heappop(self.ends)
            host.fake.ended(spec)
            del host.running[fence]
            self.ended += 1
        for host in self.hosts:
            if host.next_beat <= now:
                host.next_beat = now + BEAT_S
                host.fake.beat(attempts=tuple(host.running.values()))

    def _take_offers(self) -> None:
        from gpuworker import protocol

        pipe = self.redis.pipeline(transaction=False)
        for host in self.hosts:
            pipe.lpop(f"{protocol.KEY_PREFIX}{protocol.host_queue(host.fake.name)}", 100)
        for host, raw in zip(self.hosts, pipe.execute(), strict=True):
            for message in map(json.loads, reversed(raw or [])):
                if message["headers"]["task"] == protocol.TRAIN_TASK:
                    self._start(host, message)

    def _start(self, host: Thin, message: Any) -> None:
        from gpuworker import protocol
        from gpuworker.protocol import AttemptReading, Kind, Spec

        (_uid, sealed), _, _ = json.loads(base64.b64decode(message["body"]))
        spec = Spec.read(protocol.unseal(Kind.SPEC, host.fake.name, sealed, [host.fake.key]))
        if spec.fence in host.running:
            return
        host.fake.started(spec)
        taken = tuple(device.uuid for device in host.fake.taken(spec))
        reading = AttemptReading(job=spec.job, attempt=spec.attempt, fence=spec.fence, running=True, name=spec.name, devices=taken)
        host.running[spec.fence] = reading
        heapq.heappush(self.ends, (time.monotonic() + random.expovariate(1 / self.mean_s), spec.fence, (host, spec)))
        self.started += 1


def name_of(number: int) -> str:
    return f"crowd-{number:03}"


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
