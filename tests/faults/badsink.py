"""A mail server that fails as mail servers do: by the choice of a seed, for so many of the connections."""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aiosmtpd.smtp import SMTP

from tests.integration.mailboxes import free_port

NOBODY = "nobody@example.org"
"""Refused for good, always."""
WEIGHTS = {"4xx": 6, "4xx for the recipient": 5, "5xx": 6, "cut in DATA": 5, "cut before the greeting": 3, "refused": 2, "hang": 3}
"""Of 30; a hang costs the deadline of a letter, so there are fewer of them."""
KEPT_AND_CUT = 0.02
"""Of the cuts: the server has taken the mail and cannot say so any more. Nobody can know, so this doubles."""
REFUSING_S = 0.15
_JOB = re.compile(r"/jobs/(\d+)/")


@dataclass(frozen=True)
class Mail:
    to: str
    message_id: str
    jobs: frozenset[int]
    said: bool
    """Whether we could say that we had taken it."""


class Sink:
    """`mails` is what was taken, read anew each time. `on_try` is called for each connection, with how many there were."""

    def __init__(self, rng: random.Random, *, share: float, on_try: Callable[[int], None]) -> None:
        self.port, self.faults, self.tries = free_port(), Counter[str](), 0
        self.taken = list[tuple[bytes, bool]]()
        """As they came, and whether we could say so. They are read at the end: a server that reads before it answers is killed there."""
        self._rng, self._share, self._on_try = rng, share, on_try
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._open = set[Any]()

    # --- what befalls a connection --------------------------------------------------------------------------------------

    def _protocol(self) -> SMTP:
        self.tries += 1
        self._on_try(self.tries)
        fault = self._rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0] if self._rng.random() < self._share else ""
        if fault:
            self.faults[fault] += 1
        if fault == "refused":
            self._loop.call_soon(self._refuse)  # asyncio is just about to give this connection to the server
        cut = fault in ("cut before the greeting", "refused")
        return _Connection(_Handler(self, fault), cut=cut, connections=self._open, loop=self._loop)

    @property
    def mails(self) -> list[Mail]:
        return [_read(content, said) for content, said in self.taken]

    def kept_and_cut(self) -> bool:
        return self._rng.random() < KEPT_AND_CUT

    def _refuse(self) -> None:
        """Nobody listens for a moment."""
        assert self._server
        self._server.close()
        self._loop.call_later(REFUSING_S, lambda: self._loop.create_task(self._listen()))

    # --- running --------------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        self._server = await self._loop.create_server(self._protocol, "127.0.0.1", self.port)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._loop.run_until_complete(self._listen())
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._end)
            thread.join(10)
            self._loop.close()

    def _end(self) -> None:
        assert self._server
        self._server.close()
        for transport in self._open:
            transport.abort()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.call_later(0.1, self._loop.stop)


class _Connection(SMTP):
    def __init__(self, handler: _Handler, *, cut: bool, connections: set[Any], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(handler, hostname="sink.example.org", loop=loop)
        self._cut, self._connections, self._mine = cut, connections, None

    def connection_made(self, transport: Any) -> None:
        self._mine = transport
        self._connections.add(transport)
        if self._cut:
            transport.abort()
        else:
            super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self._mine)
        if not self._cut:
            super().connection_lost(error)


class _Handler:
    def __init__(self, sink: Sink, fault: str) -> None:
        self._sink, self._fault = sink, fault

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address == NOBODY:
            return "550 no such user"
        if self._fault == "4xx for the recipient":
            return "450 try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self._fault == "hang":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), 60)
        if self._fault == "cut in DATA":
            if self._sink.kept_and_cut():
                self._sink.taken.append((envelope.content, False))
            server.transport.abort()
        if self._fault[:3] in ("4xx", "5xx"):
            return "451 later" if self._fault[0] == "4" else "554 not now"
        if not self._fault:
            self._sink.taken.append((envelope.content, True))
        return "250 OK"


def _read(content: bytes, said: bool) -> Mail:
    mail: Any = email.message_from_bytes(content, policy=email.policy.default)  # type: ignore[arg-type]
    text = str(mail.get_body(("plain",)).get_content())
    jobs = frozenset(map(int, _JOB.findall(text)))
    return Mail(str(mail["To"]), str(mail["Message-ID"]).strip(), jobs, said)
