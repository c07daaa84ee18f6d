"""What the control plane says to hosts and hears from them through Redis and Celery, sealed. No decisions.

Everything here is best effort: a message is a hint, the row is the job, and the scheduler says it again until the row moves.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
from celery import current_app
from django.conf import settings
from kombu.exceptions import OperationalError

from gpuworker import dropped, envelope, misplaced, protocol
from gpuworker.envelope import Spoken
from gpuworker.measured import Measured
from gpuworker.message import Message
from gpuworker.protocol import Ack, Beat, Kind, Spec, Stop
from jobs import hostkeys, swaps

if TYPE_CHECKING:
    from jobs.models import Attempt, Job

log = logging.getLogger(__name__)
Report = protocol.Started | protocol.Stuck | protocol.Ended | protocol.Refused | Measured
ACKS_KEPT = 10_000
LIVE_TIMEOUT_S = 3.0
"""What a page and the leader's look wait for heartbeats. Whoever has waited in vain saves the next ones the waiting."""
CANARY_QUEUE = 200
"""A queue as long as this gets no more canaries."""


_making = threading.Lock()


@functools.cache
def client() -> redis.Redis:
    """The control plane's Redis connection pool; answers are bytes. Blocking reads must stay below its 15 s timeout."""
    with _making:
        return _client_of(settings.REDIS_URL)


@functools.lru_cache(maxsize=1)
def _client_of(url: str) -> redis.Redis:
    """One, whoever asks first: a second one that nobody keeps would close its connections while another thread is using them."""
    return redis.Redis.from_url(url, socket_timeout=15, socket_connect_timeout=2, health_check_interval=10)


SPOKEN_FRESH_S = 2.0
_SPOKEN: dict[str, tuple[float, Spoken]] = {}
"""What each host seals with, and when it was looked at."""


def sealed(kind: Kind, host: str, message: Message) -> str:
    """As this host can open it: with the key and in the version that it sealed its last heartbeat with."""
    spoken = _spoken(host)
    return protocol.seal(kind, host, message.body(), spoken.key, version=spoken.version)


def _spoken(host: str) -> Spoken:
    """The newest of both where nothing was heard."""
    looked_at, kept = _SPOKEN.get(host, (-math.inf, None))
    keys = hostkeys.valid(host)
    kept = kept if kept and kept.key in keys else None
    if kept and time.monotonic() - looked_at < SPOKEN_FRESH_S:
        return kept
    newest = Spoken(keys[0], envelope.PROTOCOL_VERSION)
    try:
        text: Any = client().get(protocol.beat_key(host))
    except (redis.RedisError, OSError):
        return kept or newest
    found = (envelope.spoken(Kind.BEAT, host, text, keys) if text else None) or newest
    _SPOKEN[host] = time.monotonic(), found
    return found


def by_new_key(hosts: Iterable[str]) -> dict[str, bool | None]:
    """Host -> whether it goes by the new cluster key; None: nothing with a good seal was heard. Raises redis.RedisError."""
    found: dict[str, bool | None] = {}
    for host in hosts:
        text: Any = client().get(protocol.beat_key(host))
        spoken = envelope.spoken(Kind.BEAT, host, text, hostkeys.valid(host)) if text else None
        found[host] = None if spoken is None else spoken.key in hostkeys.by_new_cluster_key(host)
    return found


def knock(job: Job) -> bool:
    """Wake the scheduler, and put the job's Celery task before its front door; False if Redis took neither (its tick will do).

    A person waits for this: without Redis it takes a few hundred ms at most, and the next ones nothing at all for a while.
    """
    if not ring():
        return False
    taken = _publish(protocol.CONTROL_QUEUE, job, args=[str(job.uid)], retries=0, again=False)
    if not taken:
        _door(settings.REDIS_URL).shut()
    return taken


