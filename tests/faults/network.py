"""A wire between two of our processes that a test can cut: a TCP port that is passed on to somebody's unix socket.

Cut means that bytes wait until it is mended, as retransmission does it in a real network; reset, that every connection is broken
off and no new one lives. `python -m tests.faults.network ADDRESS PORT SOCKET` is a wire that nobody cuts, for namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

CHUNK_BYTES = 65536
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends a reset."""


class Wire:
    """One port on loopback. All methods may be called from any thread."""

    def __init__(self, target: Path, *, address: str = "127.0.0.1", port: int = 0) -> None:
        self._target = target
        self._there, self._back = asyncio.Event(), asyncio.Event()
        self._resets = False
        self._delay_s = 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self._listening = socket.create_server((address, port))
        self.port = int(self._listening.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"wire {self.port}", daemon=True)
        self._thread.start()
        self.mend()

    def mend(self) -> None:
        """Everything goes through again, what has waited first."""
        self._do(self._mend)

    def cut(self, *, there: bool = True, back: bool = True) -> None:
        """Nothing gets through: `there` from who has connected, `back` to them."""
        self._do(lambda: self._cut(there=there, back=back))

    def reset(self) -> None:
        """Break off what there is, and whatever comes, until `mend`."""
        self._do(self._reset)

    def slow(self, delay_s: float) -> None:
        """Each piece comes so much later."""
        self._do(lambda: setattr(self, "_delay_s", delay_s))

    def close(self) -> None:
        self._do(self._loop.stop)
        self._thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- in the loop's thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._pass_on, sock=self._listening))
        self._loop.run_forever()
        server.close()
        self._reset()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def _do(self, what: Callable[[], object]) -> None:
        """Returns when it is done, so that what a test does next happens afterwards."""
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (what(), done.set()))
        done.wait(5)

    def _mend(self) -> None:
        self._resets, self._delay_s = False, 0.0
        self._there.set()
        self._back.set()

    def _cut(self, *, there: bool, back: bool) -> None:
        for cut, way in ((there, self._there), (back, self._back)):
            if cut:
                way.clear()

    def _reset(self) -> None:
        self._resets = True
        for writer in list(self._writers):
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if self._resets:
            writer.transport.abort()
            return
        try:
            upstream, towards = await asyncio.open_unix_connection(str(self._target))
        except OSError:
            writer.transport.abort()  # nobody listens there now
            return
        both = {writer, towards}
        self._writers |= both
        pumps = [
            asyncio.create_task(self._pump(reader, towards, self._there)),
            asyncio.create_task(self._pump(upstream, writer, self._back)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._writers -= both
            for end in both:
                end.transport.abort() if self._resets else end.close()
            for pump in pumps:
                pump.cancel()

    async def _late(self) -> None:
        if self._delay_s:
            await asyncio.wait([self._loop.create_future()], timeout=self._delay_s)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: asyncio.Event) -> None:
        """An end of file waits too: who is cut off does not hear that the other has gone."""
        with contextlib.suppress(OSError):
            while True:
                data = await reader.read(CHUNK_BYTES)
                await self._late()
                await way.wait()
                if not data:
                    return
                writer.write(data)
                await writer.drain()


def main(address: str, port: str, target: str) -> None:
    with Wire(Path(target), address=address, port=int(port)) as wire:
        wire._thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
