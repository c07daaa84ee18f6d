"""A host without devices: it runs jobs that ask for none."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from gpuworker.devices.base import Reading, Training, machine_lock_folder


class NoDevices:
    source = "none"

    @property
    def lock_folder(self) -> Path:
        return machine_lock_folder()

    def read(self, trainings: Sequence[Training] = (), only: Collection[str] = ()) -> Reading:
        return Reading()

    def mask_token(self, uuid: str) -> str:
        raise KeyError(uuid)
