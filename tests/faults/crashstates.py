"""What a power cut can leave of a few directories: real operations recorded, and every state that a disk may be in after them.

The model is stricter than most file systems. Until a directory is fsynced, any of its changes may be on the disk and any
other not, in whatever order they were made; until a file is fsynced, its new content may be there, absent, or cut in half,
also where its name is there. Only fsync promises anything, and only about the very file or directory that it was given.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CALLS = ("open", "link", "rename", "replace", "unlink", "mkdir", "rmdir", "fsync")
"""Calls that change names, or make something durable. Content is compared around them, however it was written."""
MOST_TOGETHER = 10
"""Changes of one directory that wait for one fsync: more would be too many states."""

Names = Mapping[str, int]


@dataclass(frozen=True)
class Write:
    """A file has this content by now."""

    file: int
    data: bytes


@dataclass(frozen=True)
class Rename:
    """A change of one directory that happens at once: names that come (with what they name) and names that go (None)."""

    folder: int
    changes: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True)
class Sync:
    what: int


Operation = Write | Rename | Sync


@dataclass
class Disk:
    """Directories and contents by number; a number that is in neither is an empty file."""

    folders: dict[int, dict[str, int]] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)

    def copy(self) -> Disk:
        return Disk({inode: dict(names) for inode, names in self.folders.items()}, dict(self.contents))

    def key(self) -> tuple[Any, ...]:
        folders = tuple((inode, tuple(sorted(names.items()))) for inode, names in sorted(self.folders.items()))
        return folders, tuple(sorted(self.contents.items()))


@dataclass
class Recording:
    roots: dict[str, int]
    start: Disk
    inodes: dict[int, int]
    """The number of each file at the start, by its inode then: inodes are used again, the numbers here are not."""
    folders: set[int]
    operations: list[Operation] = field(default_factory=list)


class Watch:
    """Directories as they change, each file and directory under a number that it alone ever has."""

    def __init__(self, roots: Iterable[Path], passed_over: Collection[str]) -> None:
        self._roots, self._passed_over = list(roots), passed_over
        self._free = itertools.count(1)
        self.numbers: dict[int, int] = {}
        self.disk = self._look()

    def changes(self) -> Iterator[Operation]:
        before, self.disk = self.disk, self._look()
        yield from _changes(before, self.disk)

    def _look(self) -> Disk:
        folders: dict[int, dict[str, int]] = {}
        contents: dict[int, bytes] = {}
        todo = list(self._roots)
        while todo:
            folder = todo.pop()
            names = folders[folder.stat().st_ino] = {}
            for entry in (each for each in os.scandir(folder) if each.name not in self._passed_over):
                names[entry.name] = entry.inode()
                if entry.is_dir(follow_symlinks=False):
                    todo.append(Path(entry.path))
                else:
                    contents[entry.inode()] = Path(entry.path).read_bytes()
        there = folders.keys() | contents.keys()
        self.numbers = {inode: self.numbers.get(inode) or next(self._free) for inode in sorted(there)}
        number = self.numbers
        named = {number[i]: {name: number[other] for name, other in names.items()} for i, names in folders.items()}
        return Disk(named, {number[i]: data for i, data in contents.items()})


@contextlib.contextmanager
def recorded(passed_over: Collection[str] = (), **roots: Path) -> Iterator[Recording]:
    """Record what is done below these directories, by this process, while it lasts.

    `passed_over`: names of files that no recovery reads; each that is not fsynced would multiply the states.
    """
    watch = Watch(roots.values(), passed_over)
    numbers = {name: watch.numbers[path.stat().st_ino] for name, path in roots.items()}
    recording = Recording(numbers, watch.disk.copy(), dict(watch.numbers), set(watch.disk.folders))

    def catch_up() -> None:
        recording.operations += watch.changes()
        recording.folders |= watch.disk.folders.keys()

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            catch_up()
            answer = real(*args, **kwargs)
            catch_up()
            if name == "fsync" and (number := watch.numbers.get(os.fstat(args[0]).st_ino)):
                recording.operations.append(Sync(number))
            return answer

        return call

    kept = {name: getattr(os, name) for name in CALLS}
    for name, real in kept.items():
        setattr(os, name, watched(name, real))
    try:
        yield recording
        catch_up()
    finally:
        for name, real in kept.items():
            setattr(os, name, real)


def _changes(before: Disk, now: Disk) -> Iterator[Operation]:
    for number, data in now.contents.items():
        if before.contents.get(number, b"") != data:
            yield Write(number, data)
    for folder, names in now.folders.items():
        old = before.folders.get(folder, {})
        gone: list[tuple[str, int | None]] = [(name, None) for name in old if name not in names]
        come = [(name, number) for name, number in names.items() if old.get(name) != number]
        if gone or come:
            yield Rename(folder, tuple(gone + come))


def crash_states(recording: Recording, *, after: int | None = None) -> Iterator[Disk]:
    """Every state after every prefix of the operations, each once; with `after`, only those of that prefix."""
    seen: set[tuple[Any, ...]] = set()
    lengths = range(len(recording.operations) + 1) if after is None else [after]
    for length in lengths:
        for disk in _states_after(recording, length):
            if (key := disk.key()) not in seen:
                seen.add(key)
                yield disk


def _states_after(recording: Recording, length: int) -> Iterator[Disk]:
    """What the disk may hold when the power goes after this many operations."""
    durable, renames, writes = recording.start.copy(), list[Rename](), dict[int, bytes]()
    for folder in recording.folders:
        durable.folders.setdefault(folder, {})
    for operation in recording.operations[:length]:
        match operation:
            case Write(file, data):
                writes[file] = data
            case Rename():
                renames.append(operation)
            case Sync(inode):
                if inode in writes:
                    durable.contents[inode] = writes.pop(inode)
                for rename in [each for each in renames if each.folder == inode]:
                    _apply(durable, rename)
                renames = [each for each in renames if each.folder != inode]
    assert len(renames) <= MOST_TOGETHER, "too many changes wait for one fsync"
    for chosen in _subsets(renames):
        for contents in _contents(durable, writes):
            disk = Disk({inode: dict(names) for inode, names in durable.folders.items()}, contents)
            for rename in chosen:
                _apply(disk, rename)
            yield disk


def _apply(disk: Disk, rename: Rename) -> None:
    names = disk.folders.setdefault(rename.folder, {})
    for name, inode in rename.changes:
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


def _subsets(renames: list[Rename]) -> Iterator[list[Rename]]:
    for size in range(len(renames) + 1):
        for chosen in itertools.combinations(renames, size):
            yield list(chosen)


def _contents(durable: Disk, writes: Mapping[int, bytes]) -> Iterator[dict[int, bytes]]:
    """Each file that was not fsynced: as it was, whole, half, or of the right length and full of zeros."""
    inodes = list(writes)
    versions = [{durable.contents.get(i, b""), writes[i], writes[i][: len(writes[i]) // 2], bytes(len(writes[i]))} for i in inodes]
    for chosen in itertools.product(*versions):
        yield {**durable.contents, **dict(zip(inodes, chosen, strict=True))}


def materialise(disk: Disk, recording: Recording, folder: Path, *, told: Callable[[bytes, Mapping[int, int]], bytes]) -> dict[str, Path]:
    """Make the state in real directories below `folder`. `told` mends a content that speaks of paths and inodes."""
    if folder.exists():
        shutil.rmtree(folder)
    made: dict[int, Path] = {}
    roots = {name: folder / name for name in recording.roots}
    for name, path in roots.items():
        _make(disk, recording.roots[name], path, made)
    inodes = {old: made[number].stat().st_ino for old, number in recording.inodes.items() if number in made}
    for number, path in made.items():
        path.write_bytes(told(disk.contents.get(number, b""), inodes))
    return roots


def _make(disk: Disk, inode: int, path: Path, made: dict[int, Path]) -> None:
    path.mkdir(parents=True)
    for name, number in disk.folders.get(inode, {}).items():
        if number in disk.folders:
            _make(disk, number, path / name, made)
        elif number in made:
            os.link(made[number], path / name)
        else:
            (path / name).touch()
            made[number] = path / name
