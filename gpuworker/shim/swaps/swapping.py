"""The swaps of one attempt, from the shim's side: collect the new files, check every target, put them there, take them back.

Nothing is touched before every source is here and every target is found good. What was done is on record in swap.json, so
that the agent can tell of it, and can put back what a shim that was killed could not.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Mapping
from typing import Any

from gpuworker.failpoints import hit
from gpuworker.shim import records
from gpuworker.shim.swaps import files, inuse, journal, namespace, paths
from gpuworker.shim.swaps.inuse import RECORD, UNFINISHED, InUse
from gpuworker.shim.swaps.paths import BadTarget, Place

LARGEST_SOURCE = 1 << 30
LARGEST_SHOWN = 256 * 1024
"""An original of at most this size is copied for the difference that people see."""
_TRIES = 3
_TRY_AGAIN_S = 0.5


class Swaps:
    """Belongs to one shim. The working directory must be the current one for `prepare` and `enter`."""

    def __init__(self, launch: Mapping[str, Any], folder: int) -> None:
        self._launch, self._folder = launch, folder
        self._wanted: list[dict[str, Any]] = launch.get("swaps", [])
        self._way: str = launch.get("swap_way", "journal")
        self._why = ""
        self._entries: list[dict[str, Any]] = []
        self._held: dict[int, bool] = {}

    @property
    def locks(self) -> list[int]:
        """Descriptors that the command's tree inherits."""
        return list(self._held)

    @property
    def overlaid(self) -> bool:
        """Whether the command must `enter` a namespace of its own."""
        return any(entry["way"] == "mount" for entry in self._entries)

    def prepare(self) -> None:
        """Everything but what the command's own process has to do. Raises BadTarget (the job's fault), InUse, OSError."""
        if not self._wanted:
            return
        for index, swap in enumerate(self._wanted):
            self._collect(index, swap)
        root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        places: list[Place] = []
        try:
            for swap in self._wanted:
                places.append(paths.locate(root, swap["target"]))
            self._lock(places)
            for index, place in enumerate(places):
                places[index] = paths.locate(root, place.target)  # As it is now that nobody else may swap it.
                place.close()
                if self._is_journal(place) != self._is_journal(places[index]):
                    raise InUse(f"{place.target} came or went at this moment.")
            self._check(places)
            self._put(places, os.readlink(f"/proc/self/fd/{root}"))
        finally:
            os.close(root)
            for place in places:
                place.close()

    def enter(self) -> None:
        """In the command's process, before it becomes the command."""
        lies = [(_new(i), e["target"], (e["dev"], e["inode"])) for i, e in enumerate(self._entries) if e["way"] == "mount"]
        namespace.enter()
        namespace.overlay(os.readlink(f"/proc/self/fd/{self._folder}"), lies)

    def fall_back(self, why: str) -> None:
        """The namespace was refused for this job although the probe had one: go the other way."""
        self.put_back()
        self._way, self._why, self._entries = "journal", why, []
        self.prepare()

    def put_back(self) -> None:
        """Take everything back and say so in swap.json. Never raises: what cannot be done now is left to the agent."""
        for again in range(_TRIES):
            try:
                if self._wanted:
                    put_back(self._folder, records.read_record(self._folder, RECORD) or {})
            except OSError as exc:
                print(f"swapped files: {exc}", file=sys.stderr, flush=True)
                time.sleep(_TRY_AGAIN_S if again < _TRIES - 1 else 0)
                continue
            for fd, alone in self._held.items():
                inuse.give_back(fd, alone=alone)
            self._held.clear()
            return

    # --- the new files --------------------------------------------------------------------------------------------------

    def _collect(self, index: int, swap: Mapping[str, Any]) -> None:
        """A copy in the attempt directory: what becomes of the source later is no matter. The agent has put contents there."""
        if not swap.get("source"):
            return
        source = _open_source(swap["source"])
        fd = os.open(_new(index), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=self._folder)
        try:
            os.fchmod(fd, os.fstat(source).st_mode & 0o777)
            if files.copy(source, fd, LARGEST_SOURCE) >= LARGEST_SOURCE:
                raise BadTarget(f"The file {swap['source']} is larger than 1 GiB: name it in the command instead of swapping it.")
        finally:
            os.close(fd)
            os.close(source)

    def _lock(self, places: list[Place]) -> None:
        holder = {"attempt": os.readlink(f"/proc/self/fd/{self._folder}"), "number": self._launch.get("number")}
        for place in sorted(places, key=lambda place: place.target):
            alone = self._is_journal(place)
            self._held[inuse.take(self._launch["swap_locks"], place, holder, alone=alone)] = alone

    def _check(self, places: list[Place]) -> None:
        for place in places:
            try:
                journal.find_others(place)
            except journal.SwappedAlready as exc:
                raise InUse(str(exc)) from None
            if self._is_journal(place):
                journal.check(place)

    def _is_journal(self, place: Place) -> bool:
        """Nothing can be laid over a target that is absent: a placeholder would be seen by everybody, and stay after a crash."""
        return self._way != "mount" or place.found is None

    # --- there ----------------------------------------------------------------------------------------------------------

    def _put(self, places: list[Place], root: str) -> None:
        for index, place in enumerate(places):
            self._entries.append(self._entry(index, place, root))
        by_journal = [(i, place) for i, place in enumerate(places) if self._is_journal(place)]
        self._record("preparing" if by_journal else "overlaid")
        hit("swap.planned")
        try:
            for index, place in by_journal:
                new = os.open(_new(index), os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folder)
                try:
                    journal.swap(place, self._entries[index], new)
                finally:
                    os.close(new)
                self._entries[index]["swapped"] = True
        except journal.SwappedAlready as exc:
            raise InUse(str(exc)) from None
        except OSError as exc:
            if files.the_job_is_to_blame(exc):
                raise BadTarget(f"{place.target} cannot be swapped on this host: {exc.strerror}.") from None
            raise
        if by_journal:
            self._record("swapped")
            hit("swap.recorded")

    def _entry(self, index: int, place: Place, root: str) -> dict[str, Any]:
        new = os.open(_new(index), os.O_RDWR | os.O_CLOEXEC, dir_fd=self._folder)
        try:
            self._dress(new, place)
            sha256 = files.digest(new)
        finally:
            os.close(new)
        self._keep_for_show(index, place)
        if self._is_journal(place):
            attempt = os.path.basename(os.readlink(f"/proc/self/fd/{self._folder}"))
            return journal.plan(place, root, sha256, number=self._launch.get("number", 0), dispatch=attempt)
        assert place.found is not None  # noqa: S101 - else it would go the journal's way
        there = {"dev": place.found.st_dev, "inode": place.found.st_ino}
        return {"target": place.target, "way": "mount", "root": root, "new_sha256": sha256, **there}

    def _dress(self, new: int, place: Place) -> None:
        """As the original looks, but younger: bytecode is taken for current where size and second of its source are the same."""
        second = int(self._launch.get("swap_second") or time.time())
        if place.found is not None:
            second += int(place.found.st_mtime) == second
            owner = (place.found.st_uid, place.found.st_gid)
            files.dress(new, mode=place.found.st_mode & 0o777, owner=owner, mtime_ns=second * 10**9)
        else:
            files.dress(new, mode=0o644 | os.fstat(new).st_mode & 0o111, owner=None, mtime_ns=second * 10**9)

    def _keep_for_show(self, index: int, place: Place) -> None:
        """The original as it is now, for the difference on the job's page. Best effort: nothing depends on it."""
        if place.found is None or place.found.st_size > LARGEST_SHOWN:
            return
        try:
            old = os.open(place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place.folder)
            copy = os.open(f"swap-{index}.old", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=self._folder)
            try:
                files.copy(old, copy, LARGEST_SHOWN)
            finally:
                os.close(old)
                os.close(copy)
        except OSError:
            pass

    def _record(self, state: str) -> None:
        body = {"state": state, "why": self._why, "files": self._entries}
        records.write_record(self._folder, RECORD, body, durable=state != "overlaid")
        if state == "preparing":
            records.make_durable(self._folder, "..")  # The journal's directory itself must outlive a power cut too.


def put_back(folder: records.Folder, record: Mapping[str, Any]) -> None:
    """Put back what a swap.json tells of, and write down how it went. May be repeated. Raises OSError."""
    if record.get("state") not in (*UNFINISHED, "overlaid"):
        return
    hit("swap.taking_back")
    results = [journal.put_back(e) if e["way"] == "journal" else _untouched(e) for e in record["files"]]
    hit("swap.unrecorded")
    body = {**record, "state": "restored", "results": results}
    records.write_record(folder, RECORD, body, durable=record["state"] != "overlaid")


def _untouched(entry: Mapping[str, Any]) -> dict[str, str]:
    path = os.path.join(entry["root"], entry["target"])
    return {"target": entry["target"], "way": "mount", "result": "untouched", "path": path, "kept": "", "note": ""}


def _new(index: int) -> str:
    return f"swap-{index}.new"


def _open_source(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BadTarget(f"The file {path}, which was to be swapped in, does not exist on this host.") from None
    except (OSError, ValueError) as exc:
        raise BadTarget(f"The file {path}, which was to be swapped in, cannot be read on this host: {exc}.") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BadTarget(f"{path}, which was to be swapped in, is no regular file.")
    return fd
