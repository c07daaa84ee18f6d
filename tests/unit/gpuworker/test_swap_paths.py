"""Where a target is: beneath its directory and through no link, with openat2 and without."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpuworker.shim.swaps import paths
from gpuworker.shim.swaps.paths import BadTarget

Open = Callable[[int, str, int], int]


@pytest.fixture(params=[paths.open_beneath, paths.open_step_by_step], ids=["openat2", "step by step"])
def opened(request: pytest.FixtureRequest) -> Open:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    base = tmp_path / "base"
    (base / "a" / "b").mkdir(parents=True)
    (base / "a" / "b" / "file").write_text("x")
    (tmp_path / "outside").write_text("secret")
    (base / "out").symlink_to(tmp_path)
    (base / "in").symlink_to("a")
    (base / "self").symlink_to("/proc/self/root")
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_plain_path_is_opened(root: int, opened: Open) -> None:
    fd = opened(root, "a/b/file", os.O_RDONLY)
    assert os.read(fd, 10) == b"x"
    os.close(fd)


@pytest.mark.parametrize(
    ("path", "codes"),
    [
        ("out/outside", {errno.ELOOP, errno.ENOTDIR}),
        ("in/b/file", {errno.ELOOP, errno.ENOTDIR}),
        ("self/etc/passwd", {errno.ELOOP, errno.ENOTDIR}),
        ("../outside", {errno.EXDEV}),
        ("a/../../outside", {errno.EXDEV}),
        ("/etc/passwd", {errno.EXDEV}),
        ("a/none", {errno.ENOENT}),
    ],
)
def test_way_that_leads_out_or_through_a_link_is_not_gone(root: int, opened: Open, path: str, codes: set[int]) -> None:
    with pytest.raises(OSError, match=r".") as caught:
        opened(root, path, os.O_RDONLY)
    assert caught.value.errno in codes


def test_place_tells_what_is_there_and_what_is_missing(root: int) -> None:
    there, deep = paths.locate(root, "a/b/file"), paths.locate(root, "a/x/y/file")
    assert (there.name, there.missing, there.found is None) == ("file", (), False)
    assert (deep.name, deep.missing, deep.found) == ("file", ("x", "y"), None)
    assert os.path.samestat(os.fstat(deep.folder), os.stat("a", dir_fd=root))
    there.close()
    deep.close()


@pytest.mark.parametrize("target", ["", "/a", "a/", "a//b", "./a", "a/./b", "..", "a/../b", "a\0b"])
def test_target_that_is_not_plain_is_refused(root: int, target: str) -> None:
    with pytest.raises(BadTarget):
        paths.locate(root, target)
