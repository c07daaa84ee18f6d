"""What the control plane and a GPU host say to each other: names, messages, signatures.

The only module of `gpuworker` that the control plane may lean on besides `gpuworker.settings`. Standard library only.

Trust (docs/how-it-works.md, "Trust"): each host has a key of its own, derived from the cluster key by HMAC. Every message
between it and the control plane is sealed with that key and names kind, host and protocol version, so that it cannot be
altered, redirected or taken for another. Specs and commands expire; reports are repeated until a sealed acknowledgement comes.

Redis, all below `autotrainer:` (Celery's own keys carry the same prefix through `global_keyprefix`):

    host:<name>:beat      string, the last sealed Beat, expires after an hour
    host:<name>:reports   stream, field `e`: a sealed Started, Stuck, Ended or Refused; the control plane deletes what it has applied
    host:<name>:logs      stream, fields `h`, `d`, `m`: header, raw bytes and seal of one log chunk; deleted when stored
    host:<name>:acks      stream, field `e`: a sealed Ack; bounded, the host reads on from where it was
    host:<name>:claims    hash, device UUID -> its holders (gpuworker/claims/acquire.lua)
    host:<name>:fences    hash, job UID -> the highest fence that ever claimed on this host
    content:<sha256>      string, a file that a job swaps in; beside its spec, which names it by its hash; expires soon
    host:<name>:canary    string, the sealed Canary that was last put into the host's queue, expires with it
    host:<name>:rules     string, the sealed Rules of this host's operators; the host keeps the last ones on its disk
    since                 string, "<run id> <unix ms>": since when this Redis has lost nothing, as the leader saw it
    wake                  stream, empty entries: the bell of the scheduler: whoever changes what may start rings it
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import hmac
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpuworker import envelope
from gpuworker.envelope import BadEnvelope as BadEnvelope
from gpuworker.envelope import OtherVersion as OtherVersion
from gpuworker.envelope import seal as seal
from gpuworker.envelope import unseal as unseal
from gpuworker.message import BadMessage as BadMessage
from gpuworker.message import Message as Message
from gpuworker.readings import AttemptReading as AttemptReading
from gpuworker.readings import Beat as Beat
from gpuworker.readings import DeviceReading as DeviceReading
from gpuworker.readings import ProcessReading as ProcessReading
from gpuworker.wishes import IgnoredProcess as IgnoredProcess
from gpuworker.wishes import Rules as Rules

KEY_PREFIX = "autotrainer:"
TRAIN_TASK = "autotrainer.train"
CANARY_TASK = "autotrainer.canary"
CONTROL_QUEUE = "control"
STOP_COMMAND = "autotrainer_stop"  # our own Celery remote command; always sent with `destination`

SPEC_LIFETIME_S = 60.0
"""How long a host may start from a spec. A row leaves `starting` no sooner than its spec's expiry and a minute more."""
COMMAND_LIFETIME_S = 60.0
LONGEST_COUNTDOWN_S = 900
"""Celery holds a countdown unacknowledged in worker memory: longer ones would be delivered again (visibility timeout)."""
LONGEST_BACKOFF_S = 3600.0
SAY_AGAIN = "again"
"""`what` of an Ack that takes an earlier one back."""
CANARY_EVERY_S = 20.0
DEAF_AFTER_S = 1.5 * CANARY_EVERY_S
"""Two canaries have not come through a host's queue: nothing new is sent there."""
LOG_CHUNK_BYTES = 64 * 1024
LARGEST_HEADER_BYTES = 4096
"""Of a log chunk: what is longer was made by nobody of ours, and is not even looked into."""
IN_USE_MEMORY_MIB = 1024
IN_USE_IDLE_MIN = 30
"""What "uses a device" means for a process outside the queue where no operator said anything else."""
BEAT_LIFETIME_S = 3600
"""Expiry of a heartbeat's key. What is left of it tells its age by one clock for all: Redis's."""

