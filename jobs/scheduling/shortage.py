"""What an attempt had that ran out of GPU memory, and what its job gets next: never blindly the same again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.scheduling import words
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
        each = " each" if self.devices > 1 else ""
        had = f"{self.place} had {words.size(self.had_mib)}{each} for it" if self.had_mib is not None else ""
        held = f"it held {words.size(self.peak_mib)} at its peak" if self.peak_mib is not None else ""
        told = "; ".join(filter(None, (held, had)))
        return f"{told[0].upper()}{told[1:]}." if told else ""

    def change(self, attempt: int) -> str:
        """What is changed for the next attempt and why, as a sentence."""
        gpu = "a GPU" if self.devices == 1 else "GPUs"
        free = f" with at least {words.size(self.floor_mib)} free" if self.floor_mib is not None and self.elsewhere else ""
        if self.shared:
            return f"Attempt {attempt} gets {gpu}{free} that it does not share: others may have used the memory."
        if free:
            return f"Attempt {attempt} waits for {gpu}{free}, as {self.elsewhere} has: more than it had."
        if self.floor_mib is None:
            return f"How much memory it had is not known, so that attempt {attempt} may meet the same."
        return f"No GPU that it may use has more, so that attempt {attempt} meets the same."

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
        place=f"GPU {', '.join(str(d.index) for _, d in had)} of {had[0][0].name}",
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
