"""Network namespaces with cables between them: real packets, which get lost without anybody being told.

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
    addresses: tuple[str, str] = (HUB, AWAY)
    device: str = "cable"
    """At the hub's end."""
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
        for cut, (name, peer, device) in zip((there, back), self._ends(), strict=True):
            if cut:
                _ip("-n", name, "neigh", "replace", peer, "lladdr", NOBODY, "dev", device, "nud", "permanent")

    def mend(self) -> None:
        for name, peer, device in self._ends():
            with contextlib.suppress(subprocess.CalledProcessError):  # there is none where it was not cut
                _ip("-n", name, "neigh", "del", peer, "dev", device)

    def _ends(self) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
        """Namespace, address of the other end, device: of the far end, and of the hub's."""
        return (self.away, self.addresses[0], "cable"), (self.hub, self.addresses[1], self.device)

    def lay(self) -> None:
        """Into namespaces that are there."""
        _ip("-n", self.hub, "link", "add", self.device, "type", "veth", "peer", "name", "cable", "netns", self.away)
        for name, address, device in ((self.hub, self.addresses[0], self.device), (self.away, self.addresses[1], "cable")):
            _ip("-n", name, "addr", "add", f"{address}/30", "dev", device)
            for each in ("lo", device):
                _ip("-n", name, "link", "set", each, "up")
        _ip("-n", self.away, "route", "add", "default", "via", self.addresses[0])


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
    with star(1) as (made,):
        yield made


@contextlib.contextmanager
def star(ends: int) -> Iterator[list[Cable]]:
    """So many machines, each with a cable of its own to one hub."""
    ident = secrets.token_hex(3)
    hub, first = f"at-{ident}-hub", HUB.rpartition(".")[0].rpartition(".")
    nets = [f"{first[0]}.{int(first[2]) + number}" for number in range(ends)]
    cables = [Cable(hub, f"at-{ident}-{n}", (f"{net}.1", f"{net}.2"), f"cable{n}") for n, net in enumerate(nets)]
    names = [hub, *(each.away for each in cables)]
    try:
        for name in names:
            _ip("netns", "add", name)
        for each in cables:
            each.lay()
        yield cables
    finally:
        for relay in [relay for each in cables for relay in each.relays]:
            relay.kill()
            relay.wait()
        for name in names:
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=10)
