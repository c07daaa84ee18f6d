"""The users of a Redis that many hosts share: one for the control plane, and one for each host, who can touch nothing but its own.

Passwords come from the cluster key, so that none has to be kept, and `manage.py join` can tell a host its own.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote, urlsplit, urlunsplit

from gpuworker.protocol import CONTROL_QUEUE, KEY_PREFIX, host_queue, node_name

CONTROL_USER = "autotrainer"
_CONTROL_COMMANDS = "+@all -@dangerous -@admin +info +config|get +acl|whoami"
"""CONFIG GET: whether this Redis keeps what it is given is looked at when the services start."""
_HOST_COMMANDS = (
    "+@read +@write +@connection +@transaction +@blocking +@pubsub -@scripting +eval +evalsha +script|load +script|exists +time +info "
    "-@dangerous -@admin -scan -randomkey -dbsize"
)
_PRIORITY = "[^-A-Za-z0-9_.][^-A-Za-z0-9_.]?"
"""kombu appends two control characters and a digit. No host's name has such characters, so that `gpu-a` does not cover `gpu-ab`."""


def host_user(host: str) -> str:
    return f"{CONTROL_USER}-{host}"


def password(cluster_key: bytes, user: str, generation: int = 0) -> str:
    """A host's changes with its key, whose generation it is."""
    named = f"{user}\n{generation}" if generation else user
    return hmac.digest(cluster_key, b"autotrainer redis password 1\n" + named.encode(), "sha256").hex()[:40]


def url_of(redis_url: str, cluster_key: bytes, user: str, *, generation: int = 0) -> str:
    """The same Redis, as this user."""
    parts = urlsplit(redis_url)
    address = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(user)}:{password(cluster_key, user, generation)}@{address}"))


def in_use(redis_url: str) -> bool:
    """Whether the control plane itself is a user of such a file, so that hosts have users of their own too."""
    return urlsplit(redis_url).username == CONTROL_USER


def lines(cluster_keys: Sequence[bytes], hosts: Mapping[str, Sequence[int]], *, database: int = 0) -> Iterator[str]:
    """The ACL file. `hosts`: each with the generations of its key. With two cluster keys, while one is being replaced, each user
    has two passwords; so has a host whose own key is being replaced."""
    yield "user default off -@all resetkeys resetchannels"
    yield f"user {CONTROL_USER} on {_hashes(cluster_keys, CONTROL_USER, (0,))} ~{KEY_PREFIX}* &{KEY_PREFIX}* {_CONTROL_COMMANDS}"
    for host, generations in hosts.items():
        user = host_user(host)
        places = f"resetchannels {_keys(host)} {_channels(database)}"
        yield f"user {user} on {_hashes(cluster_keys, user, generations)} {places} -@all {_HOST_COMMANDS} {_shared()}"


def _hashes(cluster_keys: Sequence[bytes], user: str, generations: Sequence[int]) -> str:
    passwords = (password(key, user, generation) for generation in generations for key in cluster_keys)
    return " ".join("#" + hashlib.sha256(word.encode()).hexdigest() for word in passwords)


def _keys(host: str) -> str:
    """Its keys, its queue at each of kombu's priorities, the queue of remote commands to it, and files that jobs swap in, to read."""
    queues = [f"{KEY_PREFIX}{host_queue(host)}", f"{KEY_PREFIX}{node_name(host)}.celery.pidbox"]
    return " ".join([f"~{KEY_PREFIX}host:{host}:*", *(f"~{queue} ~{queue}{_PRIORITY}" for queue in queues), f"%R~{KEY_PREFIX}content:*"])


def _channels(database: int) -> str:
    """Remote commands, to hear (Redis takes a pattern for a subscription only word for word); events for Flower, to tell."""
    return f"&{KEY_PREFIX}/{database}.celery.pidbox &{KEY_PREFIX}/{database}.celeryev/*"


def _shared() -> str:
    """What all hosts add to and none can read or empty: knocks at the control plane, answers to `inspect`; and Celery's bindings,
    by which nothing but those answers finds its way."""
    control = f"{KEY_PREFIX}{CONTROL_QUEUE}"
    adding = f"(+lpush +llen ~{control} ~{control}{_PRIORITY} ~{KEY_PREFIX}*.reply.celery.pidbox)"
    binding = f"(+eval +evalsha +sadd +smembers +zadd +zrange +zrangebyscore +zrem +exists +del ~{KEY_PREFIX}_kombu.binding*)"
    return f"{adding} {binding}"
