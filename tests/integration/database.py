"""The test database for worker processes that a test starts."""

from __future__ import annotations

import os
from pathlib import Path

from django.db import connection


def shared_with(home: Path) -> dict[str, str]:
    """Let a process with this AUTOTRAINER_HOME use the test database; the variables that it needs for that."""
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite":
        (home / "autotrainer.sqlite3").symlink_to(name)
        return {}
    server, _, _ = os.environ["DATABASE_URL"].rpartition("/")
    return {"DATABASE_URL": f"{server}/{name}"}
