"""The seal on every message between the control plane and a host. Standard library only; `gpuworker.protocol` says what is sealed.

A seal is an HMAC by the host's own key over the protocol version, the kind of message, the host's name and the body: a message
cannot be altered, redirected or taken for something else. Whoever can write into Redis can put anything where a sealed text
is looked for, so opening one raises BadEnvelope, and nothing else, whatever it is given.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PROTOCOL_VERSION = 2
"""1: the first. 2: a spec may say after how long without contact its training must be gone (gone_after_s); a host that does not
know that word would let it run on, so that it would run twice."""
OLDEST_READABLE_VERSION = 1
"""The control plane is upgraded first: it understands hosts of the version before, answers them in it, and gives them nothing new."""

UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)
"""What is raised where somebody else's JSON is taken for ours: among the ValueErrors is half a surrogate pair in a text."""


class BadEnvelope(ValueError):
    """A message that is forged, altered, expired, meant for somebody else, or not one of ours. Says which."""


class OtherVersion(BadEnvelope):
    """A message of a protocol version that this side does not read."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """What somebody sealed a message with."""

    key: bytes
    version: int


def seal(kind: str, host: str, body: Mapping[str, Any], key: bytes, *, version: int | None = None) -> str:
    """A signed JSON text that only the holder of `key` can have made, for this kind and this host. `version`: else our own."""
    spoken = PROTOCOL_VERSION if version is None else version
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    mac = mac_of(spoken, kind, host, text.encode(), key)
    return json.dumps({"v": spoken, "k": kind, "h": host, "b": text, "m": mac}, ensure_ascii=False)


def unseal(kind: str, host: str, text: str | bytes, keys: Sequence[bytes]) -> dict[str, Any]:
    """The body of a sealed text; raises BadEnvelope. Several keys are accepted while one is being replaced."""
    return opened(kind, host, text, keys)[0]


def opened(kind: str, host: str, text: str | bytes, keys: Sequence[bytes]) -> tuple[dict[str, Any], Spoken]:
    """The body, and with what it was sealed; raises BadEnvelope."""
    try:
        outer = json.loads(text)
        version, body, mac = outer["v"], outer["b"].encode(), outer["m"].encode()
        named = (outer["k"], outer["h"])
    except UNREADABLE as exc:
        raise BadEnvelope(f"not a sealed message: {type(exc).__name__}") from exc
    if named != (kind, host):
        raise BadEnvelope(f"a {told(named[0])} message for host {told(named[1])}, not a {str(kind)!r} message for {host!r}")
    check_version(version)
    key = _signer(version, kind, host, body, mac, keys)
    if key is None:
        raise BadEnvelope("the signature is not by this host's key")
    try:
        found = json.loads(body)
    except UNREADABLE as exc:
        raise BadEnvelope("the signed body is not JSON") from exc
    if not isinstance(found, dict):
        raise BadEnvelope("the signed body is not an object")
    return found, Spoken(key, version)


def spoken(kind: str, host: str, text: str | bytes, keys: Sequence[bytes]) -> Spoken | None:
    """By which of these keys, and in which version, a text was sealed; None where it is not sealed by any of them."""
    try:
        return opened(kind, host, text, keys)[1]
    except BadEnvelope:
        return None


def check_version(version: object) -> None:
    if type(version) is not int or not OLDEST_READABLE_VERSION <= version <= PROTOCOL_VERSION:
        raise OtherVersion(f"protocol version {told(version)}; this side reads {OLDEST_READABLE_VERSION} to {PROTOCOL_VERSION}")


def mac_of(version: int, kind: str, host: str, body: bytes, key: bytes) -> str:
    return hmac.digest(key, f"{version}\n{kind}\n{host}\n".encode() + body, "sha256").hex()


def signed(version: int, kind: str, host: str, body: bytes, mac: bytes, keys: Sequence[bytes]) -> bool:
    """Whether one of the keys made this code."""
    return _signer(version, kind, host, body, mac, keys) is not None


def _signer(version: int, kind: str, host: str, body: bytes, mac: bytes, keys: Sequence[bytes]) -> bytes | None:
    """Which of the keys made this code; all of them are tried, in the same time."""
    found = [key for key in keys if hmac.compare_digest(mac_of(version, kind, host, body, key).encode(), mac)]
    return found[0] if found else None


def told(value: object) -> str:
    """Somebody else's word, for a log line: never long, never two lines."""
    try:
        return repr(str(value)[:60])
    except ValueError:  # a number of more digits than Python writes
        return f"a long {type(value).__name__}"