CONTENT_LIFETIME_S = 180
"""Put there anew with each offer. A host that comes too late refuses, and the next offer brings it again."""

_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class Kind(enum.StrEnum):
    """What a sealed message is; part of what is signed."""

    SPEC = "spec"
    STOP = "stop"
    STARTED = "started"
    ENDED = "ended"
    REFUSED = "refused"
    STUCK = "stuck"
    BEAT = "beat"
    ACK = "ack"
    LOG = "log"
    CANARY = "canary"
    RULES = "rules"
    HELLO = "hello"
    WELCOME = "welcome"
    MEASURED = "measured"
    QUESTION = "question"
    ANSWER = "answer"


def valid_host_name(name: str) -> bool:
    """Host names are parts of Redis keys, queue names and paths: letters, digits, `_`, `.`, `-`, at most 63."""
    return _HOST_NAME.fullmatch(name) is not None


def host_queue(host: str) -> str:
    """The Celery queue that only this host's agent consumes."""
    return f"host.{host}"


def node_name(host: str) -> str:
    """The Celery node name of a host's agent, the `destination` of commands to it."""
    return f"gpu@{host}"


def wake_key() -> str:
    return f"{KEY_PREFIX}wake"


def beat_key(host: str) -> str:
    return f"{KEY_PREFIX}host:{host}:beat"


def reports_key(host: str) -> str:
    return f"{KEY_PREFIX}host:{host}:reports"


def logs_key(host: str) -> str:
    return f"{KEY_PREFIX}host:{host}:logs"


def acks_key(host: str) -> str:
    return f"{KEY_PREFIX}host:{host}:acks"


def claims_key(host: str) -> str:
    return f"{KEY_PREFIX}host:{host}:claims"


def fences_key(host: str) -> str:
    return f"{KEY_PREFIX}host:{host}:fences"


def canary_key(host: str) -> str:
    return f"{KEY_PREFIX}host:{host}:canary"


def rules_key(host: str) -> str:
    return f"{KEY_PREFIX}host:{host}:rules"


def since_key() -> str:
    return f"{KEY_PREFIX}since"


def content_key(sha256: str) -> str:
    return f"{KEY_PREFIX}content:{sha256}"


def attempt_key(job: str, attempt: int, fence: int) -> str:
    """One dispatch of one attempt: the name of its directory on the host, its claim's holder, its processes' marker."""
    return f"{job}.{attempt}.{fence}"


def derive_host_key(cluster_key: bytes, host: str, generation: int = 0) -> bytes:
    """The key that the control plane shares with one host (32 bytes). It says nothing about another's, nor about the next generation's."""
    named = f"{host}\n{generation}" if generation else host
    return hmac.digest(cluster_key, b"autotrainer host key 1\n" + named.encode(), "sha256")


# --- log chunks ---------------------------------------------------------------------------------------------------------


def seal_chunk(host: str, chunk: LogChunk, key: bytes) -> dict[str, bytes]:
    """The stream fields of one log chunk; raw bytes travel beside their signed header, not inside JSON."""
    version = envelope.PROTOCOL_VERSION
    told = {"v": version, "job": chunk.job, "attempt": chunk.attempt, "fence": chunk.fence, "offset": chunk.offset}
    header = json.dumps(told if chunk.cut_from is None else told | {"cut_from": chunk.cut_from})
    mac = envelope.mac_of(version, Kind.LOG, host, _chunk_bytes(header.encode(), chunk.data), key)
    return {"h": header.encode(), "d": chunk.data, "m": mac.encode()}


