"""What an attempt had that ran out of GPU memory, and what its job gets next: never blindly the same again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.scheduling import phrases, words
from jobs.scheduling.inventory import HostView
from jobs.scheduling.request import Request

MORE = 16
"""One part in this many more is more: two cards of one kind may differ by a few MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    place: str
    """`GPU 0 of gpu-a`."""
    devices: int
    had_mib: int | None
    """The least that one of its devices had for it; None: not known."""
    peak_mib: int | None
    """The most that its processes were seen to hold on one device."""
    shared: bool
    floor_mib: int | None
    """What each device of the next attempt should have free, where any has; None: not known."""
    elsewhere: str
    """A host where enough devices have that; empty: there is none."""

    @property
    def numbers(self) -> str:
        """What was known of the memory, as a sentence; empty where nothing was."""
        told = {"held": words.size(self.peak_mib or 0), "place": self.place, "size": words.size(self.had_mib or 0)}
        if self.had_mib is None:
            return "" if self.peak_mib is None else phrases.HELD_MEMORY % told
        each = self.devices > 1
        if self.peak_mib is None:
            return (phrases.HAD_MEMORY_EACH if each else phrases.HAD_MEMORY) % told
        return (phrases.HELD_AND_HAD_EACH if each else phrases.HELD_AND_HAD) % told

    def change(self, attempt: int) -> str:
        """What is changed for the next attempt and why, as a sentence."""
        told = {"attempt": attempt, "gpu": self._gpu(), "host": self.elsewhere}
        if self.shared:
            return phrases.GETS_ALONE % told
        if self.floor_mib is None:
            return phrases.HAD_UNKNOWN % told
        return (phrases.WAITS_FOR_MORE if self.elsewhere else phrases.NONE_HAS_MORE) % told

    def _gpu(self) -> str:
        if self.floor_mib is not None and self.elsewhere:
            return (phrases.A_GPU_WITH if self.devices == 1 else phrases.GPUS_WITH) % {"size": words.size(self.floor_mib)}
        return phrases.A_GPU if self.devices == 1 else phrases.GPUS

    def columns(self, before_mib: int | None) -> dict[str, Any]:
        """What changes of the job's row; `before_mib` is what it was to have already."""
        alone = {"shared": False} if self.shared else {}
        return alone if self.floor_mib is None else alone | {"oom_floor_mib": max(before_mib or 0, self.floor_mib)}

    @property
    def data(self) -> dict[str, Any]:
        return {"had_memory_mib": self.had_mib, "peak_memory_mib": self.peak_mib, "wanted_memory_mib": self.floor_mib}


def shortage(request: Request, uuids: Collection[str], *, peak_mib: int | None, hosts: Sequence[HostView]) -> Shortage | None:
    """Of an attempt that had these devices for this request; None where none of them is known."""
    had = [(host, d) for host in hosts for d in host.devices if d.uuid in uuids]
    if not had:
        return None
    had_mib = _had(request, [d.free_memory_mib if d.free_memory_mib is not None else d.memory_total_mib for _, d in had], peak_mib)
    floor_mib = None if had_mib is None else had_mib + had_mib // MORE + 1
    alone = replace(request, shared=False, floor_mib=floor_mib or 0)
    return Shortage(
        place=phrases.PLACE % {"index": ", ".join(str(d.index) for _, d in had), "host": had[0][0].name},
        devices=len(had),
        had_mib=had_mib,
        peak_mib=peak_mib,
        shared=request.shared,
        floor_mib=floor_mib,
        elsewhere=next((host.name for host in hosts if alone.floor_mib and alone.finds_floor(host)), ""),
    )


def _had(request: Request, free_mib: Collection[int | None], peak_mib: int | None) -> int | None:
    """A sharer had what it asked for, and what it was seen to hold; another one all that was free."""
    if request.shared:
        return max(request.gpu_memory_mib, peak_mib or 0)
    known = [mib for mib in free_mib if mib is not None]
    return min(known, default=None) if len(known) == len(free_mib) else None
