"""Which commit a directory is at, and whether something was changed since."""

from __future__ import annotations

import os
import subprocess
from typing import Any

LONGEST_S = 5.0
_GIT = (
    *("git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "safe.directory=*"),
    *("-c", "core.untrackedCache=false"),
)
"""Changes nothing, runs none of a repository's hooks, and takes repositories of other accounts too."""


def of(directory: str) -> dict[str, Any] | None:
    """{commit, branch, dirty}; None outside a repository, without git, or where it takes too long. `dirty` None: not known."""
    commit = _said(directory, "rev-parse", "HEAD")
    if not commit:
        return None
    branch = _said(directory, "symbolic-ref", "--short", "-q", "HEAD")
    changed = _said(directory, "status", "--porcelain", "--untracked-files=no")
    return {
        "commit": commit.strip()[:64],
        "branch": (branch or "").strip()[:200],
        "dirty": None if changed is None else bool(changed.strip()),
    }


def _said(directory: str, *words: str) -> str | None:
    """None where git does not say it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            [*_GIT, "-C", directory, *words],
            env=environment | {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LONGEST_S,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
