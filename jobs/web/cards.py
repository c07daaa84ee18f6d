"""Hosts and GPU cards as the overview draws them, from what the heartbeats said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from django.utils.translation import gettext as _

from jobs.states import DeviceState, HostState
from jobs.web.words import DEVICE_LABELS, gib, tone

if TYPE_CHECKING:
    from gpuworker.protocol import ProcessReading
    from jobs.capacity import DeviceView, HostView
    from jobs.rings import Hour

DENSE_FROM = 17
"""From this many devices on, cards are drawn small: 64 must fit into a look."""
FOLD_FROM = 257
"""From this many on, a host is a line of marks until somebody opens it: thousands of cards are for no one to look through."""
PROCESSES_SHOWN = 3
SPARK_WIDTH, SPARK_HEIGHT = 118, 18
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
class Spark:
    """The last hour as lines in a box of SPARK_WIDTH by SPARK_HEIGHT, parted where nobody looked, and in words."""

    lines: tuple[str, ...]
    label: str


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
    spark: Spark | None = None

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
    folded: bool = False
    """It has no cards then."""
    toggle: str = ""
    """What follows the page's address to open or to close it; empty where all hosts are open."""

    @property
    def silent(self) -> bool:
        return self.host.state in (HostState.UNREACHABLE, HostState.LOST)

    @property
    def simulated(self) -> bool:
        return bool(self.host.devices) and all(device.simulated for device in self.host.devices)

    @property
    def usable(self) -> int:
        return sum(device.allocatable for device in self.host.devices)

    @property
    def marks(self) -> list[str]:
        """How each of its devices looks from afar."""
        return [tone(device.state) for device in self.host.devices]

    @property
    def told(self) -> str:
        """The marks in words, as `In use 5 · Free 3`."""
        counts = Counter(device.state for device in self.host.devices)
        return " · ".join(f"{DEVICE_LABELS.get(state, state)} {count}" for state, count in counts.most_common())


def folding(hosts: Sequence[HostView]) -> bool:
    """Whether these are so many that only those which somebody opens have cards."""
    return sum(len(host.devices) for host in hosts) >= FOLD_FROM


def shown(hosts: Sequence[HostView], opened: Collection[str]) -> list[HostView]:
    """Those that are drawn with all that is known of them."""
    many = folding(hosts)
    return [host for host in hosts if not many or host.name in opened or not host.devices]


def blocks(
    hosts: Sequence[HostView],
    started: Mapping[int, datetime],
    hours: Mapping[str, Hour] | None = None,
    opened: Collection[str] = (),
) -> list[HostBlock]:
    """`started` says since when the jobs that hold devices run, by job number; `hours` what devices did, by UUID."""
    open_ones, many = {host.name for host in shown(hosts, opened)}, folding(hosts)
    made = []
    for host in hosts:
        models, is_open = {device.name for device in host.devices}, host.name in open_ones
        cards = tuple(replace(card(device, started), spark=spark((hours or {}).get(device.uuid))) for device in host.devices if is_open)
        toggle = address({*opened} ^ {host.name}) if many and host.devices else ""
        made.append(HostBlock(host, cards, models.pop() if len(models) == 1 else "", folded=not is_open, toggle=toggle))
    return made


def address(opened: Collection[str]) -> str:
    """What follows the path of the page on which these hosts are open; never empty, which would lead to the one that is shown."""
    return f"?{urlencode([('open', name) for name in sorted(opened)])}"


def card(device: DeviceView, started: Mapping[int, datetime] | None = None) -> Card:
    outside = sorted((p for p in device.processes if not p.ours), key=lambda p: -(p.memory_mib or 0))
    holders = tuple(OnIt(h.job, h.job_name, h.owner, (started or {}).get(h.job)) for h in device.holders[:HOLDERS_SHOWN])
    more = len(device.holders[HOLDERS_SHOWN:])
    return Card(device, _shares(device), tuple(outside[:PROCESSES_SHOWN]), len(outside[PROCESSES_SHOWN:]), holders, more)


def spark(hour: Hour | None) -> Spark | None:
    """None where there is too little of it to be a line."""
    percents = hour.utilization_pct if hour else []
    known = [value for value in percents if value is not None]
    if len(known) < 2:
        return None
    label = _("GPU use in the last hour: %(mean)d %% on average, %(most)d %% at most") % {
        "mean": round(sum(known) / len(known)),
        "most": round(max(known)),
    }
    return Spark(tuple(_lines(percents)), label)


def _lines(percents: Sequence[float | None]) -> Iterator[str]:
    step = SPARK_WIDTH / max(1, len(percents) - 1)
    points: list[str] = []
    for number, percent in enumerate([*percents, None]):
        if percent is not None:
            points.append(f"{number * step:.1f},{(SPARK_HEIGHT - 1) * (1 - percent / 100) + 0.5:.1f}")
        elif points:
            yield " ".join(points if len(points) > 1 else points * 2)
            points = []


def _shares(device: DeviceView) -> Shares:
    total, used = device.memory_total_mib, device.memory_used_mib
    if not total or used is None:
        return Shares(0, 0, 0, _("memory not known"))
    ours = sum(p.memory_mib or 0 for p in device.processes if p.ours)
    external = sum(p.memory_mib or 0 for p in device.processes if not p.ours)
    rest = max(0, used - ours - external)
    label = _("%(used)s of %(total)s GiB used") % {"used": gib(used), "total": gib(total)}
    return Shares(100 * ours / total, 100 * external / total, 100 * rest / total, label)
