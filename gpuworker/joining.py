"""How an agent finds out that it may not work under its name: it is alive elsewhere, or the key, the version or the clock is wrong.

The first is looked at before the agent does anything, with what lies in Redis: two agents of one name would take each other's
claims for their own. The rest the control plane tells, whenever it is there: until then a wrong key can do no harm, since
nobody takes what it seals for the host's word.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from gpuworker import protocol
from gpuworker.greeting import HELLO_LIFETIME_S, Hello, Welcome, hello_key, welcome_key
from gpuworker.link import Link
from gpuworker.protocol import BEAT_LIFETIME_S, BadEnvelope, BadMessage, Beat, Kind
from gpuworker.settings import BadSetting

log = logging.getLogger(__name__)

FRESH_BEATS = 2.5
"""So many heartbeats without a new one, and whoever sent them is gone."""
LOOK_EVERY_S = 0.25
SAY_AFTER_S = 15.0
BAD_WELCOMES = 3
"""So many answers, each to another hello, that cannot be opened: one or two may be somebody else's who writes into Redis."""
WRONG_CLOCK_S = 60.0
"""As long as a command is good for: a host that is further off takes old ones for new, or new ones for old."""
ODD_CLOCK_S = 5.0

WRONG_KEY = (
    "AUTOTRAINER_HOST_KEY is not the key of host {host}, so this agent does not start. "
    "`manage.py join {host}` on the control plane prints the right one."
)


# --- the name -----------------------------------------------------------------------------------------------------------


def take_name(link: Link, memory: Path, *, heartbeat_s: float) -> str:
    """A name for this start of the agent, remembered in the file `memory`; raises BadSetting where another agent of this host lives.

    Without Redis nobody can be asked, and the agent starts: what it runs goes on and is not to wait.
    """
    instance = secrets.token_hex(8)
    try:
        _alone(link, _remembered(memory), patience_s=FRESH_BEATS * heartbeat_s)
    except redis.RedisError as exc:
        log.warning("Whether %s is alive elsewhere cannot be seen: %s", link.host, exc, extra={"action": "name_unseen"})
    memory.write_text(instance)
    return instance


def _remembered(memory: Path) -> str:
    try:
        return memory.read_text()
    except (OSError, ValueError):
        return ""


def _alone(link: Link, before: str, *, patience_s: float) -> None:
    """Wait whether a new heartbeat comes under our name. Our own last one, from before a restart, is not waited for."""
    first, left_s = _last_beat(link)
    if first is None or left_s < BEAT_LIFETIME_S - patience_s:
        return
    beat = _opened(link, first)
    if beat and (beat.leaving or (before and beat.instance == before)):
        return
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        time.sleep(min(LOOK_EVERY_S, patience_s / 5))
        text, _ = _last_beat(link)
        if text not in (None, first):
            raise BadSetting(_refusal(link, _opened(link, text)))


def _last_beat(link: Link) -> tuple[bytes | None, float]:
    """The last heartbeat under our name and the seconds until it expires."""
    pipe = link.client.pipeline(transaction=False)
    pipe.get(protocol.beat_key(link.host))
    pipe.pttl(protocol.beat_key(link.host))
    text, left_ms = pipe.execute()
    return text, left_ms / 1000


def _refusal(link: Link, beat: Beat | None) -> str:
    if beat is None:
        return f"Another agent is alive as host {link.host}, and its key is not ours. " + WRONG_KEY.format(host=link.host)
    return (
        f"Host {link.host} is alive already: another agent with this name sends heartbeats. Stop it, or let this machine join "
        "under a name of its own (`manage.py join NAME` on the control plane)."
    )


def _opened(link: Link, text: Any) -> Beat | None:
    try:
        return Beat.read(protocol.unseal(Kind.BEAT, link.host, text, link.keys))
    except (BadEnvelope, BadMessage):
        return None


# --- the control plane's word -------------------------------------------------------------------------------------------


class Joining:
    """Says hello until the control plane has answered, on a thread of its own. `on_refused` gets the sentence that says why not."""

    def __init__(
        self, link: Link, instance: str, agent_version: str, on_refused: Callable[[str], None], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._link, self._on_refused, self._clock = link, on_refused, clock
        self._instance, self._agent_version = instance, agent_version
        self._hello = b""
        self._said_at = float("-inf")
        self._began, self._warned, self._bad = time.monotonic(), False, 0
        self._stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="joining", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(LOOK_EVERY_S):
            try:
                if self.turn():
                    return
            except redis.RedisError as exc:
                log.debug("No word from the control plane: %s", exc, extra={"action": "joining"})
            self._warn_once()

    def turn(self) -> bool:
        """Whether it is settled. Raises redis.RedisError."""
        if time.monotonic() - self._said_at > HELLO_LIFETIME_S * 2 / 3:
            self._say_hello()
        text: Any = self._link.client.get(welcome_key(self._link.host))
        if text is None:
            return False
        try:
            welcome = Welcome.read(protocol.unseal(Kind.WELCOME, self._link.host, text, self._link.keys))
        except (BadEnvelope, BadMessage) as exc:
            return self._cannot_open(exc)
        if welcome.to != protocol.fingerprint(self._hello):
            return False  # The answer to an earlier start of ours, said again by somebody.
        self._compare_clocks(welcome.at)
        return True

    def _cannot_open(self, exc: Exception) -> bool:
        self._bad += 1
        if self._bad >= BAD_WELCOMES:
            self._on_refused(_why_not(exc, self._link.host))
            return True
        log.warning("An answer to our hello was dropped: %s", exc, extra={"action": "welcome_dropped"})
        self._said_at = float("-inf")  # Say it anew, at once: that throws this answer away.
        return False

    def _say_hello(self) -> None:
        """What was answered before is thrown away: what lies there afterwards is the answer to this."""
        said = Hello(instance=self._instance, at=self._clock(), agent_version=self._agent_version)
        self._hello = protocol.seal(Kind.HELLO, self._link.host, said.body(), self._link.key).encode()
        pipe = self._link.client.pipeline()
        pipe.delete(welcome_key(self._link.host))
        pipe.set(hello_key(self._link.host), self._hello, ex=HELLO_LIFETIME_S)
        pipe.execute()
        self._said_at = time.monotonic()

    def _compare_clocks(self, theirs: float) -> None:
        off_s = self._clock() - theirs
        way = "ahead of" if off_s > 0 else "behind"
        told = f"The clock of this machine is {abs(off_s):.0f} s {way} the control plane's."
        if abs(off_s) > WRONG_CLOCK_S:
            self._on_refused(
                f"{told} Messages expire after {WRONG_CLOCK_S:.0f} s, so it cannot work like this: set it (NTP), and start again."
            )
        elif abs(off_s) > ODD_CLOCK_S:
            log.warning("%s Over %.0f s nothing would start here any more: set it (NTP).", told, WRONG_CLOCK_S, extra={"action": "clock"})

    def _warn_once(self) -> None:
        if not self._warned and time.monotonic() - self._began > SAY_AFTER_S:
            self._warned = True
            log.warning(
                "No control plane has answered yet. Is AutoTrainer running there, with this Redis, and was `manage.py join %s` said there?",
                self._link.host,
                extra={"action": "joining"},
            )


def _why_not(exc: Exception, host: str) -> str:
    if isinstance(exc, protocol.OtherVersion):
        return (
            f"The control plane speaks another version than this agent ({exc}), so it does not start. "
            "Put the same version of AutoTrainer on both; what runs here goes on meanwhile."
        )
    return WRONG_KEY.format(host=host)
