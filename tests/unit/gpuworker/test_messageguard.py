from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gpuworker import messageguard

KNOWN = {"autotrainer.train"}
BODY: list[Any] = [["uid"], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
ROUTE = {"exchange": "", "routing_key": "host.gpu-a"}


def message(payload: object = BODY, **changes: Any) -> dict[str, Any]:
    encoded = base64.b64encode(json.dumps(payload).encode()).decode()
    whole = {
        "body": encoded,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "autotrainer.train", "id": "x"},
        "properties": {"delivery_tag": "t", "body_encoding": "base64", "delivery_info": ROUTE},
    }
    return whole | changes


def test_message_of_celery_passes() -> None:
    assert messageguard.no_message(message()) == ""


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"arguments": None, "destination": None, "pattern": None, "matcher": None, "reply_to": None},
        {"arguments": {"sealed": "x"}, "destination": ["gpu@a"]},
        {"reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "x"}, "ticket": "t"},
    ],
)
def test_remote_command_passes(more: dict[str, Any]) -> None:
    assert messageguard.no_message(message({"method": "ping"} | more), command_to="gpu@a") == ""


@pytest.mark.parametrize(
    "body",
    [
        *(["ping"], {}, {"method": None}, {"method": ["ping"]}),
        {"method": "no_such_command"},
        {"method": "no_such_command", "destination": ["gpu@b", "gpu@a"]},
        {"method": "ping", "arguments": []},
        {"method": "ping", "destination": "gpu@a"},
        {"method": "ping", "destination": [{}]},
        {"method": "ping", "pattern": "(a+)+$", "matcher": "pcre"},
        {"method": "ping", "pattern": "*"},
        {"method": "ping", "reply_to": "x"},
        {"method": "ping", "reply_to": {"exchange": "", "routing_key": "host.gpu-b"}},
        {"method": "ping", "reply_to": {"exchange": "reply.celery.pidbox"}},
    ],
)
def test_remote_command_of_another_shape_is_told(body: object) -> None:
    assert messageguard.no_message(message(body), command_to="gpu@a")


def test_remote_command_to_others_is_theirs_to_know() -> None:
    assert messageguard.no_message(message({"method": "autotrainer_stop", "destination": ["gpu@b"]}), command_to="control@a") == ""


@pytest.mark.parametrize("name", sorted(messageguard.CLOSED_COMMANDS))
def test_remote_command_that_stops_or_changes_a_worker_is_closed(name: str) -> None:
    messageguard.close_panel()
    assert messageguard.no_message(message({"method": name}), command_to="gpu@a")


@pytest.mark.parametrize(
    "raw",
    [
        *(None, 1, "text", [], {}),
        message(properties=None),
        message(properties={}),
        message(properties={"delivery_tag": 1}),
        message(properties={"delivery_tag": "t", "delivery_info": "x", "body_encoding": "base64"}),
        message(properties={"delivery_tag": "t", "delivery_info": {}, "body_encoding": "base64"}),
        message(properties={"delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": None}, "body_encoding": "base64"}),
        message(properties={"delivery_tag": "t", "delivery_info": ROUTE, "body_encoding": "gzip"}),
        message(headers=None),
        message(headers=[]),
        message(**{"content-type": "application/data"}),
        message(**{"content-type": "application/x-python-serialize"}),
        message(**{"content-type": None}),
        message(**{"content-encoding": "binary"}),
        message(headers={"compression": "application/x-gzip"}),
        message(headers={"clock": "1"}),
        message(headers={"clock": 10**40}),
        message(**{"body": "A" * (messageguard.LARGEST_BODY_CHARS + 4)}),
        message(**{"body": None}),
        message(**{"body": "not base64!"}),
        message(**{"body": base64.b64encode(b"\xff{").decode()}),
        message(**{"body": base64.b64encode(b"[" * 100_000).decode()}),
    ],
    ids=lambda raw: str(raw)[:40],
)
def test_message_of_another_shape_is_told(raw: object) -> None:
    assert messageguard.no_message(raw)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"task": None}, BODY),
        ({"task": "celery.chord_unlock"}, BODY),
        ({"task": "no.such.task"}, BODY),
        ({"task": ["autotrainer.train"]}, BODY),
        ({"id": None}, BODY),
        ({"id": 7}, BODY),
        ({"retries": "1"}, BODY),
        ({"eta": 5}, BODY),
        ({"eta": "soon"}, BODY),
        ({"eta": "2001-01-01T00:00:00"}, BODY),  # hosts' tasks have no moment at all
        ({"expires": []}, BODY),
        ({"expires": "2001-01-01T00:00:00+00:00"}, BODY),
        ({"id": ""}, BODY),
        ({"id": "x" * 65}, BODY),
        ({"id": "x\n[2026-11-26 20:00:00: INFO] all is well"}, BODY),
        ({"retries": 10**30}, BODY),
        ({"retries": -1}, BODY),
        ({"stamps": {"a": 1}, "stamped_headers": ["a"]}, BODY),
        ({"timelimit": [1, 1]}, BODY),
        ({}, {"args": [], "kwargs": {}}),
        ({}, "text"),
        ({}, None),
        ({}, [[], {}]),
        ({}, [{}, {}, None]),
        ({}, [[], [], None]),
        ({}, [[], {}, {"callbacks": [{"task": "autotrainer.train"}]}]),
    ],
)
def test_task_of_another_shape_is_told(headers: dict[str, Any], body: object) -> None:
    assert messageguard.no_task({"task": "autotrainer.train", "id": "x"} | headers, body, KNOWN)


@pytest.mark.parametrize("body", [BODY, [["uid", "spec"], {}, None], [[], {}, {}]])
def test_task_of_ours_passes(body: object) -> None:
    headers = {"task": "autotrainer.train", "id": "x", "retries": 2, "eta": None, "timelimit": [None, None]}
    assert messageguard.no_task(headers, body, KNOWN) == ""


@pytest.mark.parametrize(
    ("ahead_s", "told"),
    [(-3600, False), (0, False), (900, False), (990, True), (10**6, True)],
)
def test_task_may_wait_for_as_long_as_its_app_says(ahead_s: float, *, told: bool) -> None:
    for zone in (UTC, None):
        eta = (datetime.now(UTC) + timedelta(seconds=ahead_s)).replace(tzinfo=zone).isoformat()
        headers = {"task": "autotrainer.train", "id": "x", "eta": eta}
        assert bool(messageguard.no_task(headers, BODY, KNOWN, longest_wait_s=900)) is told
