"""What lies in Redis in the place of a key of ours and is none: found where a command fails on it, told, and cleared away.

Nothing is lost with it: each key is a hint that its writer repeats, or is rebuilt from what hosts hold (docs/how-it-works.md).
Left alone, one key of one host would stop what reads the keys of all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import redis

log = logging.getLogger(__name__)

T = TypeVar("T")

AHEAD_MS = 3600 * 1000
"""A stream counts by the clock. An entry from further ahead was put there so that ours would be refused."""


def clear(client: redis.Redis, kinds: Mapping[str, str]) -> bool:
    """Delete those of these keys that are not what they must be ("stream", "list", "hash", "string"). Raises redis.RedisError."""
    wrong = [key for key, kind in kinds.items() if not _fits(client, key, kind)]
    for key in wrong:
        client.delete(key)
        log.warning("%s held what is none of ours and was cleared", key, extra={"action": "key_cleared"})
    return bool(wrong)


def retried(client: redis.Redis, kinds: Mapping[str, str], act: Callable[[], T]) -> T:
    """`act`, and once more where Redis refused it. Raises redis.RedisError.

    Also where nothing wrong lies at these keys any more: host and control plane share some, and the other may have cleared it.
    """
    try:
        return act()
    except redis.ResponseError:
        clear(client, kinds)
    return act()


def _fits(client: redis.Redis, key: str, kind: str) -> bool:
    found: Any = client.type(key)
    if found in (b"none", "none"):
        return True
    if found not in (kind, kind.encode()):
        return False
    return kind != "stream" or not _runs_ahead(client, key)


def _runs_ahead(client: redis.Redis, key: str) -> bool:
    info: Any = client.xinfo_stream(key)
    last = info.get("last-generated-id", info.get(b"last-generated-id", b"0-0"))
    text = last.decode() if isinstance(last, bytes) else str(last)
    return int(text.partition("-")[0]) > time.time() * 1000 + AHEAD_MS
