"""Keeps a Celery worker alive whatever lies in its queues, and keeps others from stopping it through Redis.

Celery 5.7 dies of, or goes deaf to, some messages: bytes that are no message at all, a content type that skips decoding,
a body that is not (args, kwargs, embed). Others poison it: a task that has expired puts its id among the revoked ones, where
the true task of that id is thrown away for hours. Here such messages are logged and dropped before Celery sees them, in two
layers: the transport drops what has not the shape of a message, and a step of the consumer drops what is no task of ours.
What lies in Redis in the place of Celery's own keys is cleared away. Whoever can write into Redis can still ring bells; specs
and commands are sealed (protocol.py).

Used by both Celery apps: `install(app)` once, before a worker starts.
"""

from __future__ import annotations

import base64
import binascii
import functools
import itertools
import json
import logging
import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from queue import Empty
from typing import Any

from celery import Celery, bootsteps
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as redis_transport

from gpuworker import dropped

log = logging.getLogger(__name__)

_JSON = "application/json"
LARGEST_BODY_CHARS = 8 * 2**20
"""Far more than the longest command with its environment."""
_COMMANDS = ".celery.pidbox"
_REPLIES = f"reply{_COMMANDS}"
CLOSED_COMMANDS = frozenset(
    {
        *("shutdown", "pool_grow", "pool_shrink", "pool_restart", "autoscale", "add_consumer", "cancel_consumer"),
        *("revoke", "revoke_by_stamped_headers", "terminate", "rate_limit", "time_limit", "election"),
        *("hello", "disable_events"),  # the first takes over others' revoked ids, which would poison ours
        *("objgraph", "memdump", "memsample"),
    }
)
"""Celery's remote commands that stop, change or burden a worker. Redis is shared by hosts that must not stop each other."""


def install(app: Celery, *, longest_wait_s: float = 0.0) -> None:
    """Guard every worker of this app. Leaves Celery's own tasks out too: nobody needs them here.

    `longest_wait_s`: how far ahead the moment of a task may lie; 0: none has one. Such tasks wait in the worker's memory.
    """
    TRANSPORT_ALIASES.update(redis=f"{__name__}:GuardedTransport", rediss=f"{__name__}:GuardedTransport")
    app.longest_wait_s = longest_wait_s
    app.steps["consumer"].add(GuardTasks)


def close_panel() -> None:
    """Take the commands out of this worker's panel."""
    panel = _panel()
    for name in CLOSED_COMMANDS:
        panel.data.pop(name, None)
        panel.meta.pop(name, None)


def _panel() -> Any:
    from celery.worker.control import Panel  # it registers its commands when it is imported; only workers need it

    return Panel


# --- what is not a message ----------------------------------------------------------------------------------------------


def no_message(raw: object, *, command_to: str = "") -> str:
    """Why this is not a message that kombu can take apart, or no remote command to the worker `command_to`; empty if it is one."""
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
        return f"its content type is {raw.get('content-type')!r:.60} in {raw.get('content-encoding')!r:.60}"
    if headers.get("compression"):
        return "it is compressed"
    if not _small_number(headers.get("clock")):
        return "its clock is no number"
    look = functools.partial(_no_command, command_to) if command_to else _anything
    return _bad_body(raw.get("body"), properties.get("body_encoding"), look)


def _bad_body(body: object, encoding: object, look: Callable[[object], str]) -> str:
    if not isinstance(body, str) or encoding not in ("base64", None):
        return "its body is not text"
    if len(body) > LARGEST_BODY_CHARS:
        return f"its body is {len(body) >> 20} MiB long"
    try:
        content = json.loads(base64.b64decode(body, validate=True) if encoding else body)
    except (ValueError, binascii.Error, RecursionError):
        return "its body is not JSON"
    return look(content)


def _anything(_content: object) -> str:
    return ""


def _no_command(worker: str, content: object) -> str:
    """Why this is no remote command that we let pass; empty if it is one.

    A pattern may take hours to be compared with our name. An answer goes only where Celery's own clients wait for it: we
    are nobody's hand in the queues that he may not write to.
    """
    if not isinstance(content, dict) or not isinstance(content.get("method"), str):
        return "its body is no remote command"
    if content.get("pattern") is not None or content.get("matcher") is not None:
        return "it is addressed by a pattern"
    if not isinstance(content.get("arguments"), dict | None):
        return "its arguments are not an object"
    addressed = content.get("destination")
    if addressed is not None and not (isinstance(addressed, list) and all(isinstance(name, str) for name in addressed)):
        return "its destination is not a list of names"
    if (not addressed or worker in addressed) and content["method"] not in _panel().data:
        return f"there is no remote command {content['method']!r:.100}"
    match content.get("reply_to"):
        case None:
            return ""
        case {"exchange": str(exchange), "routing_key": str()} if exchange == _REPLIES:
            return ""
    return "its answer would go elsewhere than to Celery's clients"


def _small_number(value: object) -> bool:
    return value is None or (type(value) is int and 0 <= value < 2**53)


