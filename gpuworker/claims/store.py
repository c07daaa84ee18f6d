"""Who has which device, as Redis knows it: the plan. The device locks and the attempt directories are the truth.

One Lua file for each operation; their headers hold the key model. All raise redis.RedisError where Redis is away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuworker import misplaced, protocol

if TYPE_CHECKING:
    import redis
    from redis.commands.core import Script

LEFT_OVER_AFTER_S = 60.0
"""A claim that nobody renewed for so long and that the host does not name: its agent died before it made a directory."""


@dataclass(frozen=True, slots=True)
class ClaimRefused:
    """Nothing was taken. `code` is "stale" or "device_busy"; `message` is a sentence for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Held:
    """What one attempt holds, as its directory says it."""

    key: str
    fence: int
    uuids: tuple[str, ...]
    shared_mib: int = 0
    """What it may count on of each device, where it shares; 0: it has them alone."""


class ClaimStore:
    """The claims of one host. Thread-safe."""

    def __init__(self, client: redis.Redis, host: str) -> None:
        self._client = client
        self._claims, self._fences = protocol.claims_key(host), protocol.fences_key(host)
        self._acquire, self._release, self._renew = (client.register_script(_source(name)) for name in ("acquire", "release", "renew"))

    def acquire(
        self,
        key: str,
        *,
        job: str,
        fence: int,
        count: int,
        allowed: Sequence[str],
        shared_mib: int = 0,
        room_mib: Mapping[str, int] | None = None,
    ) -> tuple[str, ...] | ClaimRefused:
        """The first `count` of `allowed` that are to be had, or nothing. The same key asking again gets what it has.

        With `shared_mib` a device may have other holders that share, as far as `room_mib` of it goes round.
        """
        room_mib = room_mib or {}
        pairs = [word for uuid in allowed for word in (uuid, room_mib.get(uuid, 0))]
        answer = self._call(self._acquire, [self._claims, self._fences], [key, job, fence, count, shared_mib, *pairs])
        word, rest = answer[0], answer[1:]
        if word == "ok":
            return tuple(rest)
        if word == "stale":
            return ClaimRefused("stale", f"A newer dispatch of this job ({rest[0]}) has been here; this one ({fence}) is outdated.")
        return ClaimRefused("device_busy", _who_holds(rest, count=count, allowed=len(allowed)))

    def release(self, key: str) -> tuple[str, ...]:
        """The devices that this key held; call it on evidence that nothing of the attempt is left."""
        return tuple(self._call(self._release, [self._claims], [key]))

    def renew(self, held: Sequence[Held], *, left_over_after_s: float = LEFT_OVER_AFTER_S) -> dict[str, str]:
        """Say again all that this host's attempts hold. The answer: devices that Redis gives to somebody else, and to whom."""
        said = [word for one in held for uuid in one.uuids for word in (uuid, one.key, one.fence, one.shared_mib)]
        answer = self._call(self._renew, [self._claims], [round(left_over_after_s * 1000), *said])
        return dict(zip(answer[::2], answer[1::2], strict=True))

    def _call(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> list[str]:
        return _texts(misplaced.retried(self._client, dict.fromkeys(keys, "hash"), lambda: script(keys=keys, args=args)))


def _who_holds(pairs: Sequence[str], *, count: int, allowed: int) -> str:
    if not pairs:
        return f"{count} devices were asked for, but only {allowed} were allowed."
    holders = ", ".join(f"{uuid} by {key}" for uuid, key in zip(pairs[::2], pairs[1::2], strict=True))
    return f"Too few devices are free; claimed are {holders}."


def _source(name: str) -> str:
    return (Path(__file__).parent / f"{name}.lua").read_text()


def _texts(answer: Any) -> list[str]:
    return [word.decode() if isinstance(word, bytes) else str(word) for word in answer]