def ring() -> bool:
    """Wake the scheduler, wherever it leads, by the shortest way: milliseconds before a Celery message gets there."""
    return _door(settings.REDIS_URL).ring()


class _Door:
    """Where Redis took nothing a moment ago it is not asked again. Threads may race here: at worst one asks once more."""

    SHUT_S = 2.0
    TIMEOUT_S = 0.3

    def __init__(self) -> None:
        self._shut_until = -math.inf

    @property
    def is_shut(self) -> bool:
        return time.monotonic() < self._shut_until

    def ring(self) -> bool:
        if self.is_shut:
            return False
        try:
            _bell(settings.REDIS_URL).xadd(protocol.wake_key(), {"w": b""}, maxlen=4, approximate=False)
        except (redis.RedisError, OSError) as exc:
            log.warning("Redis takes no knocks: %s", exc, extra={"action": "publish"})
            self.shut()
            return False
        return True

    def shut(self) -> None:
        self._shut_until = time.monotonic() + self.SHUT_S


@functools.lru_cache(maxsize=2)
def _door(url: str) -> _Door:
    return _Door()


@functools.lru_cache(maxsize=2)
def _bell(url: str) -> redis.Redis:
    """Impatient: Celery's own connection, and the one for reading, would try for many seconds where packets get lost."""
    return redis.Redis.from_url(url, socket_timeout=_Door.TIMEOUT_S, socket_connect_timeout=_Door.TIMEOUT_S, retry=None)


def answers() -> bool:
    """Whether Redis is reached from here, at once."""
    try:
        return bool(_bell(settings.REDIS_URL).ping())
    except (redis.RedisError, OSError):
        return False


@functools.lru_cache(maxsize=2)
def _live(url: str) -> redis.Redis:
    """For what changes all the time and is asked again: no reason to wait for an old answer."""
    return redis.Redis.from_url(url, socket_timeout=LIVE_TIMEOUT_S, socket_connect_timeout=2, health_check_interval=10)


def count(what: str, *, for_s: int) -> tuple[int, int]:
    """How often this was counted in the `for_s` seconds since its first time, over all web processes, and the seconds left.

    (0, 0) where Redis does not answer at once.
    """
    door = _door(settings.REDIS_URL)
    if door.is_shut:
        return 0, 0
    key = f"{protocol.KEY_PREFIX}count:{hashlib.sha256(what.encode(errors='replace')).hexdigest()}"
    try:
        with _bell(settings.REDIS_URL).pipeline() as pipe:
            pipe.set(key, 0, ex=for_s, nx=True)
            pipe.incr(key)
            pipe.ttl(key)
            _, number, left_s = pipe.execute()
    except (redis.RedisError, OSError):
        door.shut()
        return 0, 0
    return number, left_s


def offer(job: Job, spec: Spec, host: str) -> bool:
    """Put a dispatch into its host's queue under the job's own Celery task id."""
    text = sealed(Kind.SPEC, host, spec)
    if not _lay_out(swaps.contents(spec), job):
        return False
    return _publish(protocol.host_queue(host), job, args=[str(job.uid), text], retries=spec.retries_spent)


def _lay_out(contents: Mapping[str, bytes], job: Job) -> bool:
    """Put the files of a spec beside it; the host checks them against the hashes that it names."""
    try:
        for sha256, data in contents.items():
            client().set(protocol.content_key(sha256), data, ex=protocol.CONTENT_LIFETIME_S)
    except redis.RedisError as exc:
        log.warning("Redis took no files: %s", exc, extra={"action": "publish", "job_id": job.pk})
        return False
    return True


def _publish(queue: str, job: Job, *, args: list[str], retries: int, again: bool = True) -> bool:
    """`again`: whether to try a few times where the connection breaks."""
    try:
        current_app.send_task(
            protocol.TRAIN_TASK,
            args=args,
            task_id=str(job.uid),
            queue=queue,
            retries=retries,
            argsrepr=repr(job.command[:200]),
            kwargsrepr="",
            ignore_result=True,
            retry=again,
        )
    except (OperationalError, redis.RedisError, OSError) as exc:
        log.warning("Redis took no message for %s: %s", queue, exc, extra={"action": "publish", "job_id": job.pk})
        return False
    return True


