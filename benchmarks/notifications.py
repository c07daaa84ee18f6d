"""What a mail service that is down costs the next launch: `python -m benchmarks --notifications`. About two minutes.

One product with an EMinder that is up, refuses connections, or takes them and never answers, by turns in the same run. Each job
names somebody in `notify`, so its end puts a letter into the outbox, and the thread that sends is busy, refused, or waiting for
an answer while the next job is submitted. Measured from before POST to the command's first instruction.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.client import Client
from benchmarks.measure import percentile
from benchmarks.payload import Broken, Stamps, build
from tests.e2e.product import Product, free_port

WAYS = ("up", "refused", "hanging")
JOBS = 8
"""Of each way in each round."""
TAKES_EFFECT_S = 15.0


class Service:
    """An EMinder on one port whose way can be changed."""

    def __init__(self) -> None:
        self.port = free_port()
        self.asked = 0
        """Requests that were answered, or connections that hang."""
        self._server: ThreadingHTTPServer | None = None
        self._silent: socket.socket | None = None
        self._hanging: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def be(self, way: str) -> None:
        self.close()
        self.asked = 0
        if way == "up":
            self._server = _Server(("127.0.0.1", self.port), _handler(self))
            threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        elif way == "hanging":
            self._silent = socket.create_server(("127.0.0.1", self.port))
            threading.Thread(target=self._take, args=(self._silent,), daemon=True).start()

    def _take(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._hanging.append(listener.accept()[0])
                self.asked += 1

    def close(self) -> None:
        """Whoever waits for an answer is told that there will be none."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
        if self._silent:
            self._silent.shutdown(socket.SHUT_RDWR)
            self._silent.close()
        for each in self._hanging:
            each.close()
        self._server, self._silent, self._hanging = None, None, []


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


def _handler(service: Service) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say({"quick_message": {"display_name": "", "description": "", "fields": []}})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._say({"status": "success", "message": "queued"})

        def _say(self, told: Any) -> None:
            service.asked += 1
            body = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def _service() -> Iterator[Service]:
    service = Service()
    try:
        yield service
    finally:
        service.close()


def run(folder: Path, scale: float) -> dict[str, Any]:
    """{way: {"start_ms": [[of each round]], "told": letters of its jobs by state}}"""
    stamps = Stamps(build(folder))
    (folder / "one").mkdir()
    rounds = max(2, round(12 * scale))
    found: dict[str, Any] = {way: {"start_ms": [], "jobs": []} for way in WAYS}
    with _service() as service, Product(folder / "one", devices="sim:1x24GiB", environ={"AUTOTRAINER_EMINDER_URL": service.url}) as product:
        client = Client(product)
        for number in range(-1, rounds):
            print(f"measuring round {max(0, number + 1)} of {rounds} …", file=sys.stderr, flush=True)
            for way in random.sample(WAYS, len(WAYS)):
                took, jobs = _turn(service, way, client, stamps, f"{way}{number}")
                if number >= 0:
                    found[way]["start_ms"].append(took)
                    found[way]["jobs"] += jobs
        for way in WAYS:
            found[way]["told"] = _told(product, found[way].pop("jobs"))
    return found


def _turn(service: Service, way: str, client: Client, stamps: Stamps, name: str) -> tuple[list[float], list[int]]:
    """How long each of its jobs took to start; and their numbers."""
    service.be(way)
    took, jobs = [], []

    def submit(argv: list[str]) -> None:
        client.submit(argv, notify=["ada@example.org"])

    for number in range(-1, JOBS):
        took.append(measure.start_ms(stamps, f"{name}-{number}", submit))
        client.settled()
        jobs.append(client.last_id)
        if number < 0:
            _takes_effect(service, way)
        time.sleep(random.uniform(0.05, 0.25))  # not in step with whatever polls
    return took[1:], jobs[1:]


def _takes_effect(service: Service, way: str) -> None:
    """The letter of the first job has been sent, or hangs; where it is refused nothing shows that, and the thread looks each second."""
    if way == "refused":
        time.sleep(1.2)
        return
    until = time.monotonic() + TAKES_EFFECT_S
    while not service.asked:
        if time.monotonic() > until:
            raise Broken(f"no letter came to the service that was {way}")
        time.sleep(0.01)


def _told(product: Product, jobs: list[int]) -> dict[str, int]:
    """Letters by state; each job must have one."""
    states: dict[str, int] = {}
    for job in jobs:
        (letter,) = product.api("GET", f"jobs/{job}/notifications/")["results"]
        states[letter["state"]] = states.get(letter["state"], 0) + 1
    return states


def table(result: dict[str, Any]) -> str:
    lines = [f"{'EMinder is':<12}{'p50':>10}{'p95':>10}{'ratio':>8}{'of rounds (10 to 90 %)':>26}   letters of its jobs at the end"]
    all_of = {way: [one for took in result[way]["start_ms"] for one in took] for way in WAYS}
    up = percentile(all_of["up"], 50)
    for way, found in result.items():
        p50, p95 = (percentile(all_of[way], percent) for percent in (50, 95))
        pairs = zip(found["start_ms"], result["up"]["start_ms"], strict=True)
        ratios = [percentile(down, 50) / percentile(beside, 50) for down, beside in pairs]
        spread = f"{percentile(ratios, 10):.2f} to {percentile(ratios, 90):.2f}"
        told = ", ".join(f"{state} {count}" for state, count in sorted(found["told"].items()))
        lines.append(f"{way:<12}{p50:>7.1f} ms{p95:>7.1f} ms{p50 / up:>8.2f}{spread:>26}   {told}")
    return "\n".join(lines)
