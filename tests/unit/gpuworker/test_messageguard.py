from __future__ import annotations

import base64
import json
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


def test_remote_command_must_be_an_object() -> None:
    assert messageguard.no_message(message({"method": "ping"}), remote_command=True) == ""
    assert messageguard.no_message(message(["ping"]), remote_command=True)


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
        ({"expires": []}, BODY),
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
