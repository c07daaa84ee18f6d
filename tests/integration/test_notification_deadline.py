"""A server that is never quite silent holds nobody up for longer than the deadline of one letter."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from jobs.notifications import deadline, eminder, smtp
from jobs.notifications.letter import Letter, NotSent

LETTER = Letter("subject", "text", "<p>text</p>", "text")
STILL = threading.Event()
DRIPS = 200
"""For 20 s: where nothing ends it, the test's own patience does."""


def drip(client: socket.socket, what: bytes) -> None:
    for at in range(DRIPS):
        client.sendall(what[at % len(what) : at % len(what) + 1])
        STILL.wait(0.1)


def in_the_greeting(client: socket.socket) -> None:
    drip(client, b"2")


def after_the_data(client: socket.socket) -> None:
    lines = client.makefile("rb")
    client.sendall(b"220 here\r\n")
    for line in lines:
        client.sendall(b"354 go on\r\n" if line == b"data\r\n" else b"250 fine\r\n")
        if line == b"data\r\n":
            next(line for line in lines if line == b".\r\n")
            drip(client, b"2")


def in_the_head(client: socket.socket) -> None:
    client.recv(65536)
    drip(client, b"H")


def in_the_body(client: socket.socket) -> None:
    client.recv(65536)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    drip(client, b" ")


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[socket.socket], None]], int]]:
    """Start a server that treats each connection so; its port."""
    with contextlib.ExitStack() as stack:

        def started(treat: Callable[[socket.socket], None]) -> int:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def run() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        client, _ = listener.accept()
                        with client, contextlib.suppress(OSError, StopIteration):
                            treat(client)

            threading.Thread(target=run, daemon=True).start()
            return int(listener.getsockname()[1])

        yield started


@pytest.mark.parametrize("treat", [in_the_greeting, after_the_data, in_the_head, in_the_body])
def test_letter_is_given_up_when_its_time_is_over_however_the_server_drips(
    serve: Any, settings: Any, monkeypatch: pytest.MonkeyPatch, treat: Callable[[socket.socket], None]
) -> None:
    monkeypatch.setattr(deadline, "LONGEST_S", 0.6)
    port = serve(treat)
    channel = smtp if treat in (in_the_greeting, after_the_data) else eminder
    settings.AUTOTRAINER = replace(settings.AUTOTRAINER, email_url=f"smtp://127.0.0.1:{port}/", eminder_url=f"http://127.0.0.1:{port}")
    began = time.monotonic()
    with pytest.raises(NotSent, match=r"took longer than 0\.6 s in all") as caught:
        channel.send(LETTER, "x@example.org", message_id="<a@b>", thread_id="<c@b>")
    assert time.monotonic() - began < 10
    assert not caught.value.for_good


def test_letter_that_fails_in_time_says_why_and_nothing_of_time(settings: Any) -> None:
    settings.AUTOTRAINER = replace(settings.AUTOTRAINER, email_url="smtp://127.0.0.1:1/")
    with pytest.raises(NotSent, match="cannot be reached") as caught:
        smtp.send(LETTER, "x@example.org", message_id="<a@b>", thread_id="<c@b>")
    assert "in all" not in str(caught.value)
