"""What is known beside the database (samples, curves, kept artifacts) and can be asked for or made again: files, whole or absent."""

from __future__ import annotations

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
        fresh.unlink(missing_ok=True)
        log.warning("%s/%s not kept: %s", path.parent.name, path.name, exc, extra={"action": "keep"})
