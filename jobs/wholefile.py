"""What lies beside the database (samples, curves, kept artifacts, mails of trainings): files, whole or absent, and not worth a failure."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path

log = logging.getLogger(__name__)


def write(path: Path, data: bytes) -> None:
    """Of writers at once the last one counts. Never synced, and a disk that takes nothing costs no more than this file."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh.write_bytes(data)
        os.replace(fresh, path)
    except OSError as exc:
        with contextlib.suppress(OSError):
            fresh.unlink()
        log.warning("%s/%s not kept: %s", path.parent.name, path.name, exc, extra={"action": "keep"})
