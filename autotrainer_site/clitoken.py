"""What lets the owner of AUTOTRAINER_HOME use the command line client here without signing in: `cli_token` and `cli_address`.

Both 0600, in a folder that is theirs alone; whoever can read them can also read the keys beside them. The token is an ordinary
one, the first administrator's: it stands in the admin and can be revoked there, and then the next start makes another.
"""

from __future__ import annotations

import os
import secrets
from datetime import timedelta
from pathlib import Path

from django.utils import timezone
from knox.crypto import hash_token
from knox.models import AuthToken

from gpuworker.settings import Settings
from jobs.models import User

LIFETIME = timedelta(days=365)
RENEWED_BEFORE = timedelta(days=180)
"""A start with less than this left makes a new one: nobody restarts only for a token."""


def leave(ours: Settings, administrator: User) -> None:
    """Write both files; a token that is still good stays, so that a client that runs over a restart keeps working."""
    path = ours.home / "cli_token"
    if not _good(_text(path), administrator):
        _, token = AuthToken.objects.create(administrator, expiry=LIFETIME)
        _write(path, token)
    _write(ours.home / "cli_address", f"{local_address(ours)}\n{ours.url}")


def _good(token: str, administrator: User) -> bool:
    if not token.isascii() or not token:
        return False
    left = timezone.now() + RENEWED_BEFORE
    return bool(AuthToken.objects.filter(digest=hash_token(token), user=administrator, expiry__gt=left).exists())


def local_address(ours: Settings) -> str:
    """Where the web server listens, for a client on this machine."""
    bind = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(ours.bind, ours.bind)  # noqa: S104 - compared, not bound
    return f"http://[{bind}]:{ours.port}" if ":" in bind else f"http://{bind}:{ours.port}"


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _write(path: Path, text: str) -> None:
    if _text(path) == text:
        return
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
    partial.replace(path)
