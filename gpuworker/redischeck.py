"""Whether a Redis may be worked with: nobody comes in without a password, nothing is evicted, and a restart loses nothing.

The first is refused at start; the others are told, since all that Redis holds is said again. Without its answer, or where it
may not be asked for its configuration (a managed one), only what the address says is known.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

import redis

from gpuworker.settings import BadSetting, Settings

OPEN = (
    "This Redis lets everybody in who reaches it: it has no password and listens beyond this machine. Give it one (requirepass, or the "
    "users of `manage.py redis_acl`) and put it into AUTOTRAINER_REDIS_URL, or let it listen on 127.0.0.1 only. On a network that "
    "you trust as you trust this machine, AUTOTRAINER_REDIS_OPEN=true."
)


def refuse_open(client: redis.Redis, settings: Settings) -> None:
    """Raises BadSetting where whoever is on the network can write into this Redis; redis.RedisError where it is away."""
    if urlsplit(settings.redis_url).password:
        return  # Whoever has to give one does; one that is not asked for is refused by Redis itself.
    if not settings.redis_open and is_open(settings.redis_url, _configuration(client)):
        raise BadSetting(OPEN)


def is_open(redis_url: str, configuration: dict[str, str]) -> bool:
    """For an address without a password."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix" and not _is_loopback(unquote(parts.hostname or "localhost")):
        return True
    listens = configuration.get("bind", "127.0.0.1").split() or ["*"]
    on_a_port = any(configuration.get(name, "0") != "0" for name in ("port", "tls-port"))
    beyond = any(not _is_loopback(address.lstrip("-")) for address in listens)
    return on_a_port and beyond and configuration.get("protected-mode") == "no"


def warnings(client: redis.Redis) -> Iterator[str]:
    """What an operator should mend. Raises redis.RedisError."""
    found = _configuration(client)
    policy = found.get("maxmemory-policy", "noeviction")
    if policy != "noeviction" and found.get("maxmemory", "0") != "0":
        yield f"it throws messages away when its memory is full (maxmemory-policy {policy}): set maxmemory-policy noeviction"
    if found and found.get("appendonly") != "yes":
        kept = "keeps only what it had at its last snapshot" if found.get("save") else "keeps nothing"
        yield f"it {kept} when it is restarted: set appendonly yes, or waiting jobs start later than they could"


def _configuration(client: redis.Redis) -> dict[str, str]:
    """Empty where it may not be asked."""
    names = ("bind", "port", "tls-port", "protected-mode", "maxmemory", "maxmemory-policy", "appendonly", "save")
    try:
        found: Any = client.config_get(*names)
    except redis.ResponseError:
        return {}
    return {_text(name): _text(value) for name, value in found.items()}


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
