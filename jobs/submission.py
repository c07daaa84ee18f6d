"""What a submission must be like, for REST, page and admin alike: each field, and what the fields say together.

What can never run is refused here, with the field and the mend; only against hosts whose devices are known, since a host
may still tell more. Whether a directory or a program exists is for the hosts to say.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import Q
from django.utils.translation import gettext as _

from jobs import capacity, fields, swaps
from jobs.fields import Field
from jobs.models import Host, Job, User
from jobs.states import TERMINAL, JobState, OnHostLoss

MOST_GPUS = 1024
_GPUS = {"type": "integer", "minimum": 0, "maximum": MOST_GPUS}


def _whole(least: int, most: int = fields.LARGEST_INTEGER) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


FIELDS: dict[str, Field] = {
    "name": Field(fields.name, {"type": "string", "maxLength": 200}, "Without one, the beginning of the command."),
    "command": Field(fields.command, {"type": "string", "maxLength": fields.LONGEST_COMMAND}, "Given to the shell as it stands."),
    "working_dir": Field(
        fields.directory(settings.BASE_DIR), {"type": "string"}, "On the host; relative ones are taken from the checkout, its default."
    ),
    "min_gpus": Field(fields.integer(0, MOST_GPUS), _GPUS | {"default": 1}, "0: needs none."),
    "max_gpus": Field(fields.integer(0, MOST_GPUS), _GPUS, "As many as are free, up to this; min_gpus where not given."),
    "gpu_memory_mib": Field(fields.integer(0), _whole(0) | {"default": 0}, "Free memory that each device must have."),
    "shared": Field(
        fields.boolean,
        {"type": "boolean", "default": False},
        "Its devices may be those of other jobs that share, within the memory that each asks for in gpu_memory_mib.",
    ),
    "max_retries": Field(fields.integer(0, 1000), _whole(0, 1000) | {"default": 0}, "Starts after the first that failed."),
    "retry_delay_s": Field(
        fields.seconds(3600), {"type": "number", "minimum": 0, "maximum": 3600, "default": 30}, "Base of an exponential backoff."
    ),
    "retry_on_oom": Field(fields.boolean, {"type": "boolean", "default": True}, "Whether running out of GPU memory is retried."),
    "time_limit_s": Field(
        fields.optional(fields.integer(1)), _whole(1) | {"type": ["integer", "null"]}, "Of one attempt's running time; null: none."
    ),
    "priority": Field(fields.integer(-1000, 1000), _whole(-1000, 1000) | {"default": 0}, "Higher first."),
    "begin_at": Field(
        fields.moment, {"type": ["string", "null"], "format": "date-time"}, "Not before; without a zone in the lab's own time."
    ),
    "after": Field(fields.job_ids, _list(_whole(1, 2**63 - 1)), "Numbers of jobs that must complete first."),
    "hosts": Field(fields.host_names, _list({"type": "string"}), "Allowed hosts; empty: all."),
    "env": Field(fields.variables, {"type": "object", "additionalProperties": {"type": "string"}}, "Variables for the command."),
    "swaps": Field(swaps.reader(settings.BASE_DIR), swaps.SCHEMA, "Files that this job sees in the place of others."),
    "artifacts": Field(
        fields.patterns,
        _list({"type": "string"}),
        "Files it leaves, such as result_*.png, relative to the working directory: shown and mailed.",
    ),
    "notify": Field(fields.mail_addresses, _list({"type": "string"}), "Mail addresses that are told how it ended."),
    "on_host_loss": Field(
        fields.one_of(*OnHostLoss),
        {"type": "string", "enum": [str(each) for each in OnHostLoss], "default": "wait"},
        "requeue: its host ends it AUTOTRAINER_REQUEUE_AFTER_S after the last contact, and it starts elsewhere; wait: it goes on there.",
    ),
    "environment": Field(
        fields.optional_directory(settings.BASE_DIR), {"type": "string"}, "A venv or conda prefix on the host; its bin comes first."
    ),
    "hold": Field(fields.boolean, {"type": "boolean", "default": False}, "Submit it held."),
}
"""The submit fields of the contract, each with its reader. All but `hold` can be changed until the job first starts."""

_TOGETHER = ("min_gpus", "max_gpus", "gpu_memory_mib", "shared", "hosts")
EDITABLE = tuple(name for name in FIELDS if name != "hold")


@dataclass(frozen=True, slots=True)
class Submission:
    """Read and checked: `fields` for lifecycle.submit or lifecycle.edit; `after` is None where it was not given."""

    fields: dict[str, Any]
    after: list[Job] | None
    hold: bool


class SubmissionErrors(Exception):
    """What is wrong, as sentences under the field's name; "" for what belongs to no field."""

    def __init__(self, errors: dict[str, list[str]]) -> None:
        super().__init__(errors)
        self.errors = errors


