"""The live log as server-sent events: an async view outside REST framework, which is synchronous.

A stream holds no database connection: it polls the stored file, and asks for its attempt's state together with all other
streams of this process (`_Watch`). The `id` of an event is the byte offset after its chunk, so that a client that lost its
connection goes on where it was.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from asgiref.sync import SyncToAsync, sync_to_async
from django.db import connections
from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from rest_framework.exceptions import APIException, ValidationError

from jobs import access, logs, retention
from jobs.api.authentication import BearerAuthentication
from jobs.api.base import whole
from jobs.api.errors import refusal
from jobs.models import Attempt, Job, User
from jobs.states import TERMINAL

POLL_S = 0.1
ASK_S = 0.3
"""How old an attempt's state may be: one question for all streams of the process."""
HEARTBEAT_S = 15.0
INCOMPLETE_S = 60.0
"""How long an ended attempt's log may bring nothing new before the stream ends without its last bytes."""
CHUNK_BYTES = 64 * 1024
RETRY_MS = 1000

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@dataclass(frozen=True, slots=True)
class Seen:
    """An attempt as the database has it. `number` is 0 as long as there is none."""

    number: int = 0
    over: bool = False
    log_bytes: int = 0
    outcome: str = ""
    exit_code: int | None = None


async def log_stream(request: HttpRequest, id: int) -> HttpResponseBase:
    """GET jobs/{id}/log/stream/?attempt=&offset="""
    if request.method != "GET":
        return refusal(405, "method_not_allowed", f'Method "{request.method}" not allowed.')
    try:
        number, offset = whole(request, "attempt", 0, least=1), _offset(request)
    except ValidationError as exc:
        detail: Any = exc.detail
        name, said = next(iter(detail.items()))
        return refusal(400, "invalid", str(said[0]), name)
    refused = await sync_to_async(_refused)(request, id, number)
    if refused is not None:
        return refused
    return StreamingHttpResponse(_events(id, number, offset), content_type="text/event-stream; charset=utf-8", headers=_HEADERS)


def _offset(request: HttpRequest) -> int:
    """Where to begin: where a lost connection was, else what the query says."""
    last = request.headers.get("Last-Event-ID", "").strip()
    if not last:
        return whole(request, "offset", 0)
    if not (last.isascii() and last.isdecimal() and len(last) <= 18):
        raise ValidationError({"Last-Event-ID": ["Send the id of the last event that you have got: a byte offset."]})
    return int(last)


def _refused(request: HttpRequest, job_id: int, number: int) -> HttpResponseBase | None:
    """Why this request gets no stream. Closes the connection that it used: the stream may last for days."""
    try:
        user = _person(request)
        if user is None:
            answer = refusal(401, "not_authenticated", "Authentication credentials were not provided.")
            answer.headers["WWW-Authenticate"] = "Bearer"
            return answer
        job = access.visible_jobs(user).filter(pk=job_id).first()
        if job is None:
            return refusal(404, "not_found", "Not found.")
        if not access.may_see_details(user, job):
            return refusal(403, "permission_denied", "Only its owner and operators see this.")
        if number and not _may_come(job, number):
            return refusal(404, "not_found", f"Job {job.pk} has no attempt {number}.")
        removed = retention.removed(job.attempts.filter(number=number).first() if number else job.attempts.order_by("number").last())
        return refusal(410, "log_removed", removed) if removed else None
    except APIException as exc:
        return refusal(exc.status_code, str(exc.default_code), str(exc.detail))
    finally:
        _give_back_connections()


def _person(request: HttpRequest) -> User | None:
    """Who asks, by token or by session."""
    found = BearerAuthentication().authenticate(request)
    user = found[0] if found else request.user
    return user if isinstance(user, User) and user.is_active else None


