"""Requests that come all at once take turns.

Each one that is looked at has a thread and a database connection of its own. When a server has been restarted, everybody who
follows a log is back within the same second: 300 of them at once took 75 MB that the process never gave back, and were no
sooner served. An answer that has begun counts no more; a stream may last for days.
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
        await free.acquire()
        held = True

        def let_go() -> None:
            nonlocal held
            if held:
                held = False
                free.release()

        async def begin(message: Mapping[str, Any]) -> None:
            let_go()
            await send(message)

        try:
            await app(scope, receive, begin)
        finally:
            let_go()

    return application
