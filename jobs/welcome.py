"""Answers hosts that say hello, so that one with a wrong key, clock or version learns it there and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from gpuworker import envelope, protocol
from gpuworker.envelope import Spoken
from gpuworker.greeting import HELLO_LIFETIME_S, Hello, Welcome, hello_key, welcome_key
from gpuworker.protocol import BadEnvelope, BadMessage, Kind
from jobs import hostkeys, hostlink

log = logging.getLogger(__name__)


def answer(hosts: Iterable[str]) -> None:
    """Take the hellos of these hosts and welcome each. Raises redis.RedisError.

    A hello that is not sealed with the host's key gets the same answer: sealed with the right one it can be opened by nobody else.
    """
    names = list(hosts)
    texts: Any = hostlink.client().mget([hello_key(name) for name in names]) if names else []
    said = {name: text for name, text in zip(names, texts, strict=True) if text}
    if not said:
        return
    hostkeys.look_afresh()  # The key of one that has just joined may have been printed a moment ago.
    pipe = hostlink.client().pipeline()
    for name, text in said.items():
        _note(name, text)
        welcome = Welcome(to=protocol.fingerprint(text), at=time.time())
        keys = hostkeys.valid(name)
        spoken = envelope.spoken(Kind.HELLO, name, text, keys) or Spoken(keys[0], envelope.PROTOCOL_VERSION)
        sealed = protocol.seal(Kind.WELCOME, name, welcome.body(), spoken.key, version=spoken.version)
        pipe.delete(hello_key(name))
        pipe.set(welcome_key(name), sealed, ex=HELLO_LIFETIME_S)
    pipe.execute()


def _note(name: str, text: bytes) -> None:
    try:
        hello = Hello.read(protocol.unseal(Kind.HELLO, name, text, hostkeys.valid(name)))
    except (BadEnvelope, BadMessage) as exc:
        log.warning("Somebody says hello as host %s and is not: %s", name, exc, extra={"action": "hello_refused"})
        return
    log.info("%s says hello, version %s", name, hello.agent_version, extra={"action": "hello"})