def _give_back_connections() -> None:
    """Close this thread's database connections, but for one in the middle of a transaction: a test's."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


def _give_back_thread() -> None:
    """End the thread that this request was looked through in. Django keeps it to the end of the answer: 300 streams, 300 threads."""
    context = SyncToAsync.thread_sensitive_context.get(None)
    executor = SyncToAsync.context_to_thread_executor.pop(context, None) if context else None
    if executor:
        executor.shutdown(wait=False)


def _may_come(job: Job, number: int) -> bool:
    return job.attempts.filter(number=number).exists() or (job.state not in TERMINAL and number == job.next_attempt)


# --- the events ---------------------------------------------------------------------------------------------------------


async def _events(job_id: int, number: int, offset: int) -> AsyncIterator[bytes]:
    """Chunks as they are stored, a comment where nothing comes for a while, and `end` when there is no more to come."""
    _give_back_thread()
    yield f"retry: {RETRY_MS}\n\n".encode()
    tail, watch = _Tail(job_id, offset), _watch()
    seen, moved_at, said_at = Seen(number), time.monotonic(), time.monotonic()
    while True:
        if not seen.over:
            seen = await watch.state(job_id, number or seen.number)
        event = await asyncio.to_thread(tail.next_event, seen) if tail.grown(seen) else b""
        now = time.monotonic()
        if event:
            moved_at = said_at = now
            yield event
            continue
        if seen.over and (tail.complete(seen) or now - moved_at > INCOMPLETE_S):
            for last in tail.end(seen):
                yield last
            return
        if now - said_at > HEARTBEAT_S:
            said_at = now
            yield b": still here\n\n"
        await asyncio.sleep(POLL_S)


class _Tail:
    """Reads one stored log from an offset on and cuts it into events on character boundaries."""

    def __init__(self, job_id: int, offset: int) -> None:
        self._job_id = job_id
        self._offset = offset
        self._decoder = _decoder()

    def grown(self, seen: Seen) -> bool:
        """Whether there is something to read: one look at the file, no reading."""
        return bool(seen.number) and logs.size(self._job_id, seen.number) > self._offset

    def next_event(self, seen: Seen) -> bytes:
        """The next chunk, empty where there is none now. Bytes of an unfinished character wait for the rest of it."""
        while seen.number:
            found = logs.piece(self._job_id, seen.number, self._offset, CHUNK_BYTES)
            if found.offset > self._offset:
                return self._pass_cut(found.offset)
            self._offset = found.end
            text = self._decoder.decode(found.data)
            if text:
                return _event("log", text, self._offset - len(self._decoder.getstate()[0]))
            if not found.data:
                break
        return b""

    def _pass_cut(self, end: int) -> bytes:
        """Go on behind what was cut out of the log; a character that the cut has halved ends before it."""
        rest, said = self._rest(), {"from": self._offset, "to": end}
        self._offset, self._decoder = end, _decoder()
        return rest + _event("cut", said, end)

    def _rest(self) -> bytes:
        """What is left of an unfinished character."""
        text = self._decoder.decode(b"", final=True)
        return _event("log", text, self._offset) if text else b""

    def complete(self, seen: Seen) -> bool:
        """All bytes that the attempt wrote have been read."""
        return not seen.number or self._offset >= seen.log_bytes

    def end(self, seen: Seen) -> list[bytes]:
        """What is left, and the end."""
        said = {
            "attempt": seen.number or None,
            "outcome": seen.outcome or None,
            "exit_code": seen.exit_code,
            "complete": self.complete(seen),
        }
        return [part for part in (self._rest(), _event("end", said, self._offset)) if part]


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("replace")


def _event(kind: str, data: Any, offset: int) -> bytes:
    return f"id: {offset}\nevent: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


# --- what becomes of the attempts ---------------------------------------------------------------------------------------


_Key = tuple[int, int]


class _Watch:
    """The state of all attempts that streams of this process follow, from one question to the database for all of them."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._wanted: dict[_Key, float] = {}
        self._seen: dict[_Key, Seen] = {}
        self._asked_at = 0.0

    async def state(self, job_id: int, number: int) -> Seen:
        """At most ASK_S old. `number` 0 is the latest attempt; that there is none yet is no error."""
        key = (job_id, number)
        self._wanted[key] = time.monotonic()
        async with self._lock:
            now = time.monotonic()
            if key not in self._seen or now - self._asked_at > ASK_S:
                self._wanted = {each: at for each, at in self._wanted.items() if now - at < 10 * ASK_S}
                self._seen = await sync_to_async(_ask, thread_sensitive=False)([*self._wanted])
                self._asked_at = now
            return self._seen[key]


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, _Watch] = WeakKeyDictionary()


def _watch() -> _Watch:
    return _watches.setdefault(asyncio.get_running_loop(), _Watch())


def _ask(keys: list[_Key]) -> dict[_Key, Seen]:
    ids = {job_id for job_id, _ in keys}
    found: dict[_Key, Seen] = {}
    try:
        over = {pk: state in TERMINAL for pk, state in Job.objects.filter(pk__in=ids).values_list("pk", "state")}
        rows = Attempt.objects.filter(job_id__in=ids).order_by("number")
        for job_id, number, outcome, log_bytes, exit_code in rows.values_list("job_id", "number", "outcome", "log_bytes", "exit_code"):
            seen = Seen(number, bool(outcome), log_bytes, outcome, exit_code)
            found[job_id, number] = found[job_id, 0] = seen
    finally:
        _give_back_connections()
    return {key: found.get(key) or Seen(over=over.get(key[0], True)) for key in keys}
