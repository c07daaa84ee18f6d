"""A host agent's connection to the control plane: one Redis client, the host's name and its keys."""

from __future__ import annotations

from dataclasses import dataclass, field

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

TIMEOUT_S = 10.0
"""Of any one command. Blocking reads stay below it. A Redis that hangs must not hold up supervision for longer."""


@dataclass(frozen=True, slots=True)
class Link:
    host: str
    key: bytes = field(repr=False)
    """What we seal with."""
    client: redis.Redis = field(repr=False)
    keys: tuple[bytes, ...] = field(repr=False)
    """What we open: our key, and the one before while it is being replaced."""


def connect(url: str, *, host: str, key: bytes, previous: bytes | None = None) -> Link:
    """Lazy: nothing is sent yet. Commands raise redis.RedisError at once where Redis is away; callers say it again later."""
    client = redis.Redis.from_url(
        url,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=2,
        health_check_interval=10,
        retry=Retry(NoBackoff(), 1),  # One: an idle connection may have been closed by a Redis that is back.
        client_name="autotrainer-agent",
    )
    return Link(host, key, client, (key,) if previous is None else (key, previous))
