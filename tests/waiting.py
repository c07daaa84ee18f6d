"""The one way to wait in a test: a deadline, and what was last seen when it passes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], timeout_s: float = 10.0, what: str = "", *, every_s: float = 0.02) -> T:
    """The first truthy answer of `predicate`; AssertionError with the last answer after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        last = predicate()
        if last:
            return last
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what or predicate}; last seen: {last!r}")
        time.sleep(every_s)