def canary(host: str) -> bool:
    """Put a canary into a host's queue, by the way that specs go, and say that it is there; False if either did not work."""
    now = time.time()
    told = protocol.Canary(at=now, expires_at=now + protocol.COMMAND_LIFETIME_S)
    text = sealed(Kind.CANARY, host, told)
    queue = protocol.host_queue(host)
    try:
        if int(client().llen(f"{protocol.KEY_PREFIX}{queue}")) >= CANARY_QUEUE:
            return False  # Nobody takes anything there: more of them would only lie about.
        current_app.send_task(protocol.CANARY_TASK, args=[text], queue=queue, argsrepr="", kwargsrepr="", ignore_result=True, retry=False)
        client().set(protocol.canary_key(host), text, ex=round(protocol.COMMAND_LIFETIME_S))
    except (OperationalError, redis.RedisError, OSError) as exc:
        log.warning("Redis took no canary for %s: %s", host, exc, extra={"action": "canary"})
        return False
    return True


def put_rules(host: str, rules: protocol.Rules) -> bool:
    """Lay the operators' rules out for a host; False if Redis took nothing. Done again until the host says that it goes by them."""
    try:
        client().set(protocol.rules_key(host), sealed(Kind.RULES, host, rules))
    except (redis.RedisError, OSError) as exc:
        log.warning("Redis took no rules for %s: %s", host, exc, extra={"action": "rules"})
        return False
    return True


def stop(attempt: Attempt, *, job_uid: str, kill_grace_s: float) -> bool:
    """Tell the attempt's host to end it; False if nothing could be sent. Repeated by the scheduler until the end is reported."""
    return stop_on(attempt.host, job=job_uid, attempt=attempt.number, fence=attempt.fence, kill_grace_s=kill_grace_s)


def stop_on(host: str, *, job: str, attempt: int, fence: int, kill_grace_s: float) -> bool:
    """Tell a host to end what it runs under this name, which the database need not know."""
    command = Stop(
        job=job,
        attempt=attempt,
        fence=fence,
        expires_at=time.time() + protocol.COMMAND_LIFETIME_S,
        nonce=secrets.token_hex(16),
        kill_grace_s=kill_grace_s,
    )
    text = sealed(Kind.STOP, host, command)
    try:
        current_app.control.broadcast(
            protocol.STOP_COMMAND, destination=[protocol.node_name(host)], arguments={"sealed": text}, reply=False
        )
    except (OperationalError, redis.RedisError, OSError) as exc:
        log.warning(
            "Redis took no stop for %s: %s", host, exc, extra={"action": "stop", "attempt_key": protocol.attempt_key(job, attempt, fence)}
        )
        return False
    return True


def ask_again(host: str, *, job: str, attempt: int, fence: int) -> None:
    """Ask a host to say again how an attempt ended that it does not show any more. Raises redis.RedisError."""
    acknowledge(host, [Ack(job=job, attempt=attempt, fence=fence, what=protocol.SAY_AGAIN)])


def acknowledge(host: str, acks: Iterable[Ack], *, logs: Sequence[bytes] = (), reports: Sequence[bytes] = ()) -> None:
    """Tell a host what is stored here, and delete the stream entries that said it.

    Raises redis.RedisError: the entries are still there then, and will be stored and acknowledged again.
    """
    texts = [sealed(Kind.ACK, host, ack) for ack in acks]

    def tell() -> None:
        pipe = client().pipeline(transaction=False)
        for text in texts:
            pipe.xadd(protocol.acks_key(host), {"e": text}, maxlen=ACKS_KEPT, approximate=True)
        if logs:
            pipe.xdel(protocol.logs_key(host), *logs)
        if reports:
            pipe.xdel(protocol.reports_key(host), *reports)
        pipe.execute()

    misplaced.retried(client(), dict.fromkeys([protocol.acks_key(host), *report_keys(host)], "stream"), tell)


