"""`logs`."""

from __future__ import annotations

import argparse
import sys

from . import tables, values, words
from .connect import connect
from .errors import NotFound
from .looking import one_job
from .safe import Safe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .api import Api
    from .main import Run

BACKWARDS_BYTES = 64 * 1024


class Output:
    """Where a log goes: untouched into files and pipes and with --raw, made safe on a terminal."""

    def __init__(self, *, raw: bool = False) -> None:
        self._safe = None if raw or not tables.is_terminal() else Safe(colours=tables.coloured())

    def write(self, data: bytes) -> None:
        if self._safe is None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        else:
            self._print(self._safe.feed(data))

    def close(self) -> None:
        if self._safe is not None:
            self._print(self._safe.end())

    def _print(self, text: str) -> None:
        sys.stdout.buffer.write(text.encode(sys.stdout.encoding or "utf-8", "replace"))
        sys.stdout.buffer.flush()


def _logs(parser: argparse.ArgumentParser) -> Run:
    parser.add_argument("job", type=values.job_id, metavar="ID")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the job is over")
    parser.add_argument("-n", "--lines", type=values.whole, metavar="N", help="only the last N lines of what there is")
    parser.add_argument("--attempt", type=values.positive, metavar="K", help="which attempt (the latest; with -f also those after it)")
    parser.add_argument("--raw", action="store_true", help="every byte as it was written, on a terminal too")
    return _do_logs


def _do_logs(options: argparse.Namespace) -> int:
    with connect() as api:
        output = Output(raw=options.raw)
        try:
            _read(api, options, output)
        except NotFound:
            one_job(api, options.job)  # says so, if it is the job that is not there
            raise NotFound(f"Job {options.job} has no attempt {options.attempt}.") from None
        finally:
            output.close()
        return 0


def _read(api: Api, options: argparse.Namespace, output: Output) -> None:
    from . import following

    attempt = options.attempt or 0
    begin = 0 if options.lines is None else _last_lines(api, options.job, attempt, options.lines)
    if options.follow and attempt:
        following.follow_attempt(api, options.job, attempt, output.write, offset=begin)
    elif options.follow:
        following.follow_job(api, options.job, output.write, offset=begin)
    else:
        end = begin
        for data, end in following.stored(api, options.job, attempt, begin):  # noqa: B007 - the last one counts
            output.write(data)
        if not end:
            _tell_nothing(api, options.job)


def _tell_nothing(api: Api, job_id: int) -> None:
    """Why there is no output: on stderr, since it is none."""
    job = one_job(api, job_id)
    print(words.sentence(job) if not words.over(job) else f"Job {job_id} has printed nothing.", file=sys.stderr)


def _last_lines(api: Api, job_id: int, attempt: int, lines: int) -> int:
    """Where the last lines begin: reads backwards from the end, so that the length of the log does not count."""
    end = size = api.log(job_id, attempt, 0, 1).size
    left = lines + 1
    while end > 0 and lines:
        begin = max(0, end - BACKWARDS_BYTES)
        piece = api.log(job_id, attempt, begin, end - begin)
        data = piece.data[: max(0, end - piece.begin)]
        if end == size and not data.endswith(b"\n"):
            left -= 1  # an unfinished line is one too
        found = data.count(b"\n")
        if found >= left:
            at = len(data)
            for _ in range(left):
                at = data.rindex(b"\n", 0, at)
            return piece.begin + at + 1
        if piece.cut:
            return piece.begin
        left -= found
        end = begin
    return 0 if lines else size


PARSERS = {"logs": _logs}
