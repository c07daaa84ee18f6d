"""A model of claim, lock, launch, death, cancel, late offers and reboots: what the product promises, in a few small steps.

Pure: no process, no clock, no Redis. Each step of `World` is one that the real thing can be killed after. What protects it is
named in `Guards`; a world without one of them is the naive design, and tests/faults/test_model.py shows that each then breaks.
The names of the steps are those of docs/how-it-works.md, "Claim and start".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

HOSTS, DEVICES, JOBS = (0, 1), (0, 1), (0, 1)
OFFER_LIVES = 3
MARGIN = 2
"""Ticks; beyond an offer's end before the database takes an attempt back that its host does not show."""

Step = tuple[str, Callable[[], None]]
Stage = Literal["opened", "claimed", "looked", "made"]


class Violation(Exception):
    """A promise is broken."""


@dataclass(frozen=True)
class Guards:
    """What the product does and a naive one does not."""

    release_by_evidence: bool = True
    """A silent host's attempts are not over because time has passed."""
    tree_is_evidence: bool = True
    """A dead shim alone does not end an attempt: its processes are waited for."""
    host_lock: bool = True
    go_handshake: bool = True
    """The command waits until its start is on record."""
    start_token: bool = True
    """The attempt's directory is made once; a second offer finds it."""
    offers_expire: bool = True
    stop_leaves_a_word: bool = True
    """A stop that comes before its offer closes the door for it."""


@dataclass(frozen=True)
class Offer:
    job: int
    fence: int
    host: int
    device: int
    expires: int


@dataclass
class Directory:
    """An attempt directory, its shim and its command."""

    offer: Offer
    shim: Literal["none", "forked", "locked", "waiting", "recorded", "gone", "dead"] = "none"
    command: Literal["none", "waiting", "running", "over"] = "none"
    keeps_lock: bool = True
    """The command has not closed the descriptor that it inherited."""
    refused: bool = False
    started: bool = False
    exited: bool = False
    done: bool = False
    stop: bool = False
    reported: bool = False

    @property
    def lives(self) -> bool:
        return self.command == "running"

    @property
    def locks(self) -> bool:
        by_shim = self.shim in ("locked", "waiting", "recorded", "gone") and not self.done
        return by_shim or (self.lives and self.keeps_lock)


@dataclass
class Host:
    on: bool = True
    agent: bool = True
    stages: dict[int, tuple[Stage, Offer]] = field(default_factory=dict)
    """Offers in an agent's hands, by fence; they die with it."""
    stopped: set[int] = field(default_factory=set)
    directories: dict[int, Directory] = field(default_factory=dict)
    strangers: set[int] = field(default_factory=set)
    """Devices that another installation's training has locked."""


@dataclass
class Row:
    """A job in the database, and its open attempt."""

    state: Literal["queued", "starting", "running", "stopping", "over"] = "queued"
    open: Offer | None = None
    started: bool = False


