"""Tests about tests: they wait for what they want to see, never for time to pass."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.house.sources import CHECKOUT, python_files, shown

MAY_SLEEP = {CHECKOUT / "tests" / "waiting.py"}
TRAINEES = CHECKOUT / "tests" / "programs"
"""Programs that the tests submit as jobs; a training may sleep."""


def sleeps(path: Path) -> list[int]:
    """Lines with a call of something called `sleep`."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if (getattr(call.func, "attr", "") or getattr(call.func, "id", "")) == "sleep"]


def test_tests_do_not_sleep() -> None:
    paths = [path for path in python_files("tests") if path not in MAY_SLEEP and TRAINEES not in path.parents]
    assert {shown(path): at for path in paths if (at := sleeps(path))} == {}
