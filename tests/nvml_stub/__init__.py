"""A `libnvidia-ml.so.1` of our own, so that the real pynvml runs on machines without a GPU (nvml_stub.c says how)."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import missing

LIBRARY = "libnvidia-ml.so.1"
GIB = 2**30


def build(folder: Path) -> Path:
    """Compiles the stub into `folder`; the library's path. Put the folder on LD_LIBRARY_PATH of a new process."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        missing("gcc")
    path = folder / LIBRARY
    flags = ["-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}"]
    subprocess.run([str(compiler), *flags, "-o", str(path), str(Path(__file__).with_name("nvml_stub.c"))], check=True)
    return path


@dataclass
class Driver:
    """What the stub answers; in force as soon as it is told."""

    path: Path
    state: dict[str, str] = field(default_factory=dict)

    def tell(self, *, drop: tuple[str, ...] = (), **changes: object) -> None:
        """Sets lines; `__` in a name stands for the dot: `_0__util=55` is `0.util=55`. `drop` takes lines away."""
        self.state |= {name.lstrip("_").replace("__", "."): str(value) for name, value in changes.items()}
        for key in drop:
            self.state.pop(key, None)
        draft = self.path.with_suffix(".tmp")
        draft.write_text("".join(f"{key}={value}\n" for key, value in self.state.items()))
        os.replace(draft, self.path)

    def card(self, index: int, **changes: object) -> None:
        """An idle card of 40 GiB."""
        readings: dict[str, object] = {
            "uuid": f"GPU-{index:08x}-0000-4000-8000-000000000000",
            "name": "NVIDIA A100-SXM4-40GB",
            "memory": "40960 600 3",
            "util": 0,
            "temp": 34,
            "power": 51_000,
            "limit": 400_000,
            "compute": "",
            "graphics": "",
            "shares": "",
        }
        self.tell(**{f"_{index}__{name}": value for name, value in (readings | changes).items()})
