"""Keeps a Celery worker alive whatever lies in its queues, and keeps others from stopping it through Redis.

Celery 5.7 dies of, or goes deaf to, some messages: bytes that are no message at all, a content type that skips decoding,
a body that is not (args, kwargs, embed). Here such messages are logged and dropped before Celery sees them, in two layers:
the transport drops what has not the shape of a message, and a step of the consumer drops what is no task of ours. Whoever
can write into Redis can still ring bells; specs and commands are sealed (protocol.py).

Used by both Celery apps: `install(app)` once, before a worker starts.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import Callable, Collection, Mapping
from queue import Empty
from typing import Any

from celery import Celery, bootsteps
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as redis_transport

log = logging.getLogger(__name__)

_JSON = "application/json"
CLOSED_COMMANDS = frozenset(
    {
        *("shutdown", "pool_grow", "pool_shrink", "pool_restart", "autoscale", "add_consumer", "cancel_consumer"),
        *("revoke", "revoke_by_stamped_headers", "terminate", "rate_limit", "time_limit", "election"),
        *("hello", "disable_events"),  # the first takes over others' revoked ids, which would poison ours
        *("objgraph", "memdump", "memsample"),
    }
)
"""Celery's remote commands that stop, change or burden a worker. Redis is shared by hosts that must not stop each other."""


def install(app: Celery) -> None:
    """Guard every worker of this app. Leaves Celery's own tasks out too: nobody needs them here."""
    TRANSPORT_ALIASES.update(redis=f"{__name__}:GuardedTransport", rediss=f"{__name__}:GuardedTransport")
    app.steps["consumer"].add(GuardTasks)


def close_panel() -> None:
    """Take the commands out of this worker's panel."""
    from celery.worker.control import Panel  # it registers its commands when it is imported; only workers need it

    for name in CLOSED_COMMANDS:
        Panel.data.pop(name, None)
        Panel.meta.pop(name, None)


# --- what is not a message ----------------------------------------------------------------------------------------------


def no_message(raw: object, *, remote_command: bool = False) -> str:
    """Why this is not a message that kombu can take apart, or no remote command to a worker; empty if it is one."""
    if not isinstance(raw, dict):
        return "it is not an object"
    properties, headers = raw.get("properties"), raw.get("headers")
    if not isinstance(properties, dict) or not isinstance(properties.get("delivery_tag"), str):
        return "it has no delivery tag"
    came = properties.get("delivery_info")
    if not isinstance(came, dict) or not isinstance(came.get("exchange"), str) or not isinstance(came.get("routing_key"), str):
        return "it does not say where it was sent"
    if not isinstance(headers, dict):
        return "its headers are not an object"
    if raw.get("content-type") != _JSON or str(raw.get("content-encoding")).lower() not in ("utf-8", "us-ascii"):
        return f"its content type is {raw.get('content-type')!r} in {raw.get('content-encoding')!r}"
    if headers.get("compression"):
        return "it is compressed"
    return _bad_body(raw.get("body"), properties.get("body_encoding"), dict if remote_command else object)


def _bad_body(body: object, encoding: object, shape: type) -> str:
    if not isinstance(body, str) or encoding not in ("base64", None):
        return "its body is not text"
    try:
        content = json.loads(base64.b64decode(body, validate=True) if encoding else body)
    except (ValueError, binascii.Error, RecursionError):
        return "its body is not JSON"
    return "" if isinstance(content, shape) else "its body is not an object"


_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What kombu raises where it takes a message apart that is none; its connection errors are none of these."""


class _GuardedChannel(redis_transport.Channel):
    """Drops what cannot be taken apart. It is popped already, so that it cannot come again."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except _UNREADABLE as exc:
            _dropped("a queue", f"it cannot be read ({exc!r:.200})")
            raise Empty from exc  # the event loop's word for "nothing came"

    def _receive_one(self, c: Any) -> Any:
        try:
            return super()._receive_one(c)  # type: ignore[no-untyped-call]
        except _UNREADABLE as exc:
            _dropped("a broadcast", f"it cannot be read ({exc!r:.200})")
            raise Empty from exc


class GuardedTransport(redis_transport.Transport):
    """kombu's Redis transport, for which every item of a queue is somebody's input."""

    Channel = _GuardedChannel

    def _deliver(self, message: Any, queue: str) -> None:
        if why := no_message(message, remote_command=queue.endswith(".pidbox")):
            _dropped(queue, why)
        else:
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]


def _dropped(where: str, why: str) -> None:
    log.warning("A message in %s was dropped: %s", where, why, extra={"action": "message_dropped"})


# --- what is no task ----------------------------------------------------------------------------------------------------


_TEXTS = ("eta", "expires", "shadow", "argsrepr", "kwargsrepr", "root_id", "parent_id")


def no_task(headers: Mapping[str, Any], body: object, known: Collection[str]) -> str:
    """Why this message is no task that a worker which knows these names should run; empty if it is one."""
    name = headers.get("task")
    if not isinstance(name, str) or name not in known:
        return f"no task is called {name!r:.100}"
    if not isinstance(headers.get("id"), str) or not headers["id"]:
        return "it has no task id"
    if type(headers.get("retries", 0)) is not int:
        return "its number of retries is not a number"
    if any(not isinstance(headers.get(name), str | None) for name in _TEXTS):
        return "a header is not text"
    if headers.get("timelimit") not in (None, [None, None]):
        return "it has a Celery time limit; trainings have their own"
    match body:
        case [list(), dict(), dict() as embed] if not any(embed.values()):
            return ""
        case [list(), dict(), None]:
            return ""
    return "its body is not (args, kwargs, nothing else)"


class GuardTasks(bootsteps.StartStopStep):  # type: ignore[misc]
    """Stands before Celery's own task handler: drops what is no task of ours, and outlives what it raises."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        close_panel()

    def start(self, c: Any) -> None:
        c.create_task_handler = lambda: _guarded(c, type(c).create_task_handler(c))


def _guarded(consumer: Any, handle: Callable[[Any], None]) -> Callable[[Any], None]:
    known = frozenset(name for name in consumer.app.tasks if not name.startswith("celery."))

    def on_message(message: Any) -> None:
        why = no_task(message.headers, message.payload, known)
        if why:
            _dropped("a task queue", why)
            message.ack_log_error(log, consumer.connection_errors)
            return
        try:
            handle(message)
        except consumer.connection_errors:
            raise
        except Exception:
            log.exception("A task message was dropped: Celery could not handle it", extra={"action": "message_dropped"})
            message.ack_log_error(log, consumer.connection_errors)

    return on_message
