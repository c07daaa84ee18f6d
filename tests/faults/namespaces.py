"""Two network namespaces with a cable between them: real packets, which get lost without anybody being told.

A cut cable is a wrong hardware address for the other end: packets leave, and nobody takes them. Needs no packet filter.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.product import CHECKOUT

HUB, AWAY = "10.231.97.1", "10.231.97.2"
"""Of the two ends. Several pairs may exist at once: each has namespaces of its own."""
NOBODY = "02:00:00:00:00:99"


@dataclass
class Cable:
    hub: str
    away: str
    relays: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def inside(self) -> list[str]:
        """What goes before a command line that is to run at the far end; files are everybody's."""
        return ["nsenter", f"--net=/run/netns/{self.away}", "--"]

    def serve(self, port: int, target: Path) -> None:
        """At the hub's address, pass a port on to a unix socket."""
        argv = ["nsenter", f"--net=/run/netns/{self.hub}", "--", sys.executable, "-m", "tests.faults.network", HUB, str(port), str(target)]
        self.relays.append(subprocess.Popen(argv, cwd=CHECKOUT, stdin=subprocess.DEVNULL))

    def cut(self, *, there: bool = True, back: bool = True) -> None:
        """`there`: from the far end to the hub."""
        for cut, name, peer in ((there, self.away, HUB), (back, self.hub, AWAY)):
            if cut:
                _ip("-n", name, "neigh", "replace", peer, "lladdr", NOBODY, "dev", "cable", "nud", "permanent")

    def mend(self) -> None:
        for name, peer in ((self.away, HUB), (self.hub, AWAY)):
            with contextlib.suppress(subprocess.CalledProcessError):  # there is none where it was not cut
                _ip("-n", name, "neigh", "del", peer, "dev", "cable")


def permitted() -> bool:
    """Whether this process may make namespaces."""
    name = f"at-{os.getpid()}-try"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


@contextlib.contextmanager
def cable() -> Iterator[Cable]:
    ident = secrets.token_hex(3)
    made = Cable(f"at-{ident}-hub", f"at-{ident}-away")
    try:
        for name in (made.hub, made.away):
            _ip("netns", "add", name)
        _ip("-n", made.hub, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", made.away)
        for name, address in ((made.hub, HUB), (made.away, AWAY)):
            _ip("-n", name, "addr", "add", f"{address}/30", "dev", "cable")
            for device in ("lo", "cable"):
                _ip("-n", name, "link", "set", device, "up")
        yield made
    finally:
        for relay in made.relays:
            relay.kill()
            relay.wait()
        for name in (made.hub, made.away):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=10)
