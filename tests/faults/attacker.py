"""Somebody who can read and write all of Redis and knows every name, but no key of the host `lab`. The key of `gpu-b` is theirs.

What they have recorded of true messages lies in `Recorded`. Each method is one act; `random.Random` chooses among them.
"""

from __future__ import annotations

import base64
import json
import pickle
import random
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import redis

from gpuworker import greeting, protocol, questions
from gpuworker.envelope import PROTOCOL_VERSION
from gpuworker.messageguard import CLOSED_COMMANDS
from gpuworker.protocol import Ack, Beat, Canary, Ended, EndReason, Kind, LogChunk, Message, Refused, Rules, Spec, Started, Stop, Stuck

OTHER = "gpu-b"
PIDBOX = f"{protocol.KEY_PREFIX}/0.celery.pidbox"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What went over the wire once, sealed with the true key: to be said again, altered, redirected or said too late."""

    spec: Spec
    """Of an attempt that runs."""
    over: Spec
    """Of an attempt that has ended."""
    beat: Beat
    key: bytes
    """The host's: to make the recordings with, and for nothing else."""

    def sealed(self, kind: Kind, host: str, message: Message) -> str:
        return protocol.seal(kind, host, message.body(), self.key)


class Attacker:
    def __init__(self, client: redis.Redis, rng: random.Random, recorded: Recorded, *, host: str, other_key: bytes, mark: str) -> None:
        self.client, self.rng, self.recorded, self.host = client, rng, recorded, host
        self.own_key, self.other_key = rng.randbytes(32), other_key
        self.evil = replace(recorded.over, command=f"touch {mark}", device_count=0, fence=10**6, attempt=9, expires_at=time.time() + 60)
        self.marks = mark

    # --- sealing, wrongly ---------------------------------------------------------------------------------------------

    def wrong(self, kind: Kind, message: Message) -> str:
        """This message as it must not be taken: forged, altered, redirected, or of another kind."""
        true = self.recorded.sealed(kind, self.host, self._harmless(message))
        return self.rng.choice(
            (
                lambda: protocol.seal(kind, self.host, message.body(), self.own_key),
                lambda: protocol.seal(kind, self.host, message.body(), self.other_key),
                lambda: protocol.seal(kind, OTHER, message.body(), self.other_key),
                lambda: self._altered(true, message),
                lambda: self._altered_anywhere(true),
                lambda: self.recorded.sealed(self.rng.choice([k for k in Kind if k is not kind]), self.host, message),
                lambda: self.recorded.sealed(kind, OTHER, message),
                lambda: json.dumps(
                    json.loads(true) | {"v": self.rng.choice((0, PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1, True, None, 10**30))}
                ),
                lambda: json.dumps(json.loads(true) | {"m": "\ud800"}),
            )
        )()

    def _harmless(self, message: Message) -> Message:
        """What a true seal is on, before it is altered."""
        return self.recorded.over if isinstance(message, Spec) else message

    def _altered(self, sealed: str, message: Message) -> str:
        """The true seal with another body under it."""
        body = message.body() | {"altered": self.rng.random()}
        return json.dumps(json.loads(sealed) | {"b": json.dumps(body)})

    def _altered_anywhere(self, sealed: str) -> str:
        outer = json.loads(sealed)
        field = self.rng.choice(("b", "m"))
        at = self.rng.randrange(len(outer[field]))
        outer[field] = outer[field][:at] + chr(ord("!") + self.rng.randrange(90)) * 2 + outer[field][at + 1 :]
        return json.dumps(outer)

    # --- to the host --------------------------------------------------------------------------------------------------

    def spec(self) -> None:
        self._task([self.evil.job, self.wrong(Kind.SPEC, self.evil)], task_id=self.evil.job)

    def late_spec(self) -> None:
        """One that was kept back until it was over."""
        late = replace(self.evil, fence=self.rng.randrange(10**7), expires_at=time.time() - self.rng.uniform(0.1, 1e5))
        self._task([late.job, self.recorded.sealed(Kind.SPEC, self.host, late)], task_id=late.job)

    def repeated_spec(self) -> None:
        spec = self.rng.choice((self.recorded.spec, self.recorded.over))
        self._task([spec.job, self.recorded.sealed(Kind.SPEC, self.host, spec)], task_id=spec.job)

    def spec_of_another_task(self) -> None:
        true = self.recorded.sealed(Kind.SPEC, self.host, self.recorded.over)
        self._task([self.rng.choice((self.evil.job, str(uuid.uuid4()))), true], task_id=str(uuid.uuid4()))

    def stop(self) -> None:
        self._command(protocol.STOP_COMMAND, {"sealed": self.wrong(Kind.STOP, self._order())})

    def late_stop(self) -> None:
        late = self._order(expires_at=time.time() - self.rng.uniform(0.1, 1e5))
        self._command(protocol.STOP_COMMAND, {"sealed": self.recorded.sealed(Kind.STOP, self.host, late)})

    def repeated_stop(self) -> None:
        """One that was obeyed before: of the attempt that is over."""
        over = self.recorded.over
        order = self._order(job=over.job, attempt=over.attempt, fence=over.fence, nonce="ab" * 16)
        self._command(protocol.STOP_COMMAND, {"sealed": self.recorded.sealed(Kind.STOP, self.host, order)})

    def odd_stop(self) -> None:
        evil = self._order(nonce=self.rng.choice(("../../evil", "", "x" * 5000)))
        sealed = self.rng.choice((None, 7, [], {}, "nonsense", self.recorded.sealed(Kind.STOP, self.host, evil)))
        self._command(protocol.STOP_COMMAND, {"sealed": sealed} | self.rng.choice(({}, {"more": 1})))

    def ack(self) -> None:
        spec = self.recorded.spec
        ack = Ack(job=spec.job, attempt=spec.attempt, fence=spec.fence, what=self.rng.choice(("log", "ended", "started")), offset=10**9)
        self.client.xadd(protocol.acks_key(self.host), {"e": self.wrong(Kind.ACK, ack)})

    def canary(self) -> None:
        """Far ahead, so that the host would think itself deaf."""
        told = Canary(at=time.time() + 1e6, expires_at=time.time() + 1e6)
        if self.rng.random() < 0.5:
            self.client.set(protocol.canary_key(self.host), self.wrong(Kind.CANARY, told), ex=60)
        else:
            self._task([self.wrong(Kind.CANARY, told)], task=protocol.CANARY_TASK)

    def late_canary(self) -> None:
        told = Canary(at=time.time() - 500, expires_at=time.time() - 400)
        self.client.set(protocol.canary_key(self.host), self.recorded.sealed(Kind.CANARY, self.host, told), ex=60)

    def rules(self) -> None:
        self.client.set(protocol.rules_key(self.host), self.wrong(Kind.RULES, Rules(serial=10**6, memory_mib=10**6)))

    def welcome(self) -> None:
        self.client.set(greeting.welcome_key(self.host), self.wrong(Kind.WELCOME, greeting.Welcome(to="x", at=0.0)), ex=30)

    def question(self) -> None:
        asked = self._question()
        self.client.rpush(questions.questions_key(self.host), self.wrong(Kind.QUESTION, asked))

    def late_question(self) -> None:
        late = replace(self._question(), expires_at=time.time() - 1)
        self.client.rpush(questions.questions_key(self.host), self.recorded.sealed(Kind.QUESTION, self.host, late))

    def _question(self) -> questions.Question:
        args = {"job": self.recorded.spec.job, "name": "/etc/passwd", "offset": "0"}
        return questions.Question(id=uuid.uuid4().hex, ask=questions.Ask.ARTIFACT, expires_at=time.time() + 60, args=args)

    def _order(self, **changes: Any) -> Stop:
        spec = self.recorded.spec
        fields = {"job": spec.job, "attempt": spec.attempt, "fence": spec.fence, "expires_at": time.time() + 60, "kill_grace_s": 0.1}
        return Stop(**({"nonce": self.rng.randbytes(16).hex()} | fields | changes))

    # --- to the control plane -----------------------------------------------------------------------------------------

    def report(self) -> None:
        kind, report = self._lie()
        self.client.xadd(protocol.reports_key(self.host), {"e": self.wrong(kind, report)})

    def report_of_another_host(self) -> None:
        """In that host's own stream, under its own good seal, about what it does not run."""
        kind, report = self._lie()
        self.client.xadd(protocol.reports_key(OTHER), {"e": protocol.seal(kind, OTHER, report.body(), self.other_key)})

    def repeated_report(self) -> None:
        over = self.recorded.over
        names: dict[str, Any] = {"job": over.job, "attempt": over.attempt, "fence": over.fence}
        ended = Ended(**names, reason=EndReason.EXITED, exit_code=self.rng.choice((0, 3)), ended_at=time.time(), log_bytes=10)
        self.client.xadd(protocol.reports_key(self.host), {"e": self.recorded.sealed(Kind.ENDED, self.host, ended)})

    def odd_report(self) -> None:
        odd: Any = self.rng.choice(({"e": b"\xff"}, {"x": b""}, {"e": '{"k": "ended"'}, {"e": "[" * 5000}, {"e": b'{"v":1, "k": "ended"}'}))
        self.client.xadd(protocol.reports_key(self.rng.choice((self.host, OTHER))), odd)

    def _lie(self) -> tuple[Kind, Message]:
        spec = self.rng.choice((self.recorded.spec, self.recorded.over))
        names: dict[str, Any] = {"job": spec.job, "attempt": spec.attempt, "fence": spec.fence}
        started = Started(**names, devices=(), boot_id="x", pid=1, start_ticks=1, started_at=0.0)
        return self.rng.choice(
            (
                (Kind.ENDED, Ended(**names, reason=EndReason.EXITED, exit_code=66, ended_at=time.time())),
                (Kind.ENDED, Ended(**names, reason=EndReason.CANCELLED, ended_at=time.time(), unclean={"GPU-x": "forged"})),
                (Kind.REFUSED, Refused(**names, code="forged", message="forged")),
                (Kind.STUCK, Stuck(**names, processes=("forged",))),
                (Kind.STARTED, started),
            )
        )

    def log(self) -> None:
        spec = self.recorded.spec
        chunk = LogChunk(job=spec.job, attempt=spec.attempt, fence=spec.fence, offset=self.rng.choice((0, 5, 40, 10**9)), data=b"forged\n")
        true: Any = protocol.seal_chunk(self.host, chunk, self.recorded.key)
        stranger: Any = protocol.seal_chunk(self.host, chunk, self.own_key)
        others: Any = protocol.seal_chunk(OTHER, chunk, self.other_key)
        where, fields = self.rng.choice(
            (
                (self.host, stranger),
                (self.host, others),
                (OTHER, others),
                (OTHER, true),
                (self.host, true | {"d": b"altered\n"}),
                (self.host, true | {"h": true["h"].replace(b'"offset": ', b'"offset": 1')}),
                (self.host, true | {"h": b"[" * 100_000}),
                (self.host, true | {"m": b"\xff"}),
                (self.host, {"d": b"no header"}),
            )
        )
        self.client.xadd(protocol.logs_key(where), fields)

    def beat(self) -> None:
        """That nothing runs here any more."""
        told = replace(self.recorded.beat, at=time.time() + 5, attempts=(), boot_id="another")
        self.client.set(protocol.beat_key(self.host), self.wrong(Kind.BEAT, told), ex=3600)

    def repeated_beat(self) -> None:
        """One of before the training started."""
        self.client.set(protocol.beat_key(self.host), self.recorded.sealed(Kind.BEAT, self.host, self.recorded.beat), ex=3600)

    def hello(self) -> None:
        said = greeting.Hello(instance="x", at=0.0, agent_version="forged")
        self.client.set(greeting.hello_key(self.host), self.wrong(Kind.HELLO, said), ex=30)

    def answer(self) -> None:
        told = questions.Answer(id="x", told='"forged"')
        self.client.rpush(questions.answer_key(self.host, uuid.uuid4().hex), self.wrong(Kind.ANSWER, told))

    def knock(self) -> None:
        """This one they can do: the scheduler looks once more, and finds what is in the database."""
        if self.rng.random() < 0.5:
            self.client.xadd(protocol.wake_key(), {"w": b"x" * self.rng.randrange(5000)})
        else:
            self._task([self.rng.choice((self.evil.job, 7, None))], queue=protocol.CONTROL_QUEUE)

    # --- what is no message of ours -------------------------------------------------------------------------------------

    def other_content(self) -> None:
        kind = self.rng.choice(("application/data", "application/x-python-serialize", "application/x-yaml", "text/plain", "", None))
        body = base64.b64encode(pickle.dumps(([], {}, {}))).decode()
        self._raw({"content-type": kind} | self.rng.choice(({}, {"body": body}, {"content-encoding": "binary"})))

    def no_triple(self) -> None:
        body = self.rng.choice(("x", [], {}, [1], [1, 2, 3, 4], [[], {}], [{}, [], {}], [[], {}, []], None, 5, {"args": [], "kwargs": {}}))
        self._raw({"body": _encoded(body)})

    def no_message(self) -> None:
        odd = (b"", b"\xff\xfe", b"nonsense", b"null", b"[]", b"{}", b'"x"', b"[" * 50_000, b"9" * 5000, b'{"__type__":"x"}')
        self.client.lpush(self._queue(), self.rng.choice(odd))

    def giant(self) -> None:
        self._raw({"body": "A" * 9 * 2**20})

    def odd_properties(self) -> None:
        self._raw({"properties": self.rng.choice((None, {}, [], {"delivery_tag": []}, {"delivery_tag": "t", "delivery_info": {}}))})

    def odd_moment(self) -> None:
        """What would wait in a worker's memory for years, or put a job's id among the revoked ones."""
        ahead = (datetime.now(UTC) + timedelta(days=self.rng.randrange(1, 10**5))).isoformat()
        past = (datetime.now(UTC) - timedelta(days=1)).isoformat()
        odd = self.rng.choice(({"eta": ahead}, {"eta": "9" * 400}, {"eta": 5}, {"expires": past}, {"expires": 1}, {"timelimit": [1, 1]}))
        self._raw({}, odd | {"id": self.recorded.spec.job})

    def odd_headers(self) -> None:
        odd = self.rng.choice(
            ({"id": {}}, {"id": "x\n[all is well]"}, {"retries": 10**40}, {"task": []}, {"compression": "gzip"}, {"stamps": {"a": 1}})
        )
        self._raw({}, odd | ({"stamped_headers": ["a"]} if "stamps" in odd else {}))

    def unknown_task(self) -> None:
        names = ("os.system", "celery.chord_unlock", "celery.backend_cleanup", "autotrainer.run", "autotrainer.train\n", "")
        self._raw({}, {"task": self.rng.choice(names)})

    def callbacks(self) -> None:
        """Celery would send on, in its own name, what a message asks for."""
        call = {"task": protocol.TRAIN_TASK, "args": [], "kwargs": {}, "options": {"queue": protocol.host_queue(self.host)}}
        embed = self.rng.choice(({"callbacks": [call]}, {"errbacks": [call]}, {"chain": [call]}, {"chord": call}))
        self._raw({"body": _encoded([[self.evil.job], {}, embed])})

    def remote_command(self) -> None:
        name = self.rng.choice(sorted(CLOSED_COMMANDS | {"no_such_command"}))
        spec = self.recorded.spec
        arguments = self.rng.choice(
            (
                {},
                {"task_id": spec.job, "terminate": True, "signal": "KILL"},
                {"queue": "host.gpu-b"},
                {"queue": protocol.host_queue(self.host)},
                {"task_name": protocol.TRAIN_TASK, "rate_limit": "1/h"},
                {"task_name": protocol.TRAIN_TASK, "hard": 1, "soft": 1},
                {"n": 1000},
                {"from_node": "x", "revoked": {spec.job: time.time()}},
            )
        )
        self._command(name, arguments)

    def addressed_oddly(self) -> None:
        odd = self.rng.choice(
            (
                {"pattern": "(.*)*(.*)*(.*)*!", "matcher": "pcre"},
                {"pattern": "*", "matcher": "glob"},
                {"destination": 7},
                {"destination": f"gpu@{self.host}"},
                {"reply_to": {"exchange": "", "routing_key": protocol.host_queue(OTHER)}, "ticket": "x"},
                {"reply_to": "x"},
                {"arguments": []},
                {"method": None},
            )
        )
        self.client.publish(PIDBOX, _message({"method": "ping"} | odd))

    def no_broadcast(self) -> None:
        odd: tuple[bytes, ...] = (b"\xff", b"[]", b"{}", b"[" * 50_000, _message([]), _message({}, {"content-type": "application/data"}))
        self.client.publish(PIDBOX, self.rng.choice((*odd, _message({"method": "ping"}, {}, {"clock": "x"}))))

    # --- what lies where something else belongs --------------------------------------------------------------------------

    def misplaced(self) -> None:
        """Whatever was there is lost with it: that they can do."""
        keys = [protocol.reports_key(OTHER), protocol.logs_key(self.host), protocol.reports_key(self.host), protocol.acks_key(self.host)]
        keys += [protocol.claims_key(self.host), protocol.wake_key(), protocol.since_key(), questions.questions_key(self.host)]
        keys += [protocol.beat_key(self.host), protocol.canary_key(self.host), greeting.hello_key(OTHER), self._queue()]
        keys += [self._notes() + name for name in ("unacked", "unacked_index")]
        key = self.rng.choice(keys)
        self.client.delete(key)
        self.rng.choice((lambda: self.client.set(key, "x"), lambda: self.client.sadd(key, "x"), lambda: self.client.hset(key, "x", "x")))()

    def last_entry(self) -> None:
        """The highest id that a stream can have: no other can follow it."""
        keys = (protocol.reports_key(self.host), protocol.logs_key(self.host), protocol.acks_key(self.host))
        try:
            self.client.xadd(self.rng.choice(keys), {"e": b"x"}, id="18446744073709551615-18446744073709551615")
        except redis.ResponseError:
            pass  # Something else of ours lies there already.

    def unacknowledged(self) -> None:
        notes, tag = self._notes(), self.rng.choice(("x", str(uuid.uuid4())))
        self._whatever_lies_there(lambda: self.client.zadd(f"{notes}unacked_index", {tag: 1.0}))
        text = self.rng.choice((b"\xff", b"[]", b"{}", json.dumps([{}, "", protocol.host_queue(self.host)])))
        self._whatever_lies_there(lambda: self.client.hset(f"{notes}unacked", tag, text))

    def _whatever_lies_there(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except redis.ResponseError:
            pass

    # --- raw material --------------------------------------------------------------------------------------------------

    def act(self) -> str:
        """One act, and its name. Streams and queues that hold something else are left so."""
        name = self.rng.choice(ACTS)
        self._whatever_lies_there(getattr(self, name))
        return name

    def _notes(self) -> str:
        """Where Celery notes what a worker is handling: the control worker, or the host."""
        return protocol.KEY_PREFIX + self.rng.choice(("", f"host:{self.host}:"))

    def _queue(self) -> str:
        return protocol.KEY_PREFIX + self.rng.choice((protocol.host_queue(self.host), protocol.CONTROL_QUEUE))

    def _task(self, args: list[Any], *, task_id: str = "", task: str = protocol.TRAIN_TASK, queue: str = "") -> None:
        headers = {"task": task, "id": task_id or str(uuid.uuid4())}
        key = protocol.KEY_PREFIX + (queue or protocol.host_queue(self.host))
        self.client.lpush(key, _message([args, {}, {}], {}, headers))

    def _raw(self, changes: Mapping[str, Any], headers: Mapping[str, Any] | None = None) -> None:
        self.client.lpush(self._queue(), _message([["uid", "spec"], {}, {}], changes, headers))

    def _command(self, method: str, arguments: Mapping[str, Any]) -> None:
        to = self.rng.choice(([protocol.node_name(self.host)], None))
        self.client.publish(PIDBOX, _message({"method": method, "arguments": dict(arguments), "destination": to}))


def _encoded(body: object) -> str:
    return base64.b64encode(json.dumps(body).encode()).decode()


def _message(body: object, changes: Mapping[str, Any] | None = None, headers: Mapping[str, Any] | None = None) -> bytes:
    """A message as kombu writes it, but for the changes."""
    route = {"exchange": "", "routing_key": "x"}
    properties = {"delivery_tag": str(uuid.uuid4()), "delivery_mode": 2, "body_encoding": "base64", "delivery_info": route}
    told = {"task": protocol.TRAIN_TASK, "id": str(uuid.uuid4()), "lang": "py"} | dict(headers or {})
    whole = {"body": _encoded(body), "content-type": "application/json", "content-encoding": "utf-8"}
    return json.dumps(whole | {"headers": told, "properties": properties} | dict(changes or {})).encode()


_ONCE = ("giant", "misplaced", "last_entry")
"""Rarer than the others: big, or the end of what lies there."""
_KINDS = tuple(name for name in vars(Attacker) if not name.startswith("_") and name not in ("wrong", "act"))
ACTS = tuple(name for name in _KINDS for _ in range(1 if name in _ONCE else 5))
