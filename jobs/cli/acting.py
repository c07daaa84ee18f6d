"""`cancel`, `retry`, `hold`, `release` and `wait`."""

from __future__ import annotations

import argparse
import sys
import time

from . import tables, values, words
from .connect import connect
from .errors import CliError, NotFound, Unreachable
from .looking import one_job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .api import Api
    from .main import Run

    Job = dict[str, Any]

POLL_S, SLOW_POLL_S = 0.5, 2.0


def _takes_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("jobs", type=values.job_ids, nargs="+", metavar="ID", help="numbers of jobs")
    parser.add_argument("--json", action="store_true", help="the API's own objects, as a list")


def _numbers(options: argparse.Namespace) -> list[int]:
    return list(dict.fromkeys(number for some in options.jobs for number in some))


# --- one action for several jobs ----------------------------------------------------------------------------------------


def _each(action: str, said: Callable[[int, Job], str]) -> Callable[[argparse.ArgumentParser], Run]:
    def add(parser: argparse.ArgumentParser) -> Run:
        _takes_jobs(parser)
        if action == "resubmit":
            parser.add_argument("--parsable", action="store_true", help="print only the new numbers")
        return lambda options: _do_each(options, action, said)

    return add


def _do_each(options: argparse.Namespace, action: str, said: Callable[[int, Job], str]) -> int:
    """All of them are tried; the exit code is that of the first that was refused."""
    code = 0
    with connect() as api:
        done: list[Job] = []
        for number in _numbers(options):
            try:
                job = _act(api, action, number)
            except Unreachable:
                raise
            except CliError as exc:
                print(exc, file=sys.stderr)
                code = code or exc.exit_code
                continue
            done.append(job)
            if not options.json:
                print(job["id"] if getattr(options, "parsable", False) else said(number, job), flush=True)
        if options.json:
            tables.print_json(done)
        return code


def _act(api: Api, action: str, number: int) -> Job:
    try:
        job: Job = api.post(f"jobs/{number}/{action}/")
    except NotFound:
        raise NotFound(f"There is no job {number}.") from None
    except CliError as exc:
        text = str(exc)
        raise type(exc)(text if str(number) in text else f"Job {number}: {text}") from None
    return job


def submitted(job: Job) -> str:
    """The sentence of `submit`."""
    # Queued without a position: it was first, and has left the queue while the answer was written.
    place = f"position {job['queue_position'] or 1}" if job["state"] == "queued" else job["state"]
    return f"Submitted job {job['id']} ({place})"


# --- wait ---------------------------------------------------------------------------------------------------------------


def _wait(parser: argparse.ArgumentParser) -> Run:
    _takes_jobs(parser)
    return _do_wait


def _do_wait(options: argparse.Namespace) -> int:
    """0 if all of them completed, 1 if not, 3 if one of them does not exist."""
    from .api import PATIENT_S

    with connect() as api:
        numbers = _numbers(options)
        jobs: dict[int, Job] = {}
        waiting, began = numbers, time.monotonic()
        while True:
            for number in waiting:
                jobs[number] = one_job(api, number)
                if words.over(jobs[number]) and not options.json:
                    _print_end(jobs[number])
            api.patience_s = PATIENT_S  # Once it is known that all exist and that the server is there.
            waiting = [number for number in waiting if not words.over(jobs[number])]
            if not waiting:
                break
            time.sleep(POLL_S if time.monotonic() - began < 60 else SLOW_POLL_S)
        if options.json:
            tables.print_json([jobs[number] for number in numbers])
        return 0 if all(job["state"] == "completed" for job in jobs.values()) else 1


def _print_end(job: Job) -> None:
    if tables.is_terminal():
        print(words.sentence(job), flush=True)
    else:
        print(f"{job['id']}\t{job['state']}\t{words.why(job) or '-'}", flush=True)


PARSERS = {
    "cancel": _each("cancel", lambda number, job: f"Job {number} is {'ending' if job['state'] == 'stopping' else job['state']}."),
    "hold": _each("hold", lambda number, _: f"Job {number} is held."),
    "release": _each("release", lambda number, job: f"Job {number} is {job['state']}."),
    "retry": _each("resubmit", lambda number, job: f"{submitted(job)}, a copy of job {number}"),
    "wait": _wait,
}