def validate(data: Mapping[str, Any], *, owner: User, partial: bool = False, instance: Job | None = None) -> Submission:
    """Raises SubmissionErrors. `partial` reads only what is given, on top of `instance`."""
    read, errors = _read(data, editing=partial)
    if not partial:
        _complete(read, errors)
    elif instance and read.get("name") == "":
        read["name"] = _name_for(read.get("command", instance.command))
    merged = ({name: getattr(instance, name) for name in _TOGETHER} if instance else {}) | read
    _check_counts(merged, errors)
    _check_shared(merged, errors, given=read.keys())
    _check_hosts(read, errors)
    parents = _parents(read, instance, errors)
    if wrong := swaps.unknown_hash(read.get("swaps", ()), owner, instance.swaps if instance else ()):
        errors["swaps"] = [wrong]
    if not errors and (not partial or read.keys() & {"min_gpus", "gpu_memory_mib", "hosts"}):
        _check_inventory(merged, errors)
    if errors:
        raise SubmissionErrors(errors)
    read.pop("after", None)
    return Submission(hold=read.pop("hold", False), fields=read, after=parents)


def _read(data: Mapping[str, Any], *, editing: bool) -> tuple[dict[str, Any], dict[str, list[str]]]:
    read: dict[str, Any] = {}
    errors: dict[str, list[str]] = {}
    for name, value in data.items():
        field = FIELDS.get(name)
        if field is None:
            errors[name] = [_("There is no such field: mend its name or leave it out.")]
        elif editing and name not in EDITABLE:
            errors[name] = [_("This cannot be changed by an edit: use the job's hold/ and release/.")]
        else:
            try:
                read[name] = field.read(value)
            except ValueError as exc:
                errors[name] = [str(exc)]
    return read, errors


def _complete(read: dict[str, Any], errors: dict[str, list[str]]) -> None:
    """What was not given: names and counts follow the other fields, the rest are the model's defaults."""
    if "command" not in read:
        errors.setdefault("command", [_("The command is missing: write what the shell shall run.")])
        return
    if not read.get("name"):
        read["name"] = _name_for(read["command"])
    if "working_dir" not in read:
        read["working_dir"] = str(settings.BASE_DIR)
    if "min_gpus" not in read:
        read["min_gpus"] = min(1, read.get("max_gpus", 1))
    read.setdefault("max_gpus", read["min_gpus"])


def _name_for(command: str) -> str:
    words = " ".join(command.split())
    cut = "".join(c for c in words if c.isprintable())[:60].rstrip()
    return cut or "job"


def _check_counts(merged: Mapping[str, Any], errors: dict[str, list[str]]) -> None:
    if errors.keys() & {"min_gpus", "max_gpus"} or not {"min_gpus", "max_gpus"} <= merged.keys():
        return
    least, most = merged["min_gpus"], merged["max_gpus"]
    if least > most:
        errors["max_gpus"] = [
            _("max_gpus is %(most)s, less than min_gpus, which is %(least)s: raise it or lower the other.") % {"most": most, "least": least}
        ]


def _check_shared(merged: Mapping[str, Any], errors: dict[str, list[str]], *, given: Collection[str]) -> None:
    """Without knowing how much each may use, nobody can say how many fit on a device."""
    if merged.get("shared") and not merged.get("gpu_memory_mib") and not errors.keys() & {"shared", "gpu_memory_mib"}:
        named = "gpu_memory_mib" if "gpu_memory_mib" in given and "shared" not in given else "shared"
        errors[named] = [_("A job that shares must say how much memory of each device it uses: set gpu_memory_mib, or shared to false.")]


def _check_hosts(read: Mapping[str, Any], errors: dict[str, list[str]]) -> None:
    """Where no host has joined yet, any name may still come true."""
    if "hosts" in errors or not read.get("hosts"):
        return
    known = sorted(Host.objects.values_list("name", flat=True))
    if known and (unknown := [name for name in read["hosts"] if name not in known]):
        told = _first(known)
        errors["hosts"] = [
            _("No host is called %(value)s. Known are %(told)s: name those, or let the other one join first.")
            % {"value": " or ".join(unknown[:5]), "told": told}
        ]


# --- jobs to wait for ---------------------------------------------------------------------------------------------------


def _parents(read: Mapping[str, Any], instance: Job | None, errors: dict[str, list[str]]) -> list[Job] | None:
    if "after" not in read:
        return None
    ids: list[int] = read["after"]
    found = Job.objects.only("id", "state").in_bulk(ids) if ids else {}
    if wrong := _unusable(ids, found, instance):
        errors["after"] = [wrong]
    return list(found.values())


def _unusable(ids: list[int], found: Mapping[int, Job], instance: Job | None) -> str:
    if missing := [number for number in ids if number not in found]:
        return _("There is no job %(numbers)s: name jobs that exist.") % {"numbers": _numbers(missing)}
    if instance is not None and (loop := _waits_for(ids, instance.pk)):
        if loop == instance.pk:
            return _("Job %(loop)s would wait for itself and never start: leave it out.") % {"loop": loop}
        return _("Job %(loop)s would wait for job %(job)s and never start: leave it out.") % {"loop": loop, "job": instance.pk}
    already = set(instance.after.values_list("id", flat=True)) if instance is not None else set()
    lost = [number for number in ids if found[number].state in TERMINAL - {JobState.COMPLETED} and number not in already]
    if lost:
        return _("Job %(numbers)s did not complete, so this one would never start: leave it out or resubmit the other first.") % {
            "numbers": _numbers(lost)
        }
    return ""


