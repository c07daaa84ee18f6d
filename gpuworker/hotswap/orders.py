"""What a launch with swaps needs from the agent: contents by their hashes, the way, a bytecode cache, a second of its own."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from gpuworker import protocol
from gpuworker.hotswap import ways

if TYPE_CHECKING:
    from gpuworker.attempts import AttemptDir
    from gpuworker.protocol import Spec
    from gpuworker.settings import Settings


class ContentMissing(Exception):
    """A content is not in Redis (any more). The control plane puts it there again with the next offer."""


class HotSwap:
    """One per agent. Thread-safe."""

    def __init__(self, config: Settings, client: redis.Redis | None, *, lock_folder: Path, way: ways.Way) -> None:
        """`lock_folder`: the same for all installations on this machine, as for real devices."""
        self._home, self._client, self._lock_folder, self.way = config.host_home, client, lock_folder, way
        self._mutex = threading.Lock()

    def fetch(self, spec: Spec) -> dict[str, bytes]:
        """The contents that a spec names, by hash. Raises ContentMissing."""
        wanted = sorted({swap.sha256 for swap in spec.swaps if swap.sha256})
        if not wanted:
            return {}
        try:
            found: Any = self._client.mget([protocol.content_key(sha256) for sha256 in wanted]) if self._client else [None] * len(wanted)
        except redis.RedisError as exc:
            raise ContentMissing(f"The files to be swapped in could not be fetched: {exc}") from exc
        contents = {sha256: data for sha256, data in zip(wanted, found, strict=True) if data is not None}
        for sha256 in wanted:
            # What the sealed spec names counts, not what somebody has put into Redis under that name.
            if hashlib.sha256(contents.get(sha256, b"")).hexdigest() != sha256:
                target = next(swap.target for swap in spec.swaps if swap.sha256 == sha256)
                raise ContentMissing(f"The content of {target} is not in Redis any more, or is not what was submitted.")
        return contents

    def lay_out(self, attempt: AttemptDir, spec: Spec, contents: Mapping[str, bytes]) -> None:
        """Put the contents where the shim looks for them. Raises OSError."""
        for index, swap in enumerate(spec.swaps):
            if swap.sha256:
                fd = os.open(attempt.path / f"swap-{index}.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with open(fd, "wb") as file:
                    file.write(contents[swap.sha256])

    def order(self, spec: Spec) -> dict[str, Any]:
        """What launch.json says about swaps; nothing for a job that has none. Raises OSError."""
        if not spec.swaps:
            return {}
        return {
            "number": spec.number,
            "swaps": [{"target": swap.target, "source": swap.source} for swap in spec.swaps],
            "swap_way": self.way.name,
            "swap_locks": str(self._lock_folder),
            "swap_second": self._next_second(),
        }

    def variables(self, spec: Spec) -> dict[str, str]:
        """One bytecode cache for all jobs with swaps: none of it gets into the user's tree, and it is warm after the first."""
        if not spec.swaps or "PYTHONPYCACHEPREFIX" in spec.env:
            return {}
        return {"PYTHONPYCACHEPREFIX": str(self._home / "pycache")}

    def prune(self, *, keep_s: float) -> None:
        """Throw away bytecode that was made so long ago. Whoever still needs some makes it again."""
        before = time.time() - keep_s
        for folder, _, names in os.walk(self._home / "pycache", topdown=False):
            for name in names:
                with contextlib.suppress(OSError):
                    path = os.path.join(folder, name)
                    if os.stat(path).st_mtime < before:
                        os.unlink(path)
            with contextlib.suppress(OSError):
                os.rmdir(folder)  # Not where something is in it.

    def _next_second(self) -> int:
        """The mtime of an attempt's overlays: used once on this host, and even, so that the next one may be used instead.

        Python takes bytecode for current where its source has the same size and the same second: two jobs that start
        together and swap in `lr = 0.1` and `lr = 0.2` must not share one.
        """
        path = self._home / "swap-second"
        with self._mutex:
            try:
                last = int(path.read_text())
            except (OSError, ValueError):
                last = 0
            second = max(int(time.time()), last) // 2 * 2 + 2
            path.write_text(str(second))
            return second
