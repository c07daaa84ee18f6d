"""Requests that come all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from autotrainer_site.crowd import Receive, Send, in_turn

MOST, CALLS = 3, 10


class App:
    """Counts who is in it with a whole request; each call waits until `gate` is opened."""

    def __init__(self, *, answers: bool = False, fails: bool = False) -> None:
        self.gate, self.inside, self.seen, self.most = asyncio.Event(), 0, 0, 0
        self._answers, self._fails = answers, fails

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            continue
        self.inside += 1
        self.seen += 1
        self.most = max(self.most, self.inside)
        try:
            if self._answers:
                await send({"type": "http.response.start"})
            await self.gate.wait()
            if self._fails:
                raise RuntimeError("a bug")
        finally:
            self.inside -= 1


async def receive() -> Mapping[str, Any]:
    return {"type": "http.request"}


async def stalled() -> Mapping[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError("it never comes")


async def send(message: Mapping[str, Any]) -> None:
    return None


async def crowd(app: App) -> list[asyncio.Task[None]]:
    """Calls that have come as far as they can."""
    wrapped = in_turn(app, MOST)
    tasks = [asyncio.ensure_future(wrapped({}, receive, send)) for _ in range(CALLS)]
    while app.seen < MOST:
        await asyncio.wait(tasks, timeout=0.01)
    await asyncio.wait(tasks, timeout=0.01)
    return tasks


def test_crowd_is_looked_at_in_turn() -> None:
    async def main() -> None:
        app = App()
        tasks = await crowd(app)
        assert app.inside == MOST
        app.gate.set()
        await asyncio.gather(*tasks)
        assert (app.seen, app.most) == (CALLS, MOST)

    asyncio.run(main())


def test_crowd_goes_on_once_answers_have_begun() -> None:
    async def main() -> None:
        app = App(answers=True)
        tasks = await crowd(app)
        assert app.inside == CALLS
        app.gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_crowd_is_not_held_up_by_those_who_send_slowly() -> None:
    async def main() -> None:
        app = App(answers=True)
        wrapped = in_turn(app, MOST)
        slow = [asyncio.ensure_future(wrapped({}, stalled, send)) for _ in range(CALLS)]
        app.gate.set()
        await asyncio.gather(*(wrapped({}, receive, send) for _ in range(CALLS)))
        assert app.seen == CALLS
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.parametrize("how", ["fails", "cancelled"])
def test_crowd_goes_on_when_a_request_ends_without_an_answer(how: str) -> None:
    async def main() -> None:
        app = App(fails=how == "fails")
        tasks = await crowd(app)
        for task in tasks[:MOST]:
            if how == "cancelled":
                task.cancel()
        app.gate.set()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert app.seen == CALLS
        assert len([end for end in ends if end is not None]) == (CALLS if how == "fails" else MOST)

    asyncio.run(main())
