"""The way that replaces the file itself and puts it back: so written down that a crash at any moment loses nothing.

    1  swap.json: which files, under which names the original and the new one will lie beside them     (durable)
    2  the new file, whole, beside the target                                                          (fsync)
    3  the original gets a second name beside it; for a target that is absent, an empty file does      (fsync of the directory)
    4  the new file is renamed over the target                                                         (fsync of the directory)
    5  swap.json: swapped                                                                              (durable)

The second name is a hard link where the file system has them: what comes back is the very file, with its mode, owner,
times, attributes and whatever is still written through a descriptor from before. As long as the second name exists the file
has to be put back; putting back is one rename, so it may be interrupted and repeated. A target that is not what we put there
has been edited meanwhile: it stays, and the original stays too, under a name that people find.
tests/faults/test_crash_states.py goes through all states that a power cut can leave.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from gpuworker.failpoints import hit
from gpuworker.shim.swaps import files, paths
from gpuworker.shim.swaps.paths import BadTarget, Place

Entry = dict[str, Any]

OURS = ".autotrainer-"
ORIGINAL, FRESH = ".orig", ".new"
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES)


class SwappedAlready(Exception):
    """Another job keeps the original of this file at this moment, perhaps on another host; says where."""


def plan(place: Place, root: str, new_sha256: str, *, number: int, dispatch: str) -> Entry:
    """What will be done to one target, and under which names. `dispatch` makes these names this attempt's own."""
    ours = f"{OURS}{_short(place.name)}-{_short(dispatch)}"
    return {
        "target": place.target,
        "way": "journal",
        "root": root,
        "below": place.target.rpartition("/")[0],
        "name": place.name,
        "absent": place.found is None,
        "missing": list(place.missing),
        "original": ours + ORIGINAL,
        "fresh": ours + FRESH,
        "kept": _kept_name(place, number),
        "new_sha256": new_sha256,
        "inode": place.found.st_ino if place.found else 0,
    }


def check(place: Place) -> None:
    """Raises BadTarget where this way must not be gone; nothing has been touched then."""
    if place.found is not None and place.found.st_nlink > 1:
        raise BadTarget(f"{place.target} has {place.found.st_nlink} names (hard links): swapping one of them would part them.")
    if not os.access(f"/proc/self/fd/{place.folder}", os.W_OK | os.X_OK):
        raise BadTarget(f"{place.target}: its directory is read-only here, so the file cannot be put there.")


def find_others(place: Place, own: str = "") -> None:
    """Raises SwappedAlready where somebody else's second name of this target lies in its directory."""
    if place.missing:
        return
    start = f"{OURS}{_short(place.name)}-"
    for name in os.listdir(place.folder):
        if name.startswith(start) and name.endswith(ORIGINAL) and name != own:
            raise SwappedAlready(f"{place.target} is swapped by another job, whose original lies beside it as {name}.")


def swap(place: Place, entry: Entry, new: int) -> None:
    """Steps 2 to 4 for one target. Whatever this raises, `put_back` undoes."""
    folder = _made(place, entry["missing"])
    try:
        _write_fresh(folder, entry["fresh"], new)
        hit("swap.fresh_written")
        if entry["absent"]:
            _mark_absent(folder, entry)
        else:
            _keep_original(folder, entry)
        os.fsync(folder)
        hit("swap.original_kept")
        find_others(place, entry["original"])
        _put_in_place(folder, entry)
        os.fsync(folder)
        hit("swap.in_place")
    finally:
        os.close(folder)


def put_back(entry: Mapping[str, Any]) -> dict[str, str]:
    """Undo one target, however far it came; may be repeated. Raises OSError where it cannot be done now.

    The answer's `result`: restored, removed (was absent before), conflict (edited meanwhile, both are kept), lost.
    """
    try:
        folder = _folder_of(entry)
    except (FileNotFoundError, NotADirectoryError):
        _remove_made(entry)  # A power cut may have kept the outer of two directories that were made.
        gone = entry["absent"] or not entry.get("swapped")
        return _result(
            entry, ("removed" if entry["absent"] else "restored") if gone else "lost", note="its directory is not there any more"
        )
    try:
        result = _absent_back(folder, entry) if entry["absent"] else _original_back(folder, entry)
        hit("swap.taken_back")
        files.remove(entry["fresh"], folder)
        os.fsync(folder)
    finally:
        os.close(folder)
    _remove_made(entry)
    return result


# --- there --------------------------------------------------------------------------------------------------------------


def _made(place: Place, missing: Sequence[str]) -> int:
    """A descriptor of the target's directory, which is made where it is missing."""
    at = os.dup(place.folder)
    for name in missing:
        try:
            os.mkdir(name, 0o777, dir_fd=at)
        except FileExistsError:
            pass
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        os.close(at)
        at = below
    return at


def _write_fresh(folder: int, name: str, new: int) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        files.copy(new, fd)
        files.copy_looks(new, fd)
        os.fsync(fd)
    finally:
        os.close(fd)


def _mark_absent(folder: int, entry: Entry) -> None:
    os.close(os.open(entry["original"], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder))


