"""Keys and generated passwords below AUTOTRAINER_HOME: made once, readable by the owner only."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from gpuworker import protocol
from gpuworker.settings import Settings

CURRENT, PREVIOUS = "cluster_key", "cluster_key_previous"


def kept(path: Path, *, length: int = 32, words: bool = False, text: str = "") -> str:
    """The secret in this file; the first caller makes it (0600). Hexadecimal, or URL-safe text where people type it, or as given."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        pass
    text = text or (secrets.token_urlsafe(length) if words else secrets.token_hex(length))
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(partial, path)  # whole or not at all, and the first one counts: several services start at once
    except FileExistsError:
        return path.read_text().strip()
    finally:
        partial.unlink()
    return text


def cluster_key(settings: Settings) -> bytes:
    """The key that all hosts' keys are derived from; from the setting, else made and kept on first use."""
    text = settings.cluster_key or kept(settings.keys_home / CURRENT)
    return text.encode()


def previous_cluster_key(settings: Settings) -> bytes | None:
    """The one before, while it is being replaced; from the setting, else as `manage.py cluster_key --new` has kept it."""
    path = settings.keys_home / PREVIOUS
    text = settings.cluster_key_previous or (path.read_text().strip() if path.exists() else "")
    return text.encode() or None


def replace_cluster_key(settings: Settings) -> None:
    """Keep the present key as the previous one and make another; from the next start of the services on."""
    path, before = settings.keys_home / CURRENT, kept(settings.keys_home / CURRENT)
    kept(settings.keys_home / PREVIOUS, text=before)  # first: whatever happens now, the hosts' key is not lost
    path.unlink()
    kept(path)


def host_key_hex(settings: Settings, host: str, generation: int) -> str:
    """The AUTOTRAINER_HOST_KEY of a host, of this generation."""
    return protocol.derive_host_key(cluster_key(settings), host, generation).hex()
