"""Where control groups are found, in the layouts that machines have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpuworker import groups
from gpuworker.shim.cgroup import Group

HYBRID = """25 31 0:22 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
PURE = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
CONTAINER = "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
UNIT = "/user.slice/user@1000.service/app.slice/autotrainer.service"


@pytest.mark.parametrize(
    ("mounts", "own", "folder"),
    [
        (HYBRID, "9:memory:/\n0::/\n", "/sys/fs/cgroup/unified"),
        (HYBRID, "0::/a b/c\n", "/sys/fs/cgroup/unified/a b/c"),
        (PURE, f"0::{UNIT}\n", f"/sys/fs/cgroup{UNIT}"),
        (CONTAINER, "0::/docker/abc\n", "/sys/fs/cgroup"),
        (CONTAINER, "0::/docker/abc/x\n", "/sys/fs/cgroup/x"),
        (CONTAINER, "0::/docker/abcdef\n", ""),
        (PURE, "0::/../sibling\n", ""),
        (PURE, "0::/gone (deleted)\n", ""),
        (HYBRID.splitlines()[0], "9:memory:/\n0::/\n", ""),
        (PURE, "9:memory:/\n", ""),
        ("", "0::/\n", ""),
    ],
)
def test_own_group_is_found_where_it_is_mounted(monkeypatch: pytest.MonkeyPatch, mounts: str, own: str, folder: str) -> None:
    told = {"/proc/self/mountinfo": mounts, "/proc/7/cgroup": own}
    monkeypatch.setattr(groups, "read_or_nothing", told.__getitem__)
    assert groups._folder_of("7") == folder


def test_groups_are_made_beside_that_of_our_own_services(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    services = tmp_path / groups.SERVICES
    services.mkdir()
    for folder in (tmp_path, services):
        (folder / "cgroup.procs").touch()
    monkeypatch.setattr(groups, "_folder_of", lambda pid: str(services))
    assert groups.parent_for() == str(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [groups.SERVICES, "cgroup.procs"]
    (tmp_path / "cgroup.procs").unlink()
    assert groups.parent_for() == ""


@pytest.mark.parametrize(
    ("path", "mark"),
    [
        (f"{UNIT}/autotrainer-uid.1.7", "uid.1.7"),
        (f"{UNIT}/autotrainer-uid.1.7/inner", "uid.1.7"),
        (f"{UNIT}/{groups.SERVICES}", ""),
        ("/system.slice/autotrainer-host.service", ""),
        ("/autotrainer-outer.1.1/autotrainer-inner.1.2", "inner.1.2"),
    ],
)
def test_process_is_known_by_its_group(monkeypatch: pytest.MonkeyPatch, path: str, mark: str) -> None:
    monkeypatch.setattr(groups, "read_or_nothing", lambda _: f"0::{path}\n")
    assert groups.mark_of(7) == mark


def test_memory_kills_are_none_where_nobody_counts_them(tmp_path: Path) -> None:
    group = Group(str(tmp_path))
    assert group.memory_kills() is None
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert group.memory_kills() == 2


def test_memory_is_counted_only_where_the_controller_is(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("")
    groups.count_memory(str(tmp_path))
    assert (tmp_path / "cgroup.subtree_control").read_text() == ""
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    groups.count_memory(str(tmp_path))
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"


def test_group_whose_state_cannot_be_read_is_not_empty(tmp_path: Path) -> None:
    group = Group(str(tmp_path))
    assert not group.populated()
    (tmp_path / "cgroup.events").mkdir()
    with pytest.raises(IsADirectoryError):
        group.populated()
