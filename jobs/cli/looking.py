"""`list`, `show` and `templates`."""

from __future__ import annotations

import argparse
import sys

from . import tables, values, words
from .connect import connect
from .errors import NotAllowed, NotFound
from .safe import visible
from .tables import Column

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .api import Api
    from .main import Run

    Job = dict[str, Any]

SHOWN_BY_DEFAULT = 200
EVENTS_SHOWN = 8


# --- list ---------------------------------------------------------------------------------------------------------------


def _unless_it_waits(of: Callable[[Job], Any]) -> Callable[[Any], Any]:
    """A job that waits for its next attempt still knows where the last one was, which is not where it is."""
    return lambda job: None if job["state"] in ("queued", "held") else of(job)


COLUMNS = (
    Column("ID", lambda job: job["id"], right=True),
    Column("STATE", lambda job: job["state"]),
    Column("NAME", lambda job: job["name"]),
    Column("USER", lambda job: job["owner"]),
    Column("GPUS", words.gpus, right=True),
    Column("HOST", _unless_it_waits(lambda job: job["host"])),
    Column("ON", _unless_it_waits(words.devices)),
    Column("TIME", _unless_it_waits(words.elapsed_s), _unless_it_waits(lambda job: words.duration(words.elapsed_s(job))), right=True),
    Column("WHY", words.why),
)
"""Fixed: scripts cut these columns out. New ones come last."""
_SHORTEST_CUT = 28


def _list(parser: argparse.ArgumentParser) -> Run:
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("-m", "--mine", action="store_true", help="only your own jobs")
    whose.add_argument("-u", "--user", help="only this person's")
    parser.add_argument("-a", "--all", action="store_true", help="also the jobs that are over")
    parser.add_argument("-s", "--state", type=_states, help=f"only these, with commas between: {', '.join(words.STATES)}")
    parser.add_argument("--search", metavar="TEXT", help="only jobs with this in name, owner, number or command")
    parser.add_argument(
        "-n", "--limit", type=values.whole, default=SHOWN_BY_DEFAULT, metavar="N", help=f"at most N jobs (0: all; {SHOWN_BY_DEFAULT})"
    )
    parser.add_argument("--json", action="store_true", help="the API's own objects, as a list")
    return _do_list


def _states(text: str) -> str:
    if unknown := [each for each in values.words(text) if each not in words.STATES]:
        raise argparse.ArgumentTypeError(f"there is no state {unknown[0]!r}: one of {', '.join(words.STATES)}")
    return text


def _do_list(options: argparse.Namespace) -> int:
    with connect() as api:
        states = options.state or ("" if options.all else ",".join(words.UNFINISHED))
        query = {"state": states, "owner": _owner(api, options), "search": options.search}
        # The oldest first, so that with a long queue those are shown that run, and are next.
        ordering = "-id" if set(states.split(",")) & {"", *words.OVER} else "id"
        jobs, count = api.pages("jobs/", options.limit, ordering=ordering, **query)
        if options.json:
            tables.print_json(jobs)
        elif jobs or not tables.is_terminal():
            tables.print_rows(_narrowed(COLUMNS), sorted(jobs, key=_rank))
        else:
            print("No such job." if options.all else "Nothing runs and nothing waits. `list --all` shows the jobs that are over.")
        if count > len(jobs):
            print(f"{len(jobs)} of {count} jobs; `-n 0` shows all.", file=sys.stderr)
        return 0


def _owner(api: Api, options: argparse.Namespace) -> str | None:
    if options.mine:
        return api.server.user or str(api.whoami()["username"])
    user: str | None = options.user
    return user


def _rank(job: Any) -> tuple[int, int, int]:
    """What runs, then the queue in its order, then what is held, then what is over, newest first."""
    state = job["state"]
    if state in words.OVER:
        return 3, 0, -job["id"]
    place = 1 if state == "queued" else 2 if state == "held" else 0
    return place, job["queue_position"] or 0, job["id"]


def _narrowed(columns: tuple[Column, ...]) -> tuple[Column, ...]:
    """On a terminal names are cut, so that there is room for the reasons."""
    if not tables.is_terminal():
        return columns

    def cut(job: Any) -> str:
        name = str(job["name"])
        return name if len(name) <= _SHORTEST_CUT else name[: _SHORTEST_CUT - 1] + "…"

    return tuple(Column("NAME", column.plain, cut) if column.title == "NAME" else column for column in columns)


# --- show ---------------------------------------------------------------------------------------------------------------