# --- what Redis proves ---------------------------------------------------------------------------------------------------


def unbroken_since() -> datetime:
    """Since when this Redis has lost nothing: neither emptied, nor replaced, nor restarted. Raises redis.RedisError."""
    run_id = str(client().info("server")["run_id"])
    text: Any = misplaced.retried(client(), {protocol.since_key(): "string"}, lambda: client().get(protocol.since_key()))
    noted, _, since_ms = (text or b"").decode(errors="replace").partition(" ")
    if noted != run_id or not since_ms.isdigit():
        since_ms = str(math.ceil(time.time() * 1000))
        client().set(protocol.since_key(), f"{run_id} {since_ms}")
    return datetime.fromtimestamp(int(since_ms) / 1000, UTC)


def bar(host: str, *, job: str, fence: int) -> bool:
    """Whether this dispatch has claimed nothing on its host and, from now on, never can. Raises redis.RedisError."""
    try:
        answer: Any = client().eval(_BAR, 1, protocol.fences_key(host), job, str(fence))
    except redis.ResponseError as exc:
        log.warning("%s proves nothing: %s", protocol.fences_key(host), exc, extra={"action": "bar"})
        return False  # Its host clears it away when it is back.
    return bool(answer == 1)


_BAR = (Path(__file__).parent / "bar.lua").read_text()


@dataclass(frozen=True, slots=True)
class Heard:
    """A heartbeat and the seconds since Redis got it."""

    beat: Beat
    age_s: float
    version: int
    """Of the protocol, as its host speaks it."""
    key: bytes = field(default=b"", repr=False)
    """By which it was sealed."""


def heard(hosts: Iterable[str]) -> dict[str, Heard]:
    """The last heartbeat of each of these hosts that has one with a good seal; raises redis.RedisError.

    The age comes from Redis, so that a host whose clock is wrong is neither lost nor kept. But a heartbeat that was sent
    before one that is known is as old as that, whoever put it there again.
    """
    names = list(hosts)
    if not names:
        return {}
    texts, left_ms = _beats(names)
    found = {}
    for name, text, left in zip(names, texts, left_ms, strict=True):
        if text and left > 0 and (read := _read_beat(name, text)):
            beat, spoken = read
            behind_s = _KNOWN[name].behind_s(beat)
            found[name] = Heard(beat, max(behind_s, protocol.BEAT_LIFETIME_S - left / 1000), spoken.version, spoken.key)
    return {name: host for name, host in found.items() if host.age_s < math.inf}


def _beats(names: Sequence[str]) -> tuple[list[bytes | None], list[int]]:
    """The texts and what is left of their life in ms. Raises redis.RedisError, at once where it was raised a moment ago."""
    door = _door(settings.REDIS_URL)
    if door.is_shut:
        raise redis.ConnectionError("Redis did not answer a moment ago")
    pipe = _live(settings.REDIS_URL).pipeline(transaction=False)
    pipe.mget([protocol.beat_key(name) for name in names])
    for name in names:
        pipe.pttl(protocol.beat_key(name))
    try:
        texts, *left_ms = pipe.execute()
    except (redis.RedisError, OSError):
        door.shut()
        raise
    return texts, left_ms


_LAST_BEATS: dict[str, tuple[bytes, tuple[bytes, ...], tuple[Beat, Spoken] | None]] = {}
"""The last text of each host, its keys then, and what it says: a heartbeat is read many times before the next one comes."""


