"""A stored log as one file: the browser's download of it, however long it is, and of a part of it by `Range`.

Read piece by piece as it is taken, so that a gigabyte needs no more memory than a line. Where the middle of the log was cut
out, a line in its place says so; the positions of `Range` are those of this file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse
from rest_framework.request import Request

from gpuworker.disks import Cut
from jobs import logs
from jobs.api.base import streamed

_RANGE = re.compile(r"bytes=(?:(?P<first>\d{1,18})-(?P<last>\d{0,18})|-(?P<rest>\d{1,18}))")


@dataclass(frozen=True, slots=True)
class LogFile:
    """A log as it is now; what is appended meanwhile is not in it."""

    job_id: int
    number: int
    stored: int
    cut: Cut | None

    @property
    def notice(self) -> bytes:
        return f"\n{logs.cut_line(self.cut.end - self.cut.begin)}\n".encode() if self.cut else b""

    @property
    def size(self) -> int:
        return self.stored - (self.cut.end - self.cut.begin if self.cut else 0) + len(self.notice)

    @property
    def etag(self) -> str:
        return f'"{self.job_id}-{self.number}-{self.stored}-{self.cut.end - self.cut.begin if self.cut else 0}"'

    def read(self, begin: int, end: int) -> Iterator[bytes]:
        """The bytes from `begin` to `end` of the file; fewer where the log loses some of them meanwhile."""
        while begin < end:
            data = self._piece(begin, min(end - begin, logs.PIECE_BYTES))
            if not data:
                return
            begin += len(data)
            yield data

    def _piece(self, begin: int, count: int) -> bytes:
        if self.cut is None or begin < self.cut.begin:
            return self._stored(begin, min(count, self.cut.begin - begin) if self.cut else count)
        behind = begin - self.cut.begin - len(self.notice)
        if behind < 0:
            return self.notice[len(self.notice) + behind :][:count]
        return self._stored(self.cut.end + behind, count)

    def _stored(self, offset: int, count: int) -> bytes:
        found = logs.piece(self.job_id, self.number, offset, count)
        return found.data if found.offset == offset else b""  # it was cut out meanwhile


def download(request: Request, job_id: int, number: int) -> HttpResponseBase:
    """The whole file of an attempt's log, or the part that `Range` asks for."""
    file = LogFile(job_id, number, logs.size(job_id, number), logs.cut_of(job_id, number))
    wanted = _wanted(request, file)
    if wanted is None:
        return HttpResponse(status=416, headers={"Content-Range": f"bytes */{file.size}", **_headers(file)})
    begin, end = wanted
    partial = end - begin < file.size
    headers = {"Content-Length": str(end - begin), **_headers(file)}
    if partial:
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{file.size}"
    pieces = file.read(begin, end) if request.method == "GET" else iter(())
    status, kind = (206 if partial else 200), "application/octet-stream"
    return StreamingHttpResponse(streamed(request, pieces), status=status, content_type=kind, headers=headers)


def _headers(file: LogFile) -> dict[str, str]:
    name = f"job-{file.job_id}-attempt-{file.number}.log"
    return {"Accept-Ranges": "bytes", "ETag": file.etag, "Content-Disposition": f'attachment; filename="{name}"'}


def _wanted(request: Request, file: LogFile) -> tuple[int, int] | None:
    """From where to where; all of it where no single range is asked for, or of another file; None where the range has nothing."""
    asked = _RANGE.fullmatch(request.headers.get("Range", ""))
    if asked is None or request.headers.get("If-Range", file.etag) != file.etag:
        return 0, file.size
    if asked["rest"]:
        begin, end = max(0, file.size - int(asked["rest"])), file.size
    else:
        begin, end = int(asked["first"]), min(file.size, int(asked["last"] or file.size) + 1)
        if asked["last"] and int(asked["last"]) < begin:
            return 0, file.size
    return (begin, end) if begin < end else None