def _show(parser: argparse.ArgumentParser) -> Run:
    parser.add_argument("job", type=values.job_id, metavar="ID")
    parser.add_argument("--json", action="store_true", help="the API's own object")
    return _do_show


def _do_show(options: argparse.Namespace) -> int:
    with connect() as api:
        job = one_job(api, options.job)
        if options.json:
            tables.print_json(job)
            return 0
        rows = [(name, value) for name, value in [*_facts(job), *_attempts(job), *_events(api, job)] if value not in (None, "", [], {})]
        if not tables.is_terminal():
            sys.stdout.write("".join(f"{name}\t{visible(value)}\n" for name, value in rows))
            return 0
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            text = ("\n" + " " * (width + 2)).join(visible(line) for line in str(value).split("\n"))
            label = tables.paint(f"{name:{width}}", tables.DIM, on=tables.coloured())
            print(f"{label}  {tables.paint(text, tables.STATE_COLOURS.get(text, ''), on=tables.coloured())}")
        return 0


def one_job(api: Api, job_id: int) -> Job:
    """Raises NotFound with the number."""
    try:
        found: Job = api.get(f"jobs/{job_id}/")
    except NotFound:
        raise NotFound(f"There is no job {job_id}.") from None
    return found


def _facts(job: Job) -> list[tuple[str, Any]]:
    limit = job["time_limit_s"]
    return [
        ("job", job["id"]),
        ("name", job["name"]),
        ("state", job["state"]),
        ("progress" if job["state"] in words.ACTIVE else "why", words.why(job)),
        ("position", job["queue_position"]),
        ("owner", job["owner"]),
        ("command", job["command"]),
        ("directory", job["working_dir"]),
        ("gpus", words.asked_gpus(job) + (f", each with {words.gib(job['gpu_memory_mib'])} free" if job["gpu_memory_mib"] else "")),
        ("host", job["host"]),
        ("devices", words.devices(job)),
        ("priority", job["priority"] or None),
        ("hosts", ", ".join(job["hosts"])),
        ("after", ", ".join(map(str, job["after"]))),
        ("environment", job["environment"]),
        ("variables", "\n".join(f"{name}={value}" for name, value in (job["env"] or {}).items())),
        ("swaps", "\n".join(str(swap.get("target")) for swap in job["swaps"] or ())),
        ("notify", ", ".join(job["notify"] or ())),
        ("retries", job["max_retries"] or None),
        ("time limit", words.duration(limit) if limit else None),
        ("submitted", words.local_time(job["created_at"])),
        ("begin", words.local_time(job["begin_at"])),
        ("started", words.local_time(job["started_at"])),
        ("ended", words.local_time(job["ended_at"])),
        ("time", "" if job["state"] in ("queued", "held") else words.duration(words.elapsed_s(job))),
        ("exit code", job["exit_code"]),
    ]


def _attempts(job: Job) -> list[tuple[str, str]]:
    return [(f"attempt {attempt['number']}", _attempt(attempt)) for attempt in job["attempts"]]


def _attempt(attempt: Job) -> str:
    cards = ", ".join(f"GPU {device['index']}" for device in attempt["devices"])
    said = [
        words.ending(attempt) or "open",
        f"on {attempt['host']}",
        cards,
        words.duration(words.elapsed_s(attempt)),
        words.commit(attempt),
    ]
    return ", ".join(each for each in said if each)


def _events(api: Api, job: Job) -> list[tuple[str, str]]:
    """The last ones; none in other people's jobs."""
    try:
        events, _ = api.pages(f"jobs/{job['id']}/events/")
    except NotAllowed:
        return []
    return [(words.local_time(event["at"]), event["message"]) for event in events[-EVENTS_SHOWN:]]


# --- templates ----------------------------------------------------------------------------------------------------------


TEMPLATE_COLUMNS = (
    Column("NAME", lambda template: template["name"]),
    Column("CHANGED", lambda template: template["changed_at"], lambda template: words.ago(template["changed_at"])),
    Column("COMMAND", lambda template: template["fields"].get("command")),
)


def _templates(parser: argparse.ArgumentParser) -> Run:
    parser.add_argument("--json", action="store_true", help="the API's own objects, as a list")
    return _do_templates


def _do_templates(options: argparse.Namespace) -> int:
    with connect() as api:
        found, _ = api.pages("templates/")
    if options.json:
        tables.print_json(found)
    elif found or not tables.is_terminal():
        tables.print_rows(TEMPLATE_COLUMNS, found)
    else:
        print("You have kept none. The page for new jobs has a button for it, below the form.")
    return 0


PARSERS = {"list": _list, "show": _show, "templates": _templates}
