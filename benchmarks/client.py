"""Submitting over REST on one kept-alive connection, as a program that has many jobs does."""

from __future__ import annotations

import http.client
import json
import shlex
import time
from typing import Any

from benchmarks.payload import Broken
from tests.e2e.product import Product

IDLE_S = 2.0
"""After this a server may have given the connection up; the next request opens a new one."""


class Client:
    def __init__(self, product: Product) -> None:
        self._work = str(product.work)
        self._connection = http.client.HTTPConnection("127.0.0.1", product.port, timeout=30)
        self._headers = {"Authorization": f"Bearer {product.token}", "Content-Type": "application/json"}
        self._used_at = time.monotonic()
        self.last_id = 0

    def submit(self, argv: list[str], **fields: Any) -> None:
        """Submit a command for one device; `last_id` is its number. Where the server asks to wait, it waits."""
        job = {"name": "no-op", "command": shlex.join(argv), "working_dir": self._work, "min_gpus": 1, "max_gpus": 1} | fields
        status, answer = self._call("POST", "jobs/", job)
        while status == 429:
            time.sleep(0.01)
            status, answer = self._call("POST", "jobs/", job)
        if status != 201:
            raise Broken(f"submit answered {status}: {answer}")
        self.last_id = answer["id"]

    def settled(self) -> None:
        """Wait until the product has noticed the end of the job that was submitted last."""
        self.reaches("completed")

    def reaches(self, state: str) -> None:
        deadline = time.monotonic() + 20
        while self._call("GET", f"jobs/{self.last_id}/")[1]["state"] != state:
            if time.monotonic() > deadline:
                raise Broken(f"job {self.last_id} is not {state} after 20 s")
            time.sleep(0.02)

    def _call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        if time.monotonic() - self._used_at > IDLE_S:
            self._connection.close()
        self._connection.request(method, f"/api/v1/{path}", None if body is None else json.dumps(body), self._headers)
        answer = self._connection.getresponse()
        data, self._used_at = answer.read(), time.monotonic()
        return answer.status, json.loads(data or b"null")
