"""How near the cards of a machine are to each other, as NVML tells. It never changes while a card is there, so it is asked once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

from gpuworker.devices.base import Link
from gpuworker.protocol import DeviceReading

Near = Callable[[Any, Any], Link | None]


class Links:
    """Remembered by UUID, so that a driver that is opened anew is not asked again."""

    def __init__(self, near: Near) -> None:
        self._near = near
        self._known: dict[frozenset[str], Link | None] = {}

    def added(self, devices: Mapping[str, DeviceReading], handles: Mapping[str, Any]) -> dict[str, DeviceReading]:
        """The devices, each with its links to the others. `handles`: of the whole cards that answer."""
        links: dict[str, dict[str, int]] = {uuid: {} for uuid in devices}
        for one, two in combinations(sorted(handles.keys() & devices.keys()), 2):
            pair = frozenset((one, two))
            if pair not in self._known:
                self._known[pair] = self._near(handles[one], handles[two])
            if link := self._known[pair]:
                links[one][two] = links[two][one] = int(link)
        return {uuid: replace(device, links=links[uuid]) if links[uuid] else device for uuid, device in devices.items()}
