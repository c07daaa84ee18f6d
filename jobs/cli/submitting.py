"""`submit` and `run`."""

from __future__ import annotations

import argparse
import os
import sys

from . import values, words
from .acting import submitted
from .connect import connect
from .errors import NotFound, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .api import Api
    from .main import Run

    Job = dict[str, Any]


def _submit(parser: argparse.ArgumentParser) -> Run:
    _describe(parser)
    parser.add_argument("--parsable", action="store_true", help="print only the number of the job")
    parser.add_argument("-f", "--follow", action="store_true", help="show its output, and exit with its exit code, as `run` does")
    parser.add_argument("--json", action="store_true", help="print the API's own object")
    _command(parser)
    return _do_submit


def _run(parser: argparse.ArgumentParser) -> Run:
    _describe(parser)
    _command(parser)
    return _do_run


def _command(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [OPTION …] -- COMMAND …"
    parser.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND …",
        help="one word: given to the shell as it stands; several: a program and its arguments, quoted for the shell",
    )


def _describe(parser: argparse.ArgumentParser) -> None:
    """The options that describe a job. `dest` is the field of the API where one option fills one field as it is."""
    add = parser.add_argument
    add("--template", metavar="NAME", help="begin with what you have kept under this name; other options and a command go before it")
    add("-g", "--gpus", type=values.gpus, metavar="N|MIN-MAX", help="how many GPUs (1)")
    add("-n", "--name", help="its name (the beginning of the command)")
    add("-C", "--directory", dest="working_dir", type=values.directory, metavar="DIR", help="where it runs (here)")
    add("-e", "--env", type=values.variable, action="append", metavar="K=V", help="a variable for it; K alone: as it is here")
    add("--retries", dest="max_retries", type=values.whole, metavar="N", help="start it again up to N times when it fails")
    add(
        "--retry-delay",
        dest="retry_delay_s",
        type=values.seconds,
        metavar="TIME",
        help="before the first of them (30s), then twice as long",
    )
    add("--no-retry-on-oom", dest="retry_on_oom", action="store_false", default=None, help="but not when it ran out of GPU memory")
    add("--time", dest="time_limit_s", type=values.seconds, metavar="TIME", help="end it after so long: 90s, 30m, 2h, 1d12h")
    add("--min-mem", dest="gpu_memory_mib", type=values.mib, metavar="SIZE", help="free memory that each GPU must have: 20G")
    add("--priority", type=int, metavar="P", help="higher first (0)")
    add("--host", dest="hosts", type=values.words, action="extend", metavar="H", help="only on this host; again for more")
    add("--after", type=values.job_ids, action="extend", metavar="ID", help="only when this job has completed; again for more")
    add("--begin", dest="begin_at", type=values.moment, metavar="WHEN", help="not before: 2027-01-31T18:00 (the lab's time), or +2h")
    add("--hold", action="store_true", default=None, help="keep it from starting until it is released")
    add("--shared", action="store_true", default=None, help="it may share its GPU with other such jobs")
    add("--swap", dest="swaps", type=values.swap, action="append", metavar="TARGET=SOURCE", help="replace a file for this job only")
    add("--artifact", dest="artifacts", action="append", metavar="GLOB", help="files it leaves to be shown and mailed; again for more")
    add("--notify", type=values.words, action="extend", metavar="MAIL", help="who is told how it went; again for more")
    add("--environment", type=values.directory, metavar="DIR", help="a venv or conda prefix on the host: its programs come first")
    add("--this-environment", action="store_true", help="the one that is active here")
    add("--on-host-loss", dest="on_host_loss", choices=("wait", "requeue"), help="what becomes of it when its host falls silent")


FIELDS = (
    *("name", "working_dir", "max_retries", "retry_delay_s", "time_limit_s", "gpu_memory_mib", "priority", "hosts", "after"),
    *("begin_at", "hold", "shared", "swaps", "artifacts", "notify", "environment", "on_host_loss", "retry_on_oom"),
)
"""Options that are fields of the API under the same name."""


def body(options: argparse.Namespace, kept: Job | None = None) -> Job:
    """The submission; raises UsageError. What neither options nor `kept`, a template's fields, say is left to the server's defaults."""
    command = values.command(options.command)
    given: Job = {name: getattr(options, name) for name in FIELDS if getattr(options, name) is not None}
    if options.gpus is not None:
        given["min_gpus"], given["max_gpus"] = options.gpus
    if options.env:
        given["env"] = (kept or {}).get("env", {}) | dict(options.env)
    if options.this_environment:
        given["environment"] = _active_environment(options)
    fields = (kept or {}) | given | ({"command": command} if command.strip() else {})
    if not fields.get("command"):
        raise UsageError("The command is missing: write it after `--`.")
    if "working_dir" not in fields:
        fields["working_dir"] = _here()
    return fields


def _submission(api: Api, options: argparse.Namespace) -> Job:
    return body(options, _kept(api, options.template) if options.template is not None else None)


def _kept(api: Api, name: str) -> Job:
    """The fields of one's template; raises NotFound with the names that there are."""
    for template in api.get("templates/", name=name)["results"] if name else ():
        fields: Job = template["fields"]
        return fields
    there, _count = api.pages("templates/")
    known = ", ".join(repr(str(each["name"])) for each in there)
    raise NotFound(f"You have no template {name!r}: " + (f"there is {known}." if known else "make one on the page for new jobs."))


def _here() -> str:
    try:
        return values.here()
    except argparse.ArgumentTypeError as exc:
        raise UsageError(str(exc)) from None


def _active_environment(options: argparse.Namespace) -> str:
    if options.environment is not None:
        raise UsageError("--environment and --this-environment say the same thing in two ways: keep one of them.")
    found = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    if not found:
        raise UsageError("No venv or conda environment is active here: activate it, or name it with --environment.")
    return found


def _do_submit(options: argparse.Namespace) -> int:
    with connect() as api:
        job = _send(api, _submission(api, options))
        if options.json:
            from . import tables

            tables.print_json(job)
        else:
            print(job["id"] if options.parsable else submitted(job), flush=True)
        return _follow(api, job) if options.follow else 0


def _do_run(options: argparse.Namespace) -> int:
    with connect() as api:
        job = _send(api, _submission(api, options))
        print(submitted(job), file=sys.stderr, flush=True)
        return _follow(api, job)


def _send(api: Api, submission: Job) -> Job:
    job: Job = api.post("jobs/", submission, repeat=True)
    return job


def _follow(api: Api, job: Job) -> int:
    """The job's own exit code. Ctrl-C leaves it alone and says how to come back."""
    from . import following
    from .main import program
    from .reading import Output

    output = Output()
    try:
        ended = following.follow_job(api, job["id"], output.write)
    except KeyboardInterrupt:
        following.tell(
            f"\nJob {job['id']} goes on. `{program()} logs -f {job['id']}` follows it again, `{program()} cancel {job['id']}` ends it."
        )
        return 130
    finally:
        output.close()
    if ended["state"] != "completed":
        following.tell(words.sentence(ended))
    return words.exit_code(ended)


PARSERS = {"submit": _submit, "run": _run}
