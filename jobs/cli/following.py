"""Logs, exact to the byte, and followed across attempts, broken connections and restarts of the server."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

from . import words
from .api import PATIENT_S, Api, Broken, Patience
from .looking import one_job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Job = dict[str, Any]

POLL_S = 0.3
SLOW_POLL_S = 1.0
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

Write = Callable[[bytes], None]


def tell(text: str) -> None:
    """Beside the log, not in it."""
    print(text, file=sys.stderr, flush=True)


def stored(api: Api, job_id: int, attempt: int, offset: int = 0) -> Iterator[tuple[bytes, int]]:
    """What there is of a log now, in pieces, each with the offset after it."""
    size = offset + 1
    while offset < size:
        piece = api.log(job_id, attempt, offset)
        if piece.cut:
            _tell_cut(*piece.cut)
        size = piece.size
        if piece.end == offset:
            return
        offset = piece.end
        yield piece.data, offset


def _tell_cut(begin: int, end: int) -> None:
    tell(f"[Bytes {begin} to {end} are not stored: the log was over its limit.]")


def follow_job(api: Api, job_id: int, write: Write, *, say: Callable[[str], None] = tell, offset: int = 0) -> Job:
    """Write the log of the latest attempt and of all after it, until the job is over; answers with the job."""
    api.patience_s = PATIENT_S
    job = _until_started(api, job_id, say)
    number = job["attempts"][-1]["number"] if job["attempts"] else 0
    while number:
        follow_attempt(api, job_id, number, write, offset=offset)
        job, offset = _until_settled(api, job_id, number, say), 0
        number = min(_later(job, number), default=0)
    return job


def _later(job: Job, number: int) -> list[int]:
    return [attempt["number"] for attempt in job["attempts"] if attempt["number"] > number]


def _until_started(api: Api, job_id: int, say: Callable[[str], None]) -> Job:
    """Until it has an attempt, or is over without one. Says why it waits, whenever that changes."""
    began, told = time.monotonic(), ""
    while True:
        job = one_job(api, job_id)
        if job["attempts"] or words.over(job):
            return job
        now = words.sentence(job)
        if now != told and job["wait_reason"]:
            say(now)
            told = now
        time.sleep(POLL_S if time.monotonic() - began < 10 else SLOW_POLL_S)


def _until_settled(api: Api, job_id: int, number: int, say: Callable[[str], None]) -> Job:
    """Until the job is over or has another attempt than this one, which has ended."""
    told = False
    while True:
        job = one_job(api, job_id)
        if _later(job, number) or words.over(job):
            return job
        ended = next((attempt for attempt in job["attempts"] if attempt["number"] == number and attempt["outcome"]), None)
        if ended and not told:
            told = True
            say(f"Attempt {number} ended ({words.ending(ended)}); the job starts again.")
        time.sleep(POLL_S if not told else SLOW_POLL_S)


def follow_attempt(api: Api, job_id: int, attempt: int, write: Write, *, offset: int = 0) -> None:
    """Write one attempt's log from `offset` on, until the attempt is over."""
    for data, end in stored(api, job_id, attempt, offset):
        write(data)
        offset = end
    for data in _live(api, job_id, attempt, offset):
        write(data)


def _live(api: Api, job_id: int, attempt: int, offset: int) -> Iterator[bytes]:
    """The bytes after `offset` as they come. A broken stream is taken up where it broke; only what was yielded counts."""
    patience = Patience(api.server.url, PATIENT_S)
    while True:
        events = api.stream(job_id, attempt, offset)
        try:
            kind, end, data = next(events, ("", 0, None))
            while kind and kind != "end":
                patience.reset()
                if kind == "log":
                    yield from _exactly(api, job_id, attempt, offset, end, str(data))
                elif kind == "cut":
                    _tell_cut(offset, end)
                offset = max(offset, end)
                kind, end, data = next(events, ("", 0, None))
        except Broken as exc:
            patience.again(exc)
            continue
        finally:
            events.close()
        if kind == "end":
            if data and data.get("complete") is False:
                tell("The end of the log has not arrived; it may come later.")
            return
        patience.again(ConnectionResetError("the stream broke off"))


def _exactly(api: Api, job_id: int, attempt: int, begin: int, end: int, text: str) -> Iterator[bytes]:
    """The bytes of one event. Its text has U+FFFD for what is not UTF-8; only then they are fetched as they were written."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data) == end - begin and _REPLACEMENT not in text:
        yield data
        return
    while begin < end:
        piece = api.log(job_id, attempt, begin, end - begin)
        if piece.end == begin:
            return
        begin = piece.end
        yield piece.data