_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What kombu raises where it takes a message apart that is none; its connection errors are none of these."""


class _GuardedQoS(redis_transport.QoS):
    """Celery's notes about messages that are being handled, which lie in Redis too."""

    def append(self, message: Any, delivery_tag: str) -> None:
        self._noted(functools.partial(super().append, message, delivery_tag))

    def ack(self, delivery_tag: str) -> None:
        self._noted(functools.partial(super().ack, delivery_tag))

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        self._noted(functools.partial(super().reject, delivery_tag, requeue))

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        self._noted(functools.partial(super().restore_visible, start, num, interval))

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        try:
            super().restore_by_tag(tag, client, leftmost)  # type: ignore[no-untyped-call]
        except _UNREADABLE as exc:
            _dropped("the unacknowledged ones", f"it cannot be read ({exc!r:.200})")
            self._remove_from_indices(tag).execute()  # type: ignore[no-untyped-call] # Else it is tried for ever, before all others.

    def _noted(self, act: Callable[[], object]) -> None:
        """`act`; and once more where something else lies in the place of the notes, which would end the worker."""
        try:
            act()
        except self.channel.ResponseError as exc:
            with self.channel.conn_or_acquire() as client:
                _cleared(client, exc, self.unacked_key, self.unacked_index_key, self.unacked_mutex_key)
            act()


class _GuardedChannel(redis_transport.Channel):
    """Drops what cannot be taken apart. It is popped already, so that it cannot come again."""

    QoS = _GuardedQoS

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except _UNREADABLE as exc:
            _dropped("a queue", f"it cannot be read ({exc!r:.200})")
            raise Empty from exc  # the event loop's word for "nothing came"
        except self.ResponseError as exc:
            self._clear_queues(exc)
            raise Empty from exc

    def _clear_queues(self, exc: Exception) -> None:
        """Something that is no list lies in the place of one of our queues, and BRPOP would fail for ever."""
        if "WRONGTYPE" not in str(exc):
            raise exc
        with self.conn_or_acquire() as client:
            for queue, priority in itertools.product(self.active_queues, self.priority_steps):
                key = self._q_for_pri(queue, priority)  # type: ignore[no-untyped-call]
                try:
                    client.llen(key)
                except self.ResponseError:
                    _cleared(client, exc, key)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)  # type: ignore[no-untyped-call]
        except self.ResponseError as exc:
            with self.conn_or_acquire() as client:
                _cleared(client, exc, self.keyprefix_queue % (exchange,), self.keyprefix_binding_permanent % (exchange,))
            super()._queue_bind(exchange, routing_key, pattern, queue)  # type: ignore[no-untyped-call]

    def _receive_one(self, c: Any) -> Any:
        try:
            return super()._receive_one(c)  # type: ignore[no-untyped-call]
        except _UNREADABLE as exc:
            _dropped("a broadcast", f"it cannot be read ({exc!r:.200})")
            raise Empty from exc


def _cleared(client: Any, exc: Exception, *keys: str) -> None:
    """Delete what was put in the place of keys of ours. Raises `exc` where that was not the trouble."""
    if "WRONGTYPE" not in str(exc):
        raise exc
    client.delete(*keys)
    log.warning("%s held what is none of ours and was cleared", " and ".join(keys), extra={"action": "key_cleared"})


class GuardedTransport(redis_transport.Transport):
    """kombu's Redis transport, for which every item of a queue is somebody's input."""

    Channel = _GuardedChannel

    def _deliver(self, message: Any, queue: str) -> None:
        worker = "" if queue.endswith(_REPLIES) else queue.removesuffix(_COMMANDS) if queue.endswith(_COMMANDS) else ""
        if why := no_message(message, command_to=worker):
            _dropped(queue, why)
        else:
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]


def _dropped(where: str, why: str) -> None:
    dropped.warn(log, "A message in %s was dropped: %s", where, why, action=dropped.Drop.MESSAGE)


# --- what is no task ----------------------------------------------------------------------------------------------------


_TEXTS = ("eta", "shadow", "argsrepr", "kwargsrepr", "root_id", "parent_id")
_ID = re.compile(r"[0-9A-Za-z-]{1,64}")  # it stands in Celery's log lines
_CLOCKS_DIFFER = timedelta(seconds=60)


def no_task(headers: Mapping[str, Any], body: object, known: Collection[str], *, longest_wait_s: float = 0.0) -> str:
    """Why this message is no task that a worker which knows these names should run; empty if it is one."""
    name = headers.get("task")
    if not isinstance(name, str) or name not in known:
        return f"no task is called {name!r:.100}"
    if not isinstance(headers.get("id"), str) or not _ID.fullmatch(headers["id"]):
        return "it has no task id"
    if not _small_number(headers.get("retries", 0)):
        return "its number of retries is not a number"
    if any(not isinstance(headers.get(name), str | None) for name in _TEXTS):
        return "a header is not text"
    if why := _bad_time(headers, longest_wait_s):
        return why
    if headers.get("stamped_headers") or headers.get("stamps"):
        return "it is stamped"
    match body:
        case [list(), dict(), dict() as embed] if not any(embed.values()):
            return ""
        case [list(), dict(), None]:
            return ""
    return "its body is not (args, kwargs, nothing else)"


def _bad_time(headers: Mapping[str, Any], longest_wait_s: float) -> str:
    """Ours have no expiry: Celery would count the id of one that has expired among the revoked ones, and drop the true task."""
    if headers.get("expires") is not None:
        return "it has an expiry"
    if headers.get("timelimit") not in (None, [None, None]):
        return "it has a Celery time limit; trainings have their own"
    if headers.get("eta") is None:
        return ""
    try:
        eta = datetime.fromisoformat(headers["eta"])
        wait = (eta if eta.tzinfo else eta.replace(tzinfo=UTC)) - datetime.now(UTC)
    except (ValueError, OverflowError):
        return "its moment is no time"
    if longest_wait_s <= 0 or wait > timedelta(seconds=longest_wait_s) + _CLOCKS_DIFFER:
        return "it would wait here for too long"
    return ""


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
        why = no_task(message.headers, message.payload, known, longest_wait_s=consumer.app.longest_wait_s)
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
