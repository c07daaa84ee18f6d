"""The live log as a browser and a client get it: server-sent events from a real server."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from django.db import connection
from django.utils import timezone

from benchmarks import streams
from jobs import logs
from jobs.models import Job, User
from jobs.states import JobState, Role
from tests.integration.rest import make_attempt, make_job, person, put_into, token_of
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

Event = tuple[str, str, Any]


@pytest.fixture(scope="module")
def port(application: Any) -> Iterator[int]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    wait_until(lambda: server.started, 20, "uvicorn has started")
    yield int(listener.getsockname()[1])
    server.should_exit = True
    thread.join(10)
    listener.close()


@pytest.fixture
def ann(transactional_db: None) -> User:
    return person("ann")


@pytest.fixture
def job(ann: User) -> Job:
    job = make_job(ann)
    make_attempt(job)
    put_into(job, JobState.RUNNING)
    return job


class Stream:
    """One connection; `next()` waits for the next event, `comments` counts lines that say nothing."""

    def __init__(self, port: int, job: Job, query: str = "", *, token: str, last_id: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= {"Last-Event-ID": last_id} if last_id else {}
        self._connection.request("GET", f"/api/v1/jobs/{job.pk}/log/stream/{query}", headers=headers)
        self.answer = self._connection.getresponse()
        self.lines: list[str] = []

    def next(self) -> Event:
        fields: dict[str, str] = {}
        while True:
            line = self.answer.readline().decode().rstrip("\n")
            self.lines.append(line)
            if not line and "event" in fields:
                return fields["event"], fields["id"], json.loads(fields["data"])
            name, _, value = line.partition(": ")
            fields[name] = value

    def rest(self) -> list[Event]:
        events = [self.next()]
        while events[-1][0] != "end":
            events.append(self.next())
        return events

    def close(self) -> None:
        self.answer.close()
        self._connection.close()


@pytest.fixture
def stream(port: int, ann: User) -> Iterator[Any]:
    opened: list[Stream] = []
    token = token_of(ann)

    def connect(job: Job, query: str = "", **more: Any) -> Stream:
        opened.append(Stream(port, job, query, **({"token": token} | more)))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


def end(job: Job, log_bytes: int, **fields: Any) -> None:
    job.attempts.update(**({"outcome": "completed", "exit_code": 0, "ended_at": timezone.now(), "log_bytes": log_bytes} | fields))
    put_into(job, JobState.COMPLETED)


def text_of(events: list[Event]) -> str:
    return "".join(data for kind, _, data in events if kind == "log")


def test_stream_brings_chunks_as_they_are_stored_and_then_the_end(stream: Any, job: Job) -> None:
    logs.append(job.pk, 1, 0, "zwölf\n".encode())
    live = stream(job)
    assert live.answer.status == 200
    assert live.answer.headers["Content-Type"].startswith("text/event-stream")
    assert (live.answer.headers["Cache-Control"], live.answer.headers["X-Accel-Buffering"]) == ("no-cache", "no")
    assert live.next() == ("log", "7", "zwölf\n")
    began = time.monotonic()
    logs.append(job.pk, 1, 7, b"more\n")
    assert live.next() == ("log", "12", "more\n")
    assert time.monotonic() - began < 1
    end(job, 12)
    assert live.next() == ("end", "12", {"attempt": 1, "outcome": "completed", "exit_code": 0, "complete": True})
    assert live.answer.read() == b""


def test_stream_resumes_where_the_connection_was_lost(stream: Any, job: Job) -> None:
    logs.append(job.pk, 1, 0, b"one\ntwo\n")
    end(job, 8)
    assert text_of(stream(job, last_id="4").rest()) == "two\n"
    assert text_of(stream(job, "?offset=4").rest()) == "two\n"
    assert text_of(stream(job, "?offset=0", last_id="8").rest()) == ""
    assert text_of(stream(job).rest()) == "one\ntwo\n"


def test_stream_cuts_between_characters_while_ids_stay_byte_offsets(stream: Any, job: Job) -> None:
    live = stream(job)
    raw = "漢".encode()
    logs.append(job.pk, 1, 0, b"a" + raw[:2])
    assert live.next() == ("log", "1", "a")
    logs.append(job.pk, 1, 3, raw[2:])
    assert live.next() == ("log", "4", "漢")
    logs.append(job.pk, 1, 4, b"\xff\n" + raw[:1])
    assert live.next() == ("log", "6", "\ufffd\n")
    end(job, 7)
    assert [event[:2] for event in live.rest()] == [("log", "7"), ("end", "7")]


def test_stream_loses_and_repeats_nothing_of_a_large_binary_log(stream: Any, job: Job) -> None:
    raw = bytes(range(256)) * 2000
    logs.append(job.pk, 1, 0, raw)
    end(job, len(raw))
    events = stream(job).rest()
    assert text_of(events) == raw.decode(errors="replace")
    ids = [int(event[1]) for event in events]
    assert ids == sorted(ids)
    assert ids[-1] == len(raw)
    middle = events[3][1]
    assert text_of(stream(job, last_id=middle).rest()) == raw[int(middle) :].decode(errors="replace")


def test_stream_passes_what_was_cut_out_and_says_so(stream: Any, job: Job) -> None:
    logs.append(job.pk, 1, 0, "zwölf\nzw".encode() + b"\xc3")
    live = stream(job)
    assert live.next() == ("log", "9", "zwölf\nzw")
    logs.append(job.pk, 1, 5000, b"more\n", cut_from=10)
    assert live.next() == ("log", "10", "\ufffd")
    assert live.next() == ("cut", "5000", {"from": 10, "to": 5000})
    assert live.next() == ("log", "5005", "more\n")
    end(job, 5005)
    assert live.next()[:2] == ("end", "5005")
    for inside in ("10", "77", "4999"):
        assert stream(job, last_id=inside).rest()[:2] == [("cut", "5000", {"from": int(inside), "to": 5000}), ("log", "5005", "more\n")]
    assert stream(job, last_id="5000").next() == ("log", "5005", "more\n")


def test_stream_ends_only_when_the_last_bytes_are_stored(stream: Any, job: Job) -> None:
    logs.append(job.pk, 1, 0, b"almost ")
    live = stream(job)
    assert live.next()[2] == "almost "
    end(job, 10)
    threading.Timer(1.0, logs.append, (job.pk, 1, 7, b"all")).start()
    assert live.next() == ("log", "10", "all")
    assert live.next()[0] == "end"


def test_stream_ends_without_the_last_bytes_when_they_do_not_come(stream: Any, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.api.stream.INCOMPLETE_S", 0.5)
    logs.append(job.pk, 1, 0, b"almost ")
    end(job, 10, outcome="host_lost", exit_code=None)
    assert stream(job).rest()[-1] == ("end", "7", {"attempt": 1, "outcome": "host_lost", "exit_code": None, "complete": False})


def test_stream_waits_for_the_first_attempt(stream: Any, ann: User) -> None:
    fresh = make_job(ann)
    live = stream(fresh)
    assert live.answer.status == 200
    make_attempt(fresh)
    logs.append(fresh.pk, 1, 0, b"begun\n")
    assert live.next() == ("log", "6", "begun\n")


def test_stream_ends_at_once_when_there_will_be_no_attempt(stream: Any, ann: User) -> None:
    fresh = make_job(ann)
    live = stream(fresh)
    put_into(fresh, JobState.CANCELLED)
    assert live.next() == ("end", "0", {"attempt": None, "outcome": None, "exit_code": None, "complete": True})


def test_stream_follows_the_attempt_that_is_named(stream: Any, job: Job) -> None:
    logs.append(job.pk, 1, 0, b"one")
    logs.append(job.pk, 2, 0, b"two")
    job.attempts.update(outcome="failed", exit_code=1, log_bytes=3)
    make_attempt(job, 2)
    assert stream(job, "?attempt=1").next()[2] == "one"
    assert stream(job).next()[2] == "two"
    assert stream(job, "?attempt=5").answer.status == 404


def test_stream_says_that_it_lives_when_nothing_comes(stream: Any, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.api.stream.HEARTBEAT_S", 0.3)
    live = stream(job)
    threading.Timer(1.0, logs.append, (job.pk, 1, 0, b"late")).start()
    assert live.next()[2] == "late"
    assert live.lines[0] == "retry: 1000"
    assert ": still here" in live.lines


@pytest.mark.parametrize(("query", "last_id"), [("?offset=-1", ""), ("?offset=x", ""), ("?attempt=x", ""), ("", "abc")])
def test_stream_is_400_when_it_cannot_tell_where_to_begin(stream: Any, job: Job, query: str, last_id: str) -> None:
    answer = stream(job, query, last_id=last_id).answer
    assert answer.status == 400
    assert json.loads(answer.read())["errors"][0]["attr"] in ("offset", "attempt", "Last-Event-ID")


def test_stream_is_for_those_who_may_see_the_details(stream: Any, job: Job) -> None:
    end(job, 0)
    said = {
        "nobody": stream(job, token="").answer.status,
        "made up": stream(job, token="x" * 64).answer.status,
        "another": stream(job, token=token_of(person("bob"))).answer.status,
        "operator": stream(job, token=token_of(person("olga", Role.OPERATOR))).answer.status,
        "no such job": stream(Job(pk=987654)).answer.status,
    }
    assert said == {"nobody": 401, "made up": 401, "another": 403, "operator": 200, "no such job": 404}


def test_many_streams_ask_the_database_together(stream: Any, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.api import stream as module

    asked: list[int] = []
    ask = module._ask
    monkeypatch.setattr(module, "_ask", lambda keys: asked.append(len(keys)) or ask(keys))
    streams = [stream(job, f"?attempt={number}") for number in (1, 1, 1)] + [stream(job) for _ in range(5)]
    logs.append(job.pk, 1, 0, b"to all")
    assert [each.next()[2] for each in streams] == ["to all"] * 8
    asked.clear()
    end_at = time.monotonic() + 1.5
    wait_until(lambda: time.monotonic() > end_at, 5, "one and a half seconds have passed")
    assert 2 <= len(asked) <= 8


def test_stream_leaves_nothing_behind_when_the_reader_goes(stream: Any, job: Job) -> None:
    from jobs.api import stream as module

    live = stream(job)
    logs.append(job.pk, 1, 0, b"x")
    live.next()
    live.close()
    with contextlib.suppress(Exception):
        live.answer.read()

    def forgotten() -> bool:
        now = time.monotonic()
        return all(now - at > 1 for watch in list(module._watches.values()) for at in watch._wanted.values())

    wait_until(forgotten, 10, "no stream asks any more")


def test_streams_hold_no_threads_and_leave_nothing_behind_when_their_readers_vanish(stream: Any, port: int, job: Job, ann: User) -> None:
    token = token_of(ann)
    logs.append(job.pk, 1, 0, b"x")
    stream(job).next()
    connection.close()  # while one is open, SQLite keeps the files of those that were closed
    before = streams.held(os.getpid())
    readers = streams.opened(port, token, [job.pk], 80)
    pooled = 8  # threads that all streams share
    wait_until(lambda: streams.held(os.getpid())["threads"] <= before["threads"] + pooled, 10, "no stream holds a thread")
    assert streams.held(os.getpid())["sockets"] >= before["sockets"] + 160
    streams.vanish(readers)
    wait_until(lambda: streams.held(os.getpid())["sockets"] == before["sockets"], 20, "all sockets are closed")
    assert streams.held(os.getpid())["other files"] <= before["other files"]


def test_text_of_a_large_log_comes_through_the_real_server(port: int, job: Job, ann: User) -> None:
    logs.append(job.pk, 1, 0, b"".join(b"\r%d%%" % i for i in range(100)) + b"\n" + b"line\n" * 200_000)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", f"/api/v1/jobs/{job.pk}/log/?format=text", headers={"Authorization": f"Bearer {token_of(ann)}"})
    assert connection.getresponse().read() == b"99%\n" + b"line\n" * 200_000
    connection.close()
