"""What a machine lacks as a GPU host, with the mend: told by the agent in its log when it starts, and by `manage.py doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gpuworker import disks

GIB = 1 << 30
NO_DEVICES = "no GPU: only jobs with 0 GPUs run here; AUTOTRAINER_DEVICES=sim:4x24GiB shows how it works with some"
NO_GROUPS = (
    "no control groups (v2) can be made; trees are ended by parentage and marker (subreaper): "
    "the systemd units in deploy/ have `Delegate=yes`, which gives the agent groups"
)


def found(home: Path, *, devices: int, error: str, group_parent: str) -> Iterator[str]:
    """`error`: why the devices cannot be read, as the driver says it; `group_parent`: where groups can be made, or nothing."""
    if error:
        yield unread(error)
    elif not devices:
        yield NO_DEVICES
    if not group_parent:
        yield NO_GROUPS
    room = disks.room(home)
    if room and room.low:
        yield low_disk(room, home)


def unread(error: str) -> str:
    return f"{error} (`nvidia-smi` should work for this user; AUTOTRAINER_DEVICES=none runs without GPUs)"


def low_disk(room: disks.Room, home: Path) -> str:
    least = f"with less than {room.least_bytes / GIB:.1f} GiB nothing new starts on this host"
    return f"{room.free_bytes / GIB:.1f} GiB free for {home}: {least}; make room, or move AUTOTRAINER_HOME"