@dataclass(slots=True)
class _Known:
    """What this process has heard of one host: which start of its agent it was last, and the newest heartbeat of that."""

    instance: str | None = None
    newest_at: float = 0.0
    over: set[str] = field(default_factory=set)
    """Starts of its agent that others have followed."""

    def behind_s(self, beat: Beat) -> float:
        """How much older this heartbeat is than what is known already; infinite where its agent was followed by another."""
        if beat.instance in self.over:
            return math.inf
        if beat.instance != self.instance:
            if self.instance is not None:
                self.over.add(self.instance)
            self.instance, self.newest_at = beat.instance, beat.at
        self.newest_at = max(self.newest_at, beat.at)
        return self.newest_at - beat.at


_KNOWN: defaultdict[str, _Known] = defaultdict(_Known)


def forget_heartbeats() -> None:
    _LAST_BEATS.clear()
    _SPOKEN.clear()
    _KNOWN.clear()


def _read_beat(host: str, text: bytes) -> tuple[Beat, Spoken] | None:
    """What it says, and by which key and in which version of the protocol."""
    keys = hostkeys.valid(host)
    last = _LAST_BEATS.get(host)
    if last and last[:2] == (text, keys):
        return last[2]
    read = None
    try:
        body, spoken = envelope.opened(Kind.BEAT, host, text, keys)
        _SPOKEN[host] = time.monotonic(), spoken
        read = Beat.read(body), spoken
    except (protocol.BadEnvelope, protocol.BadMessage) as exc:
        dropped.warn(log, "heartbeat of %s dropped: %s", host, exc, action=dropped.Drop.BEAT)
    _LAST_BEATS[host] = (text, keys, read)
    return read


def report_keys(host: str) -> tuple[str, str]:
    """The streams that a host writes: (log chunks, reports). Read the first before the second: logs come before ends."""
    return protocol.logs_key(host), protocol.reports_key(host)


def read_streams(keys: Sequence[bytes], *, count: int, block_ms: int | None) -> dict[bytes, list[tuple[bytes, dict[bytes, bytes]]]]:
    """The oldest entries of these streams, from their beginning: what is taken in is deleted. Raises redis.RedisError."""
    places: Any = dict.fromkeys(keys, b"0")
    streams = {key.decode(): "stream" for key in keys}
    answer: Any = misplaced.retried(client(), streams, lambda: client().xread(places, count=count, block=block_ms))
    if isinstance(answer, dict):  # RESP3: key -> [entries]
        return {key: entries[0] for key, entries in answer.items()}
    return {key: entries for key, entries in answer or []}


def forget_knocks(entries: Sequence[bytes]) -> None:
    misplaced.retried(client(), {protocol.wake_key(): "stream"}, lambda: client().xdel(protocol.wake_key(), *entries))


def waiting_reports(host: str) -> int:
    """Reports that nobody has taken yet; raises redis.RedisError."""
    key = protocol.reports_key(host)
    return int(misplaced.retried(client(), {key: "stream"}, lambda: client().xlen(key)))


def unseal_chunk(host: str, fields: Mapping[bytes, bytes]) -> protocol.LogChunk:
    """The log chunk in a stream entry; raises BadEnvelope."""
    return protocol.unseal_chunk(host, fields, hostkeys.valid(host))


def unseal_report(host: str, fields: Mapping[bytes, bytes]) -> Report:
    """The report in a stream entry; raises BadEnvelope or BadMessage."""
    text = fields.get(b"e", b"")
    for kind, message in _REPORTS.items():
        if f'"k": "{kind}"'.encode() in text[:80]:
            return message.read(protocol.unseal(kind, host, text, hostkeys.valid(host)))
    raise protocol.BadEnvelope("not a report")


_REPORTS: dict[Kind, type[Report]] = {
    Kind.STARTED: protocol.Started,
    Kind.STUCK: protocol.Stuck,
    Kind.ENDED: protocol.Ended,
    Kind.REFUSED: protocol.Refused,
    Kind.MEASURED: Measured,
}
