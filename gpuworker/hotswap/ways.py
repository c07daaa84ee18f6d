"""Which way this host swaps files: by mount where a probe says that it works, else by the journal."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gpuworker import settings

MOUNT, JOURNAL = "mount", "journal"
FORCED = "AUTOTRAINER_SWAP_WAY"
"""Internal, for tests: `journal` makes a host that could do better go the other way."""
PROBE_S = 20.0


@dataclass(frozen=True, slots=True)
class Way:
    name: str
    note: str = ""
    """Why it is not `mount`."""


def choose(folder: Path) -> Way:
    """Tries it below `folder`, or for a folder that is not there yet among the temporary files."""
    forced = os.environ.get(FORCED, "")
    if forced == JOURNAL:
        return Way(JOURNAL, f"{FORCED} says so")
    why = _probe(folder if folder.is_dir() else None)
    return Way(JOURNAL, why) if why else Way(MOUNT)


def _probe(folder: Path | None) -> str:
    """A process of its own, since a namespace can be made with a single thread only."""
    command = [sys.executable, "-E", "-s", "-S", "-m", "gpuworker.shim.swaps.probe"]
    try:
        with tempfile.TemporaryDirectory(prefix=".swap-probe-", dir=folder) as place:
            answer = subprocess.run(
                [*command, place],
                cwd=settings.CHECKOUT,
                capture_output=True,
                text=True,
                timeout=PROBE_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"it could not be tried: {exc}"
    if answer.returncode:
        return (answer.stderr.strip().splitlines() or ["the probe died"])[-1]
    return answer.stdout.strip()
