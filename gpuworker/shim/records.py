"""Records of an attempt: small JSON files in its directory, whole or absent, whoever is killed when.

A directory is given as its path or as an open descriptor; the shim keeps one, so that a moved home does not lose it.
"""

from __future__ import annotations

import _thread
import json
import os
from collections.abc import Mapping
from typing import Any

Folder = int | str | os.PathLike[str]


def write_record(folder: Folder, name: str, body: Mapping[str, Any], *, durable: bool = True) -> None:
    """Replace a record at once. `durable`: it survives a power cut when this returns. Raises OSError (a full disk)."""
    fd = _open_folder(folder)
    fresh = f".{name}.{os.getpid()}.{_thread.get_native_id()}"
    try:
        _write_file(fd, fresh, json.dumps(body, separators=(",", ":")).encode(), durable)
        os.replace(fresh, name, src_dir_fd=fd, dst_dir_fd=fd)
        if durable:
            os.fsync(fd)
    except OSError:
        _remove(fd, fresh)
        raise
    finally:
        os.close(fd)


def read_record(folder: Folder, name: str) -> dict[str, Any] | None:
    """None where it is absent, or where a power cut left something that is no record."""
    try:
        fd = _open_folder(folder)
    except FileNotFoundError:
        return None
    try:
        with open(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=fd), "rb") as file:
            body = json.loads(file.read())
    except (FileNotFoundError, ValueError):
        return None
    finally:
        os.close(fd)
    return body if isinstance(body, dict) else None


def make_durable(folder: int, name: str) -> None:
    """Bring a file to the disk that another process wrote without waiting."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _open_folder(folder: Folder) -> int:
    if isinstance(folder, int):
        return os.dup(folder)
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _write_file(folder: int, name: str, data: bytes, durable: bool) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=folder)
    with open(fd, "wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        if durable:
            os.fsync(fd)


def _remove(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        pass  # The failure that brought us here is the one to tell.
