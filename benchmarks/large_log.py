"""What a log of a gigabyte costs its page: `python -m benchmarks --large-log`. About two minutes.

The product as a user starts it, and a job whose stored log is replaced by a long one: coloured lines, now and then a bar that
moves up, a traceback at the end. Each thing that a reader does is done once before anything of it is known, and then again.
"""

from __future__ import annotations

import http.client
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from benchmarks.measure import percentile, pss
from benchmarks.payload import Broken
from tests.e2e.product import Product

SIZE_MB = 1000
TAIL, BLOCK = 128 * 1024, 256 * 1024
"""What the page's script asks for: the end first, earlier lines in blocks."""
AGAIN = 10
TRACEBACK = b"Traceback (most recent call last):\n  File \"train.py\", line 88, in <module>\n    main()\nKeyError: 'lr'\n"


@dataclass
class Reader:
    """A browser that is signed in; `mb` is the most that the web process had after an answer."""

    product: Product
    job: int
    web: int
    cookie: str = ""
    mb: float = 0.0
    found: dict[str, dict[str, float]] = field(default_factory=dict)

    def get(self, path: str, **headers: str) -> tuple[int, int, bytes]:
        """Status, size and beginning of an answer that is read to its end."""
        connection = http.client.HTTPConnection("127.0.0.1", self.product.port, timeout=120)
        connection.request("GET", path, headers={"Host": "localhost", "Cookie": self.cookie, **headers})
        answer = connection.getresponse()
        data, size = answer.read(BLOCK), 0
        while more := answer.read(BLOCK):
            size += len(more)
        connection.close()
        self.mb = max(self.mb, pss(self.web) or 0)
        if answer.status not in (200, 206, 286):
            raise Broken(f"{path} answered {answer.status}: {data[:200]!r}")
        return answer.status, size + len(data), data

    def time(self, what: str, path: str, *, again: int = AGAIN, **headers: str) -> None:
        took, size = [], 0
        for _ in range(1 + again):
            began = time.perf_counter()
            size = self.get(path, **headers)[1]
            took.append((time.perf_counter() - began) * 1000)
        self.found[what] = {"first_ms": took[0], "again_ms": percentile(took[1:], 50), "bytes": size}


def run(folder: Path, scale: float) -> dict[str, Any]:
    (folder / "one").mkdir()
    with Product(folder / "one", devices="sim:1x24GiB") as product:
        job = product.submit("echo begun; exit 3", min_gpus=0, max_gpus=0)["id"]
        product.wait(job, "failed")
        product.log(job)  # all of it has come: nothing more is written there
        path = product.home / "logs" / str(job) / "1.log"
        size = _write(path, round(SIZE_MB * scale))
        (web,) = product.pids("web")
        reader = Reader(product, job, web)
        reader.cookie = _signed_in(product)
        reader.get("/jobs/")
        before_mb = pss(web)
        _read(reader, size)
        return {"size": size, "found": reader.found, "web_mb": {"before": before_mb, "most": reader.mb}}


def _read(reader: Reader, size: int) -> None:
    page, log = f"/jobs/{reader.job}/", f"/api/v1/jobs/{reader.job}/log/?attempt=1"
    reader.time("the job's page", page)
    reader.time("the end of the log", f"{log}&offset={size - TAIL}&limit={TAIL}")
    reader.time("earlier lines", f"{log}&offset={size - TAIL - BLOCK}&limit={BLOCK}")
    reader.time("the number of the last line", f"{page}log/lines/?attempt=1&offset={size - TAIL}")
    reader.time("where a line is", f"{page}log/lines/?attempt=1&line=1000000")
    for what, text in (("a common word", "loss"), ("the error at the end", "KeyError: 'lr'"), ("what is not there", "nothing-like-it")):
        reader.time(f"search: {what}, one answer", f"{page}log/find/?{urlencode({'attempt': 1, 'q': text})}", again=2)
    reader.time("a megabyte by Range", f"{log}&format=file", Range=f"bytes={size // 2}-{size // 2 + 2**20 - 1}")
    reader.time("the whole as a file", f"{log}&format=file", again=1)


def _write(path: Path, megabytes: int) -> int:
    lines = [
        b"\x1b[32m2026-11-26 12:%02d:%02d\x1b[0m INFO step \x1b[1m%d\x1b[0m loss: %.4f lr: 3e-4\n"
        % (n // 60 % 60, n % 60, n, n % 997 / 997)
        + (b"  inner bar %d%%\n\x1b[1A" % (n % 100) if n % 50 == 0 else b"")
        for n in range(200_000)
    ]
    block = b"".join(lines)
    with path.open("wb") as file:
        for _ in range(max(1, megabytes * 10**6 // len(block))):
            file.write(block)
        file.write(TRACEBACK)
        return file.tell()


def _signed_in(product: Product) -> str:
    """The cookie of a browser that has followed a sign-in link."""
    connection = http.client.HTTPConnection("127.0.0.1", product.port, timeout=20)
    connection.request("GET", urlsplit(product.sign_in_link()).path, headers={"Host": "localhost"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return "; ".join(value.partition(";")[0] for name, value in answer.getheaders() if name.lower() == "set-cookie")


def table(result: dict[str, Any]) -> str:
    title = f"a log of {result['size'] / 10**6:,.0f} MB"
    lines = [f"{title:<46}{'first':>12}{'again':>12}{'kB':>12}"]
    lines += [
        f"{what:<46}{found['first_ms']:>9.0f} ms{found['again_ms']:>9.0f} ms{found['bytes'] / 1000:>12,.0f}"
        for what, found in result["found"].items()
    ]
    mb = result["web_mb"]
    lines.append(f"\nmemory (PSS) of the web process: {mb['before']:.1f} MB before, {mb['most']:.1f} MB at most")
    return "\n".join(lines)