def _keep_original(folder: int, entry: Entry) -> None:
    try:
        os.link(entry["name"], entry["original"], src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
        _copy_original(folder, entry)
        return
    kept = os.stat(entry["original"], dir_fd=folder, follow_symlinks=False)
    if kept.st_ino != entry["inode"]:
        files.remove(entry["original"], folder)  # Replaced by somebody since we looked: it is not what was checked.
        raise BadTarget(f"{entry['target']} was replaced by somebody at this moment.")


def _copy_original(folder: int, entry: Entry) -> None:
    """On file systems without hard links, and for files that we may read but not link."""
    source = os.open(entry["name"], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    # Under the other name first: a second name that is not whole must never be renamed over the original.
    part = entry["original"] + ".part"
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            files.copy(source, fd)
            files.copy_looks(source, fd)
            os.fsync(fd)
        finally:
            os.close(fd)
    finally:
        os.close(source)
    os.rename(part, entry["original"], src_dir_fd=folder, dst_dir_fd=folder)


def _put_in_place(folder: int, entry: Entry) -> None:
    if not entry["absent"]:
        now = os.stat(entry["name"], dir_fd=folder, follow_symlinks=False)
        if now.st_ino != entry["inode"]:
            raise BadTarget(f"{entry['target']} was replaced by somebody at this moment.")
        os.rename(entry["fresh"], entry["name"], src_dir_fd=folder, dst_dir_fd=folder)
        return
    try:  # Unlike a rename, a link never replaces a file that somebody has made meanwhile.
        os.link(entry["fresh"], entry["name"], src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        raise BadTarget(f"{entry['target']} was made by somebody at this moment.") from None
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
        os.rename(entry["fresh"], entry["name"], src_dir_fd=folder, dst_dir_fd=folder)
    else:
        os.unlink(entry["fresh"], dir_fd=folder)


# --- and back -----------------------------------------------------------------------------------------------------------


def _folder_of(entry: Mapping[str, Any]) -> int:
    root = os.open(entry["root"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if not entry["below"]:
        return root
    try:
        return paths.open_beneath(root, entry["below"], os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(root)


def _original_back(folder: int, entry: Mapping[str, Any]) -> dict[str, str]:
    name, original = entry["name"], entry["original"]
    files.remove(original + ".part", folder)
    kept, now = files.present(original, folder), files.present(name, folder)
    if kept is None:
        return _without_original(folder, entry, now)
    if now is not None and os.path.samestat(kept, now):
        os.unlink(original, dir_fd=folder)  # It never came to the swap. (A rename between two names of one file does nothing.)
        return _result(entry, "restored")
    if now is not None and now.st_ino == entry["inode"] and not entry.get("swapped"):
        os.unlink(original, dir_fd=folder)  # A copy that was not needed: the original still stands there.
        return _result(entry, "restored")
    if now is None or _is_ours(folder, name, now, entry):
        os.rename(original, name, src_dir_fd=folder, dst_dir_fd=folder)
        return _result(entry, "restored")
    os.rename(original, entry["kept"], src_dir_fd=folder, dst_dir_fd=folder)
    return _conflict(entry)


def _without_original(folder: int, entry: Mapping[str, Any], now: os.stat_result | None) -> dict[str, str]:
    """Nothing lies beside it: it never came to the swap, or it has been put back before."""
    if files.present(entry["kept"], folder) is not None:
        return _conflict(entry)
    if now is not None and now.st_ino != entry["inode"] and _is_ours(folder, entry["name"], now, entry):
        return _result(entry, "lost", note=f"its original, {entry['original']}, was taken away by somebody")
    return _result(entry, "restored")


def _absent_back(folder: int, entry: Mapping[str, Any]) -> dict[str, str]:
    if files.present(entry["original"], folder) is None:
        return _result(entry, "removed")
    now = files.present(entry["name"], folder)
    ours = now is not None and _is_ours(folder, entry["name"], now, entry)
    if ours:
        os.unlink(entry["name"], dir_fd=folder)
        os.fsync(folder)  # Before the mark goes: without it nobody would know that the file is ours.
    os.unlink(entry["original"], dir_fd=folder)
    return _result(entry, "removed") if ours or now is None else _conflict(entry)


def _is_ours(folder: int, name: str, now: os.stat_result, entry: Mapping[str, Any]) -> bool:
    return stat.S_ISREG(now.st_mode) and files.digest_of(name, folder) == entry["new_sha256"]


def _remove_made(entry: Mapping[str, Any]) -> None:
    """The directories that were made for an absent target, unless something else lies in them by now."""
    parts = entry["below"].split("/") if entry["missing"] else []
    for depth in range(len(parts), len(parts) - len(entry["missing"]), -1):
        try:
            os.rmdir(os.path.join(entry["root"], *parts[:depth]))
            _sync(os.path.join(entry["root"], *parts[: depth - 1]))
        except FileNotFoundError:
            continue
        except OSError:
            return


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _conflict(entry: Mapping[str, Any]) -> dict[str, str]:
    return _result(entry, "conflict", kept="" if entry["absent"] else os.path.join(entry["root"], entry["below"], entry["kept"]))


def _result(entry: Mapping[str, Any], result: str, *, kept: str = "", note: str = "") -> dict[str, str]:
    path = os.path.join(entry["root"], entry["target"])
    return {"target": entry["target"], "way": "journal", "result": result, "path": path, "kept": kept, "note": note}


def _kept_name(place: Place, number: int) -> str:
    """A free name for an original that cannot be put back because its place is taken; short enough for any file system."""
    base = place.name.encode()[:180].decode(errors="ignore") + f".original-of-job-{number}"
    tries = [base, *(f"{base}.{again}" for again in range(2, 100))]
    return next((name for name in tries if place.missing or files.present(name, place.folder) is None), tries[-1])


def _short(text: str) -> str:
    return files.hexdigest(text.encode())[:12]
