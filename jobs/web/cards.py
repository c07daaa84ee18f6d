"""A GPU card as the overview draws it, from what the heartbeat said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from django.utils.translation import gettext as _

from jobs.states import DeviceState, HostState
from jobs.web.words import gib

if TYPE_CHECKING:
    from gpuworker.protocol import ProcessReading
    from jobs.capacity import DeviceView, HostView

DENSE_FROM = 17
"""From this many devices on, cards are drawn small: 64 must fit into a look."""
PROCESSES_SHOWN = 3
HOLDERS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Shares:
    """Percent of a device's memory: held by our trainings, by others, and what no process accounts for."""

    ours: float
    external: float
    rest: float
    label: str


@dataclass(frozen=True, slots=True)
class OnIt:
    """A job that has the device."""

    job: int
    job_name: str
    owner: str
    started_at: datetime | None


@dataclass(frozen=True, slots=True)
class Card:
    device: DeviceView
    shares: Shares
    outside: tuple[ProcessReading, ...]
    """The largest processes that are not ours."""
    more: int
    """How many more there are of them."""
    holders: tuple[OnIt, ...]
    more_holders: int
    """How many more share it than are shown."""

    @property
    def explains(self) -> bool:
        """The card needs its reason in words: nothing else on it says why it is not free."""
        return (
            self.device.state in (DeviceState.DRAINED, DeviceState.UNKNOWN)
            or bool(self.device.kept_for)
            or (self.device.state == DeviceState.BUSY_EXTERNAL and not self.outside)
        )


@dataclass(frozen=True, slots=True)
class HostBlock:
    host: HostView
    cards: tuple[Card, ...]
    model: str
    """The one model that all of its devices are, told once in the heading; empty where they differ."""

    @property
    def silent(self) -> bool:
        return self.host.state in (HostState.UNREACHABLE, HostState.LOST)

    @property
    def simulated(self) -> bool:
        return bool(self.cards) and all(card.device.simulated for card in self.cards)

    @property
    def usable(self) -> int:
        return sum(card.device.allocatable for card in self.cards)


def blocks(hosts: list[HostView], started: Mapping[int, datetime]) -> list[HostBlock]:
    """`started` says since when the jobs that hold devices run, by job number."""
    return [_block(host, started) for host in hosts]


def _block(host: HostView, started: Mapping[int, datetime]) -> HostBlock:
    models = {device.name for device in host.devices}
    cards = tuple(card(device, started) for device in host.devices)
    return HostBlock(host, cards, models.pop() if len(models) == 1 else "")


def card(device: DeviceView, started: Mapping[int, datetime] | None = None) -> Card:
    outside = sorted((p for p in device.processes if not p.ours), key=lambda p: -(p.memory_mib or 0))
    holders = tuple(OnIt(h.job, h.job_name, h.owner, (started or {}).get(h.job)) for h in device.holders[:HOLDERS_SHOWN])
    more = len(device.holders[HOLDERS_SHOWN:])
    return Card(device, _shares(device), tuple(outside[:PROCESSES_SHOWN]), len(outside[PROCESSES_SHOWN:]), holders, more)


def _shares(device: DeviceView) -> Shares:
    total, used = device.memory_total_mib, device.memory_used_mib
    if not total or used is None:
        return Shares(0, 0, 0, _("memory not known"))
    ours = sum(p.memory_mib or 0 for p in device.processes if p.ours)
    external = sum(p.memory_mib or 0 for p in device.processes if not p.ours)
    rest = max(0, used - ours - external)
    label = _("%(used)s of %(total)s GiB used") % {"used": gib(used), "total": gib(total)}
    return Shares(100 * ours / total, 100 * external / total, 100 * rest / total, label)
