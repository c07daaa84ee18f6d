"""Asking a host something, for a page or a mail. Best effort: no answer in time is an answer too."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from gpuworker import dropped, protocol
from gpuworker.protocol import BadEnvelope, BadMessage, Kind
from gpuworker.questions import ANSWER_LIFETIME_S, MOST_WAITING, Answer, Ask, Question, answer_key, questions_key
from jobs import hostkeys, hostlink

log = logging.getLogger(__name__)

WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What a host said; `error` is a sentence where it said nothing of use."""

    told: Any = None
    error: str = ""


def ask(host: str, what: Ask, args: Mapping[str, str] | None = None, *, patterns: Sequence[str] = (), wait_s: float = WAIT_S) -> Asked:
    return ask_all([host], what, args, patterns=patterns, wait_s=wait_s)[host]


def ask_all(
    hosts: Sequence[str], what: Ask, args: Mapping[str, str] | None = None, *, patterns: Sequence[str] = (), wait_s: float = WAIT_S
) -> dict[str, Asked]:
    """Ask all of them at once, and wait for all together no longer than `wait_s`."""
    deadline = time.monotonic() + wait_s
    ids = {host: secrets.token_hex(16) for host in hosts}
    try:
        pipe = hostlink.client().pipeline(transaction=False)
        for host, ident in ids.items():
            expires_at = time.time() + max(wait_s, 5.0)
            question = Question(id=ident, ask=what, expires_at=expires_at, args=dict(args or {}), patterns=tuple(patterns))
            pipe.rpush(questions_key(host), hostlink.sealed(Kind.QUESTION, host, question))
            pipe.ltrim(questions_key(host), -MOST_WAITING, -1)
            pipe.expire(questions_key(host), ANSWER_LIFETIME_S)
        pipe.execute(raise_on_error=False)  # A host whose key holds something else is one that does not answer.
        return {host: _heard(host, ident, deadline) for host, ident in ids.items()}
    except (redis.RedisError, OSError) as exc:
        log.debug("nobody could be asked: %s", exc)
        return dict.fromkeys(hosts, Asked(error="Redis does not answer, so the hosts cannot be asked."))


def _heard(host: str, ident: str, deadline: float) -> Asked:
    found: Any = hostlink.client().blpop([answer_key(host, ident)], timeout=max(0.01, deadline - time.monotonic()))
    if not found:
        return Asked(error=f"{host} has not answered in time.")
    try:
        answer = Answer.read(protocol.unseal(Kind.ANSWER, host, found[1], hostkeys.valid(host)))
        if answer.id != ident:
            raise BadEnvelope("the answer is to another question")
        return Asked(json.loads(answer.told), answer.error)
    except (BadEnvelope, BadMessage, ValueError) as exc:
        dropped.warn(log, "An answer of %s was dropped: %s", host, exc, action=dropped.Drop.ANSWER)
        return Asked(error=f"{host} has given no answer that can be read.")
