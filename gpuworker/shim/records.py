"""Records of an attempt: small JSON files in its directory, whole or absent, whoever is killed when.

A directory is given as its path or as an open descriptor; the shim keeps one, so that a moved home does not lose it.

Room for the records that must not be lost to a full disk is kept from the start, in files that they are then written into.
"""

from __future__ import annotations

import _thread
import json
import os
from collections.abc import Mapping
from typing import Any

Folder = int | str | os.PathLike[str]
ROOM_BYTES = 16 * 1024
"""More than a record takes: a message of ours and two paths."""


def write_record(folder: Folder, name: str, body: Mapping[str, Any], *, durable: bool = True) -> None:
    """Replace a record at once. `durable`: it survives a power cut when this returns. Raises OSError (a full disk)."""
    fd = _open_folder(folder)
    try:
        fresh = _write_fresh(fd, name, json.dumps(body, separators=(",", ":")).encode(), durable)
        os.replace(fresh, name, src_dir_fd=fd, dst_dir_fd=fd)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def keep_room(folder: Folder, name: str) -> None:
    """Keep as much of the disk as a record takes, so that it can be written when nothing else can. Raises OSError."""
    fd = _open_folder(folder)
    try:
        _write_file(fd, _room(name), b"\n" * ROOM_BYTES, durable=False)
    except OSError:
        _remove(fd, _room(name))
        raise
    finally:
        os.close(fd)


def give_up_room(folder: int, name: str) -> None:
    _remove(folder, _room(name))


def _room(name: str) -> str:
    return f".{name}.room"


def _write_fresh(folder: int, name: str, data: bytes, durable: bool) -> str:
    """The name of a file with this record, not yet in its place."""
    fresh = f".{name}.{os.getpid()}.{_thread.get_native_id()}"
    try:
        _write_file(folder, fresh, data, durable)
    except OSError as exc:
        _remove(folder, fresh)
        try:
            _write_over(folder, _room(name), data)
        except FileNotFoundError:
            raise exc from None
        return _room(name)
    return fresh


def _write_over(folder: int, room: str, data: bytes) -> None:
    """Use room that was kept, without a moment in which somebody else could take it. Raises FileNotFoundError where there is none."""
    fd = os.open(room, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.pwrite(fd, data, 0)  # Whole: a regular file, and blocks that are its own.
        os.ftruncate(fd, len(data))
        os.fsync(fd)
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