def unseal_chunk(host: str, fields: Mapping[bytes, bytes], keys: Sequence[bytes]) -> LogChunk:
    """The log chunk in a stream entry's fields; raises BadEnvelope."""
    try:
        header, data, mac = fields[b"h"], fields[b"d"], fields[b"m"]
        if len(header) > LARGEST_HEADER_BYTES:
            raise ValueError("a header without end")
        told = json.loads(header)
        version = int(told["v"])
        attempt, fence, offset = int(told["attempt"]), int(told["fence"]), int(told["offset"])
        cut_from = None if told.get("cut_from") is None else int(told["cut_from"])
        chunk = LogChunk(job=str(told["job"]), attempt=attempt, fence=fence, offset=offset, data=data, cut_from=cut_from)
    except envelope.UNREADABLE as exc:
        raise BadEnvelope(f"not a log chunk: {type(exc).__name__}") from exc
    envelope.check_version(version)
    if not envelope.signed(version, Kind.LOG, host, _chunk_bytes(header, data), mac, keys):
        raise BadEnvelope("the log chunk's signature is not by this host's key")
    return chunk


def _chunk_bytes(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(4, "big") + header + data


# --- messages -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap(Message):
    """A file that a job sees in the place of another: `source` is a path on the host, else the content is named by its hash."""

    target: str
    """Relative to the working directory."""
    source: str = ""
    sha256: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(Message):
    """One dispatch of one attempt: everything that a host needs to start it. Lives until `expires_at` (unix seconds)."""

    job: str
    number: int
    name: str
    attempt: int
    fence: int
    expires_at: float
    command: str
    working_dir: str
    device_count: int
    devices: tuple[str, ...]
    """Allowed device UUIDs, best first; the host takes `device_count` of them and no others."""
    env: dict[str, str]
    environment: str = ""
    """Prefix of a venv or conda environment; its `bin` goes first on PATH. Empty: none."""
    time_limit_s: float | None = None
    kill_grace_s: float = 10.0
    max_retries: int = 0
    retries_spent: int = 0
    retry_delay_s: float = 30.0
    retry_on_oom: bool = True
    log_limit_bytes: int | None = None
    """What is over it is cut out of the middle of the log (gpuworker.disks). None: nothing is."""
    swaps: tuple[Swap, ...] = ()
    shared: bool = False
    """Others that share may be on its devices too, as far as the memory goes."""
    gpu_memory_mib: int = 0
    """What it may count on, of each device."""
    gone_after_s: float | None = None
    """So long after its host's last contact nothing of it is there any more, by that host's own clock: then it may start
    elsewhere. None: it goes on without any contact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop(Message):
    """End an attempt: TERM to its tree, the grace, KILL. `nonce` makes a repeated one silent."""

    job: str
    attempt: int
    fence: int
    expires_at: float
    nonce: str
    kill_grace_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRef(Message):
    uuid: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Swapped(Message):
    """What the host did for one swap."""

    target: str
    way: str
    """mount: only this job sees it. journal: the file itself was replaced, its original lies beside it."""
    absent: bool = False
    diff: str = ""
    """Unified, against the original as it was then; bounded. Empty where it is not text, or too large."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBack(Message):
    """How a swap ended: restored, removed (it was absent before), untouched (mount), conflict, lost or failed."""

    target: str
    way: str
    result: str
    path: str = ""
    kept: str = ""
    """Where the original lies after a conflict."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Message):
    """The command runs (its `go` was given). Times are unix seconds by the host's clock."""

    job: str
    attempt: int
    fence: int
    devices: tuple[DeviceRef, ...]
    boot_id: str
    pid: int
    start_ticks: int
    started_at: float
    swapped: tuple[Swapped, ...] = ()


class EndReason(enum.StrEnum):
    """Why an attempt is over, as the host saw it. `exited` covers signals too."""

    EXITED = "exited"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    LAUNCH_FAILED = "launch_failed"
    EXIT_LOST = "exit_lost"
    HOST_LOST = "host_lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Message):
    """An attempt is over, its tree is empty and its devices are given back (or named in `unclean`, with why)."""

    job: str
    attempt: int
    fence: int
    reason: EndReason
    exit_code: int | None = None
    signal: int | None = None
    oom_detected: bool = False
    started_at: float | None = None
    ended_at: float
    log_bytes: int = 0
    message: str = ""
    """For people: the missing directory, what the shim could not do."""
    host_oom: bool = False
    """The kernel ended a process of it for lack of host memory; `oom_detected` is about the devices' memory."""
    own_fault: bool = True
    """False for launch failures that are not the job's: those spend the infrastructure budget."""
    devices: tuple[DeviceRef, ...] = ()
    unclean: dict[str, str] = dataclasses.field(default_factory=dict)
    log_truncated: bool = False
    """The command truncated its own log: what was relayed before is kept, what came next follows on it."""
    log_cut_bytes: int = 0
    """How much of the middle of the log was cut out, since it was over its limit."""
    put_back: tuple[PutBack, ...] = ()
    progress: float | None = None
    """0…1, as its log told last."""
    peak_memory_mib: int | None = None
    """The most that its processes had on one of its devices; None: nobody saw it, a short attempt's for instance."""
    mail: str = ""
    """What it wrote into AUTOTRAINER_MAIL, as it stands (gpuworker/ownmail.py)."""
    mail_fault: str = ""
    """Why that could not be read: a MailFault, or empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck(Message):
    """Processes of an attempt that SIGKILL has not ended for a minute. It is not over, and its devices are not free."""

    job: str
    attempt: int
    fence: int
    processes: tuple[str, ...]
    """Each by its program, its pid and its state in the kernel's letter (D waits for a device or a disk)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Message):
    """The host did not start this dispatch and never will; the job goes back to its place and spends no retry."""

    job: str
    attempt: int
    fence: int
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack(Message):
    """What the control plane has stored: a report (`what` is its kind), or a log up to `offset` bytes (`what` is "log").

    A log acknowledgement below what the host has sent means: send again from there. `what` "again" takes an earlier one
    back: the control plane does not know any more how this attempt ended, after a restored backup for instance.
    """

    job: str
    attempt: int
    fence: int
    what: str
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary(Message):
    """A message without content, by the way that specs go: what comes through proves that the way is open.

    `at` (unix seconds by the control plane's clock) grows from one to the next.
    """

    at: float
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChunk:
    """Bytes of an attempt's log as the command wrote them, from a logical offset on."""

    job: str
    attempt: int
    fence: int
    offset: int
    data: bytes
    cut_from: int | None = None
    """What lies between here and `offset` was cut out on the host and will never come. None: nothing was."""


def backoff_s(base_s: float, retries: int, *, seed: str) -> float:
    """Seconds to wait before retry number `retries` + 1: base, doubled each time, at most an hour, ±25 % jitter.

    The jitter comes from `seed`, so that the host and the control plane arrive at the same moment without talking.
    """
    jitter = 0.75 + random.Random(seed).random() / 2  # noqa: S311 - spreads load, hides nothing
    return min(LONGEST_BACKOFF_S, base_s * 2.0 ** min(retries, 20) * jitter)


def retry_in_s(ended: Ended, *, max_retries: int, retries_spent: int, retry_delay_s: float, retry_on_oom: bool) -> float | None:
    """Seconds from an attempt's end to its job's next start; None where the end is final or no fault of the job.

    Both sides ask this: the control plane to write the row, the host to raise Celery's own retry.
    """
    to_blame = (ended.reason is EndReason.EXITED and ended.exit_code != 0) or (ended.reason is EndReason.LAUNCH_FAILED and ended.own_fault)
    if not to_blame or retries_spent >= max_retries or (ended.oom_detected and not retry_on_oom):
        return None
    return backoff_s(retry_delay_s, retries_spent, seed=f"{ended.job}.{ended.attempt}")


def fingerprint(data: bytes) -> str:
    """A short name for a key in logs and doctor's output; says nothing about the key."""
    return hashlib.sha256(b"fingerprint\n" + data).hexdigest()[:8]
