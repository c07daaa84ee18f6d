"""Requests that come all at once take turns.

Each one that is looked at has a thread and a database connection of its own. When a server has been restarted, everybody who
follows a log is back within the same second: 300 of them at once took 75 MB that the process never gave back, and were no
sooner served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

MOST_AT_ONCE = 64

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]


def in_turn(app: App, most: int = MOST_AT_ONCE) -> App:
    """`app`, which looks at so many requests at once."""
    free = asyncio.Semaphore(most)

    async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        turn = _Turn(free)

        async def receive_and_wait() -> Mapping[str, Any]:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                await turn.come()
            return message

        async def begin(message: Mapping[str, Any]) -> None:
            turn.over()
            await send(message)

        try:
            await app(scope, receive_and_wait, begin)
        finally:
            turn.over()

    return application


class _Turn:
    """Of one request: from when all of it has come, so that nobody holds one by sending slowly, to when its answer begins."""

    def __init__(self, free: asyncio.Semaphore) -> None:
        self._free, self._held, self._over = free, False, False

    async def come(self) -> None:
        if not (self._held or self._over):
            await self._free.acquire()
            self._held = True

    def over(self) -> None:
        if self._held:
            self._free.release()
        self._held, self._over = False, True