def _waits_for(ids: Iterable[int], target: int) -> int | None:
    """The one of these jobs that is `target`, or that waits for it, directly or through others."""
    through = Job.after.through.objects
    waiting, edge = {target}, {target}
    while edge:
        edge = set(through.filter(to_job_id__in=edge).values_list("from_job_id", flat=True)) - waiting
        waiting |= edge
    return next((number for number in ids if number in waiting), None)


def _numbers(ids: list[int]) -> str:
    return _first(list(map(str, ids)))


def _first(names: list[str]) -> str:
    more = [_("and %(count)s more") % {"count": len(names) - 5}] if len(names) > 5 else []
    return " ".join([", ".join(names[:5]), *more])


# --- what the known hosts have ------------------------------------------------------------------------------------------


def _check_inventory(wanted: Mapping[str, Any], errors: dict[str, list[str]]) -> None:
    """Refuse what no known host can ever have. Where a host that is allowed is not known (yet), it waits instead.

    The rows follow the heartbeats by a moment, in which a host that has just joined is seen everywhere but in them. So
    before anything is refused the heartbeats are asked too; not sooner, since nobody who submits shall wait for Redis.
    """
    allowed = wanted.get("hosts") or []
    if not wanted["min_gpus"] or not _misfit(wanted, _known(_rows(allowed), allowed)):
        return
    errors.update(_misfit(wanted, _known(_heard(allowed), allowed)))


def _misfit(wanted: Mapping[str, Any], devices: Mapping[str, list[int]] | None) -> dict[str, list[str]]:
    """What is wrong with a request, beside these devices (memory in MiB, by host); None: nothing can be ruled out."""
    count, memory_mib = wanted["min_gpus"], wanted.get("gpu_memory_mib", 0)
    if devices is None:
        return {}
    host, most = max(((host, len(sizes)) for host, sizes in devices.items()), key=lambda each: each[1])
    if count > most:
        few = _("No known host has %(gpus)s: the most is %(most)s, on %(host)s. Ask for %(most)s or fewer.")
        none = _("No known host has %(gpus)s: ask for 0, or add a host that has one.")
        return {"min_gpus": [(few if most else none) % {"gpus": _gpus(count), "most": most, "host": host}]}
    largest = max(size for sizes in devices.values() for size in sizes)
    if memory_mib > largest:
        asked, there = f"{memory_mib} MiB ({_gib(memory_mib)})", f"{largest} MiB ({_gib(largest)})"
        return {"gpu_memory_mib": [_("No known device has %(asked)s; the largest has %(there)s.") % {"asked": asked, "there": there}]}
    fitting = {host: sum(size >= memory_mib for size in sizes) for host, sizes in devices.items()}
    host = max(fitting, key=lambda each: fitting[each])
    if count > fitting[host]:
        return {
            "min_gpus": [
                _("No known host has %(gpus)s with %(gib)s; the most is %(fitting)s, on %(host)s.")
                % {"gpus": _gpus(count), "gib": _gib(memory_mib), "fitting": fitting[host], "host": host}
            ]
        }
    return {}


_HostDevices = Iterable[tuple[str, bool, str, list[int | None]]]
"""Of each host: name, whether its devices were ever told, why they cannot be read, and the memory of each (MiB)."""


def _rows(allowed: list[str]) -> _HostDevices:
    hosts: dict[str, tuple[bool, str, list[int | None]]] = {}
    columns = ("name", "inventory_known", "device_error", "devices__memory_total_mib", "devices__present", "devices__allocatable")
    rows = Host.objects.filter(Q(name__in=allowed) if allowed else Q()).values_list(*columns)
    for name, known, error, memory_mib, present, allocatable in rows:  # one query: a person waits for it
        sizes = hosts.setdefault(name, (known, error, []))[2]
        if present and allocatable:
            sizes.append(memory_mib)
    return [(name, *told) for name, told in hosts.items()]


def _heard(allowed: list[str]) -> _HostDevices:
    for host in capacity.hosts_now():
        if not allowed or host.name in allowed:
            sizes = [device.memory_total_mib for device in host.devices if device.allocatable]
            yield host.name, host.inventory_known, host.device_error, sizes


def _known(hosts: _HostDevices, allowed: list[str]) -> dict[str, list[int]] | None:
    """Memory (MiB) of the devices of each host; None where nothing can be ruled out.

    A device whose memory is not known may fit anything, and so may a host whose driver does not answer now.
    """
    devices: dict[str, list[int]] = {}
    for name, known, error, sizes in hosts:
        if error:
            return None
        if known:
            devices[name] = [fields.LARGEST_INTEGER if size is None else size for size in sizes]
    return devices if devices and devices.keys() >= set(allowed) else None


def _gpus(count: int) -> str:
    return _("a GPU") if count == 1 else _("%(n)s GPUs") % {"n": count}


def _gib(mib: int) -> str:
    return f"{mib / 1024:.1f} GiB".replace(".0 GiB", " GiB")
