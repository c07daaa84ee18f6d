"""`python -m gpuworker.shim.swaps.probe FOLDER`: whether an overlay works here, tried in an empty folder. Prints why not."""

from __future__ import annotations

import os
import sys

from gpuworker.shim.swaps import namespace


def why_not(folder: str) -> str:
    """Empty where it works. The process is in a namespace of its own afterwards."""
    os.chdir(folder)
    for name in ("old", "new"):
        with open(name, "w") as file:
            file.write(name)
    there = os.stat("old")
    try:
        namespace.enter()
        namespace.overlay(folder, [("new", "old", (there.st_dev, there.st_ino))])
    except OSError as exc:
        return str(exc.strerror or exc)
    with open("old") as file:
        return "" if file.read() == "new" else "a mount has no effect here"


if __name__ == "__main__":
    print(why_not(sys.argv[1]))
