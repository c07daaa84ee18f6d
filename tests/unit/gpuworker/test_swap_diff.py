"""The difference that a swap makes: like diff -u, and bounded."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from gpuworker.hotswap import diff


def write(folder: Path, old: str | bytes | None, new: str | bytes) -> tuple[Path, Path]:
    paths = folder / "old", folder / "new"
    for path, text in zip(paths, (old, new), strict=True):
        if text is not None:
            path.write_bytes(text.encode() if isinstance(text, str) else text)
    return paths


def test_difference_names_the_lines_where_they_are(tmp_path: Path) -> None:
    lines = [f"line {i}\n" for i in range(1, 41)]
    changed = [*lines[:19], "other\n", *lines[20:]]
    text, note = diff.between(*write(tmp_path, "".join(lines), "".join(changed)), "a.py")
    assert note == ""
    assert text.splitlines()[2:] == [
        "@@ -17,7 +17,7 @@",
        " line 17",
        " line 18",
        " line 19",
        "-line 20",
        "+other",
        " line 21",
        " line 22",
        " line 23",
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("a\n", "a\n", "same as before"),
        (b"\xff", "a", "not text"),
        ("a\0b", "a", "not text"),
        ("x" * (diff.LARGEST_FILE + 1), "a", "too large"),
    ],
)
def test_nothing_to_show_is_said(tmp_path: Path, old: str | bytes, new: str, said: str) -> None:
    text, note = diff.between(*write(tmp_path, old, new), "a.py")
    assert text == ""
    assert said in note


def test_everything_is_new_where_there_was_no_file(tmp_path: Path) -> None:
    text, _ = diff.between(*write(tmp_path, None, "a\nb"), "a.py")
    assert text.splitlines()[2:] == ["@@ -0,0 +1,2 @@", "+a", "+b"]


def test_difference_is_cut_and_says_so(tmp_path: Path) -> None:
    text, _ = diff.between(*write(tmp_path, "", "word\n" * 50_000), "a.py")
    assert len(text.encode()) <= diff.LARGEST_DIFF + len(diff.CUT.encode())
    assert text.endswith(diff.CUT)


def test_files_without_a_line_in_common_take_no_time(tmp_path: Path) -> None:
    old, new = "".join(f"a{i}\n" for i in range(30_000)), "".join(f"b{i}\n" for i in range(30_000))
    text, _ = diff.between(*write(tmp_path, old, new), "a.py")
    assert text.splitlines()[2] == "@@ -1,30000 +1,30000 @@"


@pytest.mark.skipif(not shutil.which("patch"), reason="patch is missing")
def test_difference_makes_the_new_file_of_the_old_one(tmp_path: Path) -> None:
    source = random.Random(5)
    for _ in range(20):
        old = [f"{source.randrange(9)}\n" for _ in range(60)]
        new = [line for line in old if source.random() > 0.1]
        for _ in range(4):
            new.insert(source.randrange(len(new) + 1), "new\n")
        text = "".join(diff.unified(old, new, "a.py"))
        path = tmp_path / "patched"
        path.write_text("".join(old))
        subprocess.run(["patch", "-s", str(path)], input=text, text=True, check=True)
        assert path.read_text() == "".join(new)