class World:
    def __init__(self, guards: Guards = Guards()) -> None:
        self.guards = guards
        self.now = self.fence = 0
        self.rows = {job: Row() for job in JOBS}
        self.hosts = {host: Host() for host in HOSTS}
        self.messages: list[Offer] = []
        """All that was ever offered and not flushed: a message may come late, twice, in any order or never."""
        self.stops: set[Offer] = set()
        self.claims: dict[tuple[int, int], int] = {}
        self.reports: list[tuple[str, Offer]] = []

    # --- what can happen next -------------------------------------------------------------------------------------------

    def progress(self) -> Iterator[Step]:
        """What the product does by itself; each step may come at any time, or never."""
        for job, row in self.rows.items():
            if row.state == "queued":
                yield from self._dispatches(job)
        for offer in dict.fromkeys(self.messages):
            if self.hosts[offer.host].agent:
                yield f"host {offer.host} gets {offer}", partial(self.open, offer)
        for offer in self.stops:
            if self.hosts[offer.host].agent:
                yield f"host {offer.host} hears a stop of {offer.fence}", partial(self.hear_stop, offer)
        for kind, offer in self.reports:
            yield f"database hears {kind} of {offer.fence}", partial(self.ingest, kind, offer)
        for number, host in self.hosts.items():
            yield from self._of_host(number, host)
        for job, row in self.rows.items():
            if row.open:
                yield f"reconcile job {job}", partial(self.reconcile, row)

    def _dispatches(self, job: int) -> Iterator[Step]:
        taken = {(row.open.host, row.open.device) for row in self.rows.values() if row.open}
        for number, host in self.hosts.items():
            for device in DEVICES:
                if host.agent and (number, device) not in taken and device not in host.strangers:
                    yield f"dispatch job {job} to host {number}, device {device}", partial(self.dispatch, job, number, device)

    def _of_host(self, number: int, host: Host) -> Iterator[Step]:
        for fence in host.stages:
            yield f"host {number} goes on with {fence}", partial(self.go_on, number, fence)
        for fence, directory in host.directories.items():
            if directory.shim not in ("none", "dead") and not directory.done:
                yield f"shim {fence} goes on", partial(self.shim, directory)
            if host.agent and not directory.reported and fence not in host.stages:
                yield f"agent looks after {fence}", partial(self.watch, number, directory)
        if host.agent:
            yield f"host {number} renews its claims", partial(self.renew, number)

    def endings(self) -> Iterator[Step]:
        """Commands that end by themselves."""
        for host in self.hosts.values():
            for fence, directory in host.directories.items():
                if directory.lives:
                    yield f"command {fence} ends", partial(self.end, directory)

    def faults(self) -> Iterator[Step]:
        """What is done to it."""
        yield "time passes", self.tick
        yield "Redis is emptied", self.flush
        for job, row in self.rows.items():
            if row.state != "over":
                yield f"job {job} is cancelled", partial(self.cancel, row)
        for number, host in self.hosts.items():
            if not host.on:
                yield f"host {number} boots", partial(self.boot, host)
                yield f"host {number} is declared lost", partial(self.declare_lost, number)
                continue
            yield f"host {number} loses its power", partial(self.power_off, host)
            if host.agent:
                yield f"agent {number} is killed", partial(self.kill_agent, host)
            else:
                yield f"agent {number} starts", partial(self.start_agent, host)
                yield f"host {number} has been silent for long", partial(self.silent, number)
            for device in DEVICES:
                yield f"a stranger comes to host {number}, device {device}", partial(self.stranger, host, device)
            for fence, directory in host.directories.items():
                if directory.shim not in ("none", "dead"):
                    yield f"shim {fence} is killed", partial(self.kill_shim, directory)
                if directory.lives and directory.keeps_lock:
                    yield f"command {fence} closes its descriptors", partial(self.close_descriptors, directory)

    # --- control plane --------------------------------------------------------------------------------------------------

    def dispatch(self, job: int, host: int, device: int) -> None:
        self.fence += 1
        offer = Offer(job, self.fence, host, device, self.now + OFFER_LIVES)
        self.rows[job] = Row("starting", offer)
        self.messages.append(offer)

    def cancel(self, row: Row) -> None:
        if row.open is None:
            row.state = "over"
            return
        row.state = "stopping"
        self.stops.add(row.open)

    def ingest(self, kind: str, offer: Offer) -> None:
        """The fence makes old and repeated reports silent."""
        row = self.rows[offer.job]
        if row.open is None or row.open.fence != offer.fence:
            return
        if kind == "started":
            row.started = True
            row.state = "running" if row.state == "starting" else row.state
        elif kind == "completed" or row.state == "stopping":
            self.rows[offer.job] = Row("over")
        elif kind != "refused" or not row.started:
            self.rows[offer.job] = Row("queued")

    def reconcile(self, row: Row) -> None:
        offer = row.open
        if offer is None or not self.hosts[offer.host].agent or self._listed(offer):
            return
        if row.state == "stopping":
            self.stops.add(offer)
        if row.started:
            self.ingest("exit_lost", offer)
        elif self.now >= offer.expires + MARGIN:
            self.ingest("refused", offer)
        elif row.state == "starting" and self.now < offer.expires:
            self.messages.append(offer)

    def _listed(self, offer: Offer) -> bool:
        """Whether its host's heartbeat shows it, or a report of it waits."""
        host = self.hosts[offer.host]
        directory = host.directories.get(offer.fence)
        waiting = any(reported.fence == offer.fence for _, reported in self.reports)
        return waiting or offer.fence in host.stages or (directory is not None and not directory.reported)

    def declare_lost(self, number: int) -> None:
        """By an operator, of a host that is dead; what was offered to it can start nothing any more."""
        for row in self.rows.values():
            if row.open and row.open.host == number:
                if self.guards.offers_expire and not row.started and self.now < row.open.expires:
                    continue
                self.ingest("host_lost", row.open)

    def silent(self, number: int) -> None:
        """Nothing follows from silence."""
        if self.guards.release_by_evidence:
            return
        for row in self.rows.values():
            if row.open and row.open.host == number:
                self.claims.pop((number, row.open.device), None)
                self.ingest("host_lost", row.open)

    def flush(self) -> None:
        self.messages.clear()
        self.claims.clear()
        self.reports.clear()
        for host in self.hosts.values():
            for directory in host.directories.values():
                directory.reported = False  # No acknowledgement, so it is said again.

    # --- agent ----------------------------------------------------------------------------------------------------------

    def open(self, offer: Offer) -> None:
        host = self.hosts[offer.host]
        if (self.guards.start_token and offer.fence in host.directories) or offer.fence in host.stages:
            return
        if self.guards.offers_expire and offer.expires <= self.now:
            return
        host.stages[offer.fence] = ("opened", offer)

    def go_on(self, number: int, fence: int) -> None:
        host = self.hosts[number]
        stage, offer = host.stages[fence]
        place = (number, offer.device)
        if stage == "opened":
            if self.claims.get(place, fence) != fence:
                self._give_up(number, offer)
            else:
                self.claims[place] = fence
                host.stages[fence] = ("claimed", offer)
        elif stage == "claimed":
            if offer.device in host.strangers or self._used(host, offer.device):
                self._give_up(number, offer)
            else:
                host.stages[fence] = ("looked", offer)
        elif stage == "looked":
            self._make(number, offer)
        else:
            directory = host.directories[fence]
            directory.shim = "forked"
            del host.stages[fence]

    def _make(self, number: int, offer: Offer) -> None:
        host = self.hosts[number]
        others = [d for d in host.directories.values() if d.offer.job == offer.job and d.offer.fence != offer.fence]
        if any(not d.reported and not d.refused for d in others) or offer.fence in host.stopped:
            self._give_up(number, offer)
        elif self.guards.start_token and offer.fence in host.directories:
            del host.stages[offer.fence]
        else:
            host.directories[offer.fence] = Directory(offer)
            host.stages[offer.fence] = ("made", offer)

    def _give_up(self, number: int, offer: Offer) -> None:
        host = self.hosts[number]
        host.stages.pop(offer.fence, None)
        directory = host.directories.setdefault(offer.fence, Directory(offer))
        directory.refused = True
        self._over(number, directory, "refused")

    def _used(self, host: Host, device: int) -> bool:
        return any(d.lives and d.offer.device == device for d in host.directories.values())

    def _over(self, number: int, directory: Directory, kind: str) -> None:
        offer = directory.offer
        if self.claims.get((number, offer.device)) == offer.fence:
            del self.claims[number, offer.device]
        directory.reported = True
        self.reports.append((kind, offer))

    def watch(self, number: int, directory: Directory) -> None:
        """What recovery and supervision do with a directory, by its records."""
        if directory.refused and not directory.started:
            self._over(number, directory, "refused")
        elif directory.done:
            self._over(number, directory, "completed")
        elif directory.shim == "none" or (directory.shim == "dead" and not directory.started):
            directory.refused = True
            self._over(number, directory, "refused")
        elif directory.shim == "dead":
            if not directory.lives or not self.guards.tree_is_evidence:
                self._over(number, directory, "completed" if directory.exited else "exit_lost")
            elif directory.stop:
                directory.command = "over"
        elif directory.started:
            self.reports.append(("started", directory.offer))

    def renew(self, number: int) -> None:
        """Say again what is held, and drop what nobody knows of: an agent died between its claim and its directory."""
        host = self.hosts[number]
        known = {*host.stages, *(fence for fence, directory in host.directories.items() if not directory.reported)}
        self.claims = {place: fence for place, fence in self.claims.items() if place[0] != number or fence in known}
        for fence, directory in self.hosts[number].directories.items():
            if not directory.reported:
                self.claims.setdefault((number, directory.offer.device), fence)

    def hear_stop(self, offer: Offer) -> None:
        host = self.hosts[offer.host]
        self.stops.discard(offer)
        if offer.fence in host.directories:
            directory = host.directories[offer.fence]
            directory.stop = True
            if directory.lives and directory.shim not in ("none", "dead"):
                self.end(directory)
        elif offer.fence in host.stages:
            host.stopped.add(offer.fence)
        elif self.guards.stop_leaves_a_word:
            self._give_up(offer.host, offer)
        else:
            self.reports.append(("refused", offer))

    # --- shim and command -----------------------------------------------------------------------------------------------

    def shim(self, directory: Directory) -> None:
        """Its next step. Before "go" it looks once more whether it has been stopped."""
        if directory.shim == "forked":
            host = self.hosts[directory.offer.host]
            if directory.refused or (self.guards.host_lock and self._locked(host, directory.offer.device)):
                directory.refused = True
                directory.shim = "dead"
            else:
                directory.shim = "locked"
        elif directory.shim == "locked":
            directory.command = "waiting" if self.guards.go_handshake else "running"
            directory.shim = "waiting"
        elif directory.shim == "waiting":
            directory.started = True
            directory.shim = "recorded"
        elif directory.shim == "recorded":
            directory.command = "over" if directory.stop else "running" if directory.command == "waiting" else directory.command
            directory.shim = "gone"
        elif directory.command != "running":
            directory.exited = directory.done = True

    def _locked(self, host: Host, device: int) -> bool:
        return device in host.strangers or any(d.locks and d.offer.device == device for d in host.directories.values())

    def end(self, directory: Directory) -> None:
        directory.command = "over"
        directory.exited = directory.shim == "gone"

    def kill_shim(self, directory: Directory) -> None:
        directory.shim = "dead"
        if directory.command == "waiting":
            directory.command = "over"  # Nobody is there any more to say "go".

    def close_descriptors(self, directory: Directory) -> None:
        directory.keeps_lock = False

    # --- the machine ----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        self.now += 1

    def kill_agent(self, host: Host) -> None:
        host.agent = False
        host.stages.clear()
        host.stopped.clear()

    def start_agent(self, host: Host) -> None:
        host.agent = True

    def power_off(self, host: Host) -> None:
        self.kill_agent(host)
        host.on = False
        host.strangers.clear()
        for directory in host.directories.values():
            directory.shim = "dead" if directory.shim != "none" else "none"
            directory.command = "over" if directory.command != "none" else "none"

    def boot(self, host: Host) -> None:
        host.on = host.agent = True

    def stranger(self, host: Host, device: int) -> None:
        """Another installation's training: it respects locks and uses; it comes and goes."""
        if device in host.strangers:
            host.strangers.remove(device)
        elif not self._locked(host, device) and not self._used(host, device):
            host.strangers.add(device)

    # --- promises -------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        living = [d.offer for host in self.hosts.values() for d in host.directories.values() if d.lives]
        for number, host in self.hosts.items():
            for device in DEVICES:
                users = [o.fence for o in living if (o.host, o.device) == (number, device)]
                if len(users) + (device in host.strangers) > 1:
                    raise Violation(f"device {device} of host {number} is used by {users} and {'a stranger' * (device in host.strangers)}")
        for job, row in self.rows.items():
            if len(here := [o.fence for o in living if o.job == job]) > 1:
                raise Violation(f"job {job} runs twice at once: {here}")
            if row.open is None and row.state not in ("queued", "over"):
                raise Violation(f"job {job} is lost: {row}")
            if row.state == "over" and here:
                raise Violation(f"job {job} is over, and {here} runs on")

    def settle(self, steps: int = 600) -> None:
        """Everything comes back and goes on, nothing waits for ever: every job that was accepted must come to its end."""
        for host in self.hosts.values():
            host.on = host.agent = True
            host.strangers.clear()
        done: dict[str, int] = {}
        for number in range(steps):
            if all(row.state == "over" for row in self.rows.values()):
                return
            name, step = min([*self.progress(), *self.endings()], key=lambda step: done.get(step[0], -1))
            done[name] = number
            step()
            self.check()
            if number % 12 == 0:
                self.tick()
        raise Violation(f"not every job came to its end: {self.rows}")
