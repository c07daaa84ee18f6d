"""Calls that may hang in the kernel for ever, made so that their caller does not."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

T = TypeVar("T")


class Hanging(Exception):
    """The call has not come back; `for_s` says since when its thread has been stuck."""

    def __init__(self, for_s: float) -> None:
        super().__init__(f"hanging for {for_s:.0f} s")
        self.for_s = for_s


class PatientThread:
    """One thread makes all calls, one after the other. It is a daemon and the only one: a stuck call costs no second thread,
    later callers are told at once, and when it comes back everything goes on.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._busy_since: float | None = None

    def call(self, function: Callable[[], T], timeout_s: float) -> T:
        """The function's answer, or what it raised, or Hanging after `timeout_s`."""
        self._ensure_thread()
        since = self._busy_since
        if since is not None and time.monotonic() - since > timeout_s:
            raise Hanging(time.monotonic() - since)
        answer: Future[T] = Future()
        self._calls.put((function, answer))
        try:
            return answer.result(timeout_s)
        except TimeoutError:
            answer.cancel()
            since = self._busy_since
            raise Hanging(timeout_s if since is None else time.monotonic() - since) from None

    def _ensure_thread(self) -> None:
        with self._start_lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()

    def _serve(self) -> None:
        while True:
            function, answer = self._calls.get()
            if answer.cancelled():
                continue
            self._busy_since = time.monotonic()
            try:
                result, fault = function(), None
            except Exception as exc:
                result, fault = None, exc
            self._busy_since = None
            try:
                answer.set_result(result) if fault is None else answer.set_exception(fault)
            except InvalidStateError:
                pass  # Its caller has given up.
