"""Functions and modules stay small enough to be read at one sitting."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.house.sources import CHECKOUT, PACKAGES, python_files, shown

LONGEST_FUNCTION = 59
LONGEST_MODULE = 499
LONGEST_SHIM = 1050
"""Lines of what runs in a shim, without the blank ones: what must outlive everything else must be readable whole."""
ZYGOTE = {"gpuworker/shim/__main__.py", "gpuworker/shim/zygote.py", "gpuworker/shim/rehearsal.py"}
LONGEST_SWAPS = 800
"""The same for gpuworker/shim/swaps, which only jobs with swaps come through."""


def ours() -> list[Path]:
    return [*python_files(*PACKAGES, "benchmarks"), *sorted(CHECKOUT.glob("*.py"))]


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length in lines of each function in a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_functions_are_short() -> None:
    long = {f"{shown(path)}: {name}": size for path in ours() for name, size in functions(path) if size > LONGEST_FUNCTION}
    assert long == {}


def test_modules_are_short() -> None:
    assert {shown(path): lines(path) for path in ours() if lines(path) > LONGEST_MODULE} == {}


def test_shim_stays_small() -> None:
    sizes = {shown(path): sum(1 for line in path.read_text().splitlines() if line.strip()) for path in python_files("gpuworker/shim")}
    swaps = {path: size for path, size in sizes.items() if path.startswith("gpuworker/shim/swaps/")}
    assert sum(swaps.values()) <= LONGEST_SWAPS, swaps
    assert sum(size for path, size in sizes.items() if path not in swaps and path not in ZYGOTE) <= LONGEST_SHIM, sizes
