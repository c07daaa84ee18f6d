"""`gpus` and `hosts`."""

from __future__ import annotations

import argparse
import json
import sys
import time

from . import tables, words
from .connect import connect
from .tables import Column

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .api import Api
    from .main import Run

    Device = dict[str, Any]

REFRESH_S = 2.0
_ALTERNATE, _OWN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""A page of its own without a cursor, and back to where the terminal was."""


# --- gpus ---------------------------------------------------------------------------------------------------------------


def _memory(device: Any) -> str:
    used, total = device["memory_used_mib"], device["memory_total_mib"]
    if total is None:
        return ""
    return f"{'?' if used is None else f'{used / 1024:.1f}'}/{words.gib(total)}"


def _with(unit: str, name: str) -> Any:
    return lambda device: None if device[name] is None else f"{device[name]:.0f}{unit}"


def _jobs(device: Any) -> list[int]:
    """Numbers of the jobs on it: several where they share it."""
    return device.get("jobs") or ([device["job"]] if device["job"] else [])


def _user(device: Any) -> str:
    if device.get("owner"):
        return str(device["job_name"])
    outside = [words.using(process) for process in device["processes"] if not process["ours"]]
    if device["state"] == "busy_external" and outside:
        return "; ".join(outside)
    return str(device["reason"] or ("simulated" if device["simulated"] else ""))


GPU_COLUMNS = (
    Column("HOST", lambda d: d["host"]),
    Column("GPU", lambda d: d["index"], right=True),
    Column("MODEL", lambda d: d["name"]),
    Column("STATE", lambda d: d["state"]),
    Column("USED", lambda d: d["memory_used_mib"], lambda d: None, right=True),
    Column("MEMORY", lambda d: d["memory_total_mib"], _memory, right=True),
    Column("UTIL", lambda d: d["utilization_pct"], _with("%", "utilization_pct"), right=True),
    Column("TEMP", lambda d: d["temperature_c"], _with("°C", "temperature_c"), right=True),
    Column("POWER", lambda d: d["power_w"], _with(" W", "power_w"), right=True),
    Column("JOB", lambda d: ",".join(map(str, _jobs(d))) or None, right=True),
    Column("UUID", lambda d: d["uuid"], lambda d: None),
    Column("WHO", lambda d: d.get("owner") or d["reason"], _user),
)
"""Fixed for scripts; on a terminal used and total memory are one column, and the UUID is left out."""
_FOR_PEOPLE = tuple(column for column in GPU_COLUMNS if column.title not in ("USED", "UUID"))


def _gpus(parser: argparse.ArgumentParser) -> Run:
    parser.add_argument("-w", "--watch", action="store_true", help="go on showing them, until Ctrl-C")
    parser.add_argument("--every", type=_interval, default=REFRESH_S, metavar="SECONDS", help="with -w: how often (2)")
    parser.add_argument("--host", help="only this host's")
    parser.add_argument("--json", action="store_true", help="the API's own objects, as a list; with -w a list on each line")
    return _do_gpus


def _interval(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.2 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.2 to 3600")
    return value


def _do_gpus(options: argparse.Namespace) -> int:
    with connect() as api:
        if options.watch:
            return _watch(api, options)
        devices = _devices(api, options.host)
        if options.json:
            tables.print_json(devices)
        else:
            tables.print_rows(_columns(), _with_owners(api, devices))
        return 0


def _columns() -> tuple[Column, ...]:
    return _FOR_PEOPLE if tables.is_terminal() else GPU_COLUMNS


def _devices(api: Api, host: str | None) -> list[Device]:
    found, _ = api.pages("devices/")
    return [device for device in found if host in (None, device["host"])]


def _with_owners(api: Api, devices: list[Device]) -> list[Device]:
    """A device names only the number of its job; the people are in the jobs."""
    if not any(device["job"] for device in devices):
        return devices
    jobs, _ = api.pages("jobs/", state=",".join(words.ACTIVE))
    named = {job["id"]: (job["owner"], f"{job['owner']}: {job['name']}") for job in jobs}
    return [device | _people([named[number] for number in _jobs(device) if number in named]) for device in devices]


def _people(named: list[tuple[str, str]]) -> Device:
    owners = ",".join(dict.fromkeys(owner for owner, _ in named))
    return {"owner": owners, "job_name": ", ".join(told for _, told in named)} if named else {}


def _watch(api: Api, options: argparse.Namespace) -> int:
    from .api import PATIENT_S

    api.patience_s = PATIENT_S
    screen = tables.is_terminal() and not options.json
    if screen:
        sys.stdout.write(_ALTERNATE)
    try:
        while True:
            _print_once(api, options, screen=screen)
            time.sleep(options.every)
    finally:
        if screen:
            sys.stdout.write(_OWN)
            sys.stdout.flush()


def _print_once(api: Api, options: argparse.Namespace, *, screen: bool) -> None:
    devices = _devices(api, options.host)
    if options.json:
        print(json.dumps(devices))
    elif not screen:
        tables.print_rows(GPU_COLUMNS, _with_owners(api, devices))
        print()
    else:
        size = tables.size()
        lines = tables.table(_FOR_PEOPLE, _with_owners(api, devices), width=size.columns, colours=tables.coloured())
        head = f"{time.strftime('%H:%M:%S')}  {api.server.url}  {_free(devices)}   Ctrl-C ends"
        whole = [head[: size.columns], "", *lines][: size.lines - 1]
        sys.stdout.write("\x1b[H" + "\x1b[K\n".join(whole) + "\x1b[K\x1b[J")
    sys.stdout.flush()


def _free(devices: list[Device]) -> str:
    return f"{sum(device['state'] == 'free' for device in devices)} of {len(devices)} GPUs free"


# --- hosts --------------------------------------------------------------------------------------------------------------


HOST_COLUMNS = (
    Column("NAME", lambda h: h["name"]),
    Column("STATE", lambda h: h["state"]),
    Column("GPUS", lambda h: h["device_count"], right=True),
    Column("JOBS", lambda h: h["used_slots"], right=True),
    Column("SEEN", lambda h: h["last_seen_at"], lambda h: words.ago(h["last_seen_at"])),
    Column("DISK FREE", lambda h: h["disk_free_bytes"], lambda h: _disk(h["disk_free_bytes"]), right=True),
    Column("VERSION", lambda h: h["agent_version"]),
    Column("WHY", lambda h: h["reason"] or h["device_error"]),
)


def _disk(free_bytes: int | None) -> str:
    return "" if free_bytes is None else words.gib(free_bytes / 2**20)


def _hosts(parser: argparse.ArgumentParser) -> Run:
    parser.add_argument("--json", action="store_true", help="the API's own objects, as a list")
    return _do_hosts


def _do_hosts(options: argparse.Namespace) -> int:
    with connect() as api:
        hosts, _ = api.pages("hosts/")
    if options.json:
        tables.print_json(hosts)
    else:
        tables.print_rows(HOST_COLUMNS, hosts)
    return 0


PARSERS = {"gpus": _gpus, "hosts": _hosts}
