"""Files that a training leaves in its working directory and that its job names by patterns: listed and read for whoever asks.

Nothing outside the working directory is read: each part of a path is opened beneath the one before it, without following links.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from gpuworker.attempts import AttemptDir, attempts_folder, valid_key
from gpuworker.message import BadMessage
from gpuworker.questions import MOST_ARTIFACTS, PIECE_BYTES, Question
from gpuworker.settings import Settings

MOST_LOOKED_AT = 20_000
DEEPEST = 8


class Artifacts:
    def __init__(self, config: Settings) -> None:
        self._folder = attempts_folder(config)

    def listed(self, question: Question) -> list[dict[str, Any]]:
        """Regular files that match, by their names; no more than MOST_ARTIFACTS. Raises OSError, ValueError."""
        root = self._working_dir(question)
        found = []
        for name, seen in _files(root):
            if any(_matches(name, pattern) for pattern in question.patterns):
                found.append({"name": name, "size": seen.st_size, "modified_at": seen.st_mtime})
                if len(found) >= MOST_ARTIFACTS:
                    break
        return sorted(found, key=lambda one: str(one["name"]))

    def piece(self, question: Question) -> dict[str, Any]:
        """Raises OSError, ValueError."""
        name, offset = question.args.get("name", ""), int(question.args.get("offset", "0"))
        if not any(_matches(name, pattern) for pattern in question.patterns):
            raise ValueError(f"{name} is no artifact of this job")
        fd = _open_beneath(self._working_dir(question), name)
        try:
            seen = os.fstat(fd)
            if not stat.S_ISREG(seen.st_mode):
                raise ValueError(f"{name} is no regular file")
            return {"data": base64.b64encode(os.pread(fd, PIECE_BYTES, offset)).decode(), "size": seen.st_size}
        finally:
            os.close(fd)

    def _working_dir(self, question: Question) -> Path:
        """As the attempt's own order names it, so that the answer is about what ran here."""
        key = question.args.get("attempt", "")
        if not valid_key(key):
            raise ValueError("no such attempt")
        try:
            spec = AttemptDir(self._folder / key).spec()
        except (OSError, KeyError, BadMessage):
            spec = None
        if spec is None:
            raise ValueError("this host has kept nothing of that attempt")
        return Path(spec.working_dir)


def _matches(name: str, pattern: str) -> bool:
    """As a shell would: `*` does not cross folders, `**/` any number of them."""
    return _parts_match(name.split("/"), pattern.split("/"))


def _parts_match(parts: list[str], patterns: list[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(_parts_match(parts[i:], patterns[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], patterns[0]) and _parts_match(parts[1:], patterns[1:])


def _files(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Regular files beneath, hidden ones left out, until MOST_LOOKED_AT have been seen."""
    looked = 0
    todo = [""]
    while todo:
        folder = todo.pop(0)
        with os.scandir(root / folder if folder else root) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                looked += 1
                if looked > MOST_LOOKED_AT:
                    return
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if name.count("/") < DEEPEST:
                        todo.append(name)
                elif entry.is_file(follow_symlinks=False):
                    yield name, entry.stat(follow_symlinks=False)


def _open_beneath(root: Path, name: str) -> int:
    """Raises OSError, also for a link on the way, and ValueError for a name that leads out."""
    parts = name.split("/")
    if not all(part and part not in (".", "..") for part in parts):
        raise ValueError(f"{name} leads out of the working directory")
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = below
        return os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
