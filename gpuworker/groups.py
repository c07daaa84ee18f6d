"""Where on this machine control groups for attempts can be made, and whose attempt a process is by its group.

They are made below the group of our own service: with `Delegate=yes` that is ours, and `KillMode=process` leaves them alone
(deploy/, and docs/how-it-works.md, "Ending a tree").
"""

from __future__ import annotations

import os
import re

from gpuworker.shim.cgroup import PREFIX, make, read_or_nothing

SERVICES = "autotrainer-services"
"""Where a unit with `DelegateSubgroup=` keeps its own processes: the groups go beside it, where they may have a memory
controller (the kernel lets no group have both processes and controllers for its children)."""

_GROUP = re.compile(re.escape(PREFIX) + r"([A-Za-z0-9-]+\.\d+\.\d+)")


def parent_for(pid: int | str = "self") -> str:
    """The folder in which a service (the agent) may make groups; empty where it may not."""
    own = _folder_of(str(pid))
    if os.path.basename(own) == SERVICES:
        own = os.path.dirname(own)
    if not own or not os.access(own, os.W_OK | os.X_OK) or not os.access(os.path.join(own, "cgroup.procs"), os.W_OK):
        return ""
    trial = make(own, f"trial.{os.getpid()}")
    return own if trial and trial.remove() else ""


def count_memory(parent: str) -> None:
    """Let the groups in it have their memory events counted, where that is possible."""
    if "memory" in read_or_nothing(os.path.join(parent, "cgroup.controllers")).split():
        try:
            with open(os.path.join(parent, "cgroup.subtree_control"), "w") as file:
                file.write("+memory")
        except OSError:
            pass  # It has processes itself, most likely.


def mark_of(pid: int) -> str:
    """The mark of the attempt in whose group a process is; empty for all others."""
    found = (_GROUP.fullmatch(part) for part in reversed(_path_of(str(pid)).split("/")))
    return next((part[1] for part in found if part), "")


def _path_of(pid: str) -> str:
    lines = read_or_nothing(f"/proc/{pid}/cgroup").splitlines()
    return next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "")


def _folder_of(pid: str) -> str:
    """Where a process's group is mounted, beside the old hierarchies (a hybrid layout) or alone."""
    path = _path_of(pid)
    if not path or path.startswith("/..") or path.endswith(" (deleted)"):
        return ""
    for line in read_or_nothing("/proc/self/mountinfo").splitlines():
        mount, _, kind = line.partition(" - ")
        root, point = mount.split()[3:5]
        if kind.startswith("cgroup2 ") and (path + "/").startswith(root.rstrip("/") + "/"):
            return (point + "/" + path[len(root) :].strip("/")).rstrip("/")
    return ""
