"""The submit form: what people type, turned into what jobs.submission reads. Whether it is right is decided there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from jobs.models import Job
from jobs.states import OnHostLoss

Label = str | Promise
Text = Callable[[str], Any]
MIB = {"": 1024.0, "g": 1024.0, "m": 1.0, "t": 1024.0**2}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,12})?"  # what is longer is no amount of anything, and could grow to infinity
_AMOUNT = re.compile(rf"({_NUMBER})\s*([gmt]?)(?:i?b)?", re.IGNORECASE)
_SPAN = re.compile(rf"({_NUMBER})\s*([smhd])", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One field of the page: `read` turns its text into what the field of that name takes; "" leaves it to the default."""

    name: str
    label: Label
    help: Label = ""
    kind: str = "text"
    width: str = ""
    read: Text = str
    initial: str = ""
    placeholder: Label = ""
    required: bool = False
    mono: bool = False
    ticked: str | bool = True
    unticked: str | bool = False
    """What a check stands for."""


@dataclass(frozen=True, slots=True)
class Bound:
    """An input with what was typed and what is wrong with it."""

    input: Input
    value: str
    errors: tuple[str, ...]


# --- reading ------------------------------------------------------------------------------------------------------------


def memory(text: str) -> int:
    """MiB from "20", "20 GiB", "512 MiB"; a bare number is GiB."""
    found = _AMOUNT.fullmatch(text.strip())
    if not found:
        raise ValueError(_("Write an amount such as 20 (GiB) or 512 MiB."))
    return round(float(found[1]) * MIB[found[2].lower()])


def pause(text: str) -> float:
    """Seconds from "12h", "1d 6h", "90 m", "1.5s"; a bare number is seconds."""
    text = text.strip()
    if re.fullmatch(_NUMBER, text):
        return float(text)
    if not re.fullmatch(rf"({_SPAN.pattern}\s*)+", text, re.IGNORECASE):
        raise ValueError(_("Write a time such as 30m, 12h or 1d 6h."))
    return sum(float(number) * SECONDS[unit.lower()] for number, unit in _SPAN.findall(text))


def span(text: str) -> int:
    """As `pause`, in whole seconds."""
    return round(pause(text))


def numbers(text: str) -> list[str]:
    """Job numbers from "#41, 42"."""
    return [word.removeprefix("#") for word in re.split(r"[\s,;]+", text.strip()) if word]


def words(text: str) -> list[str]:
    return [word for word in re.split(r"[\s,;]+", text.strip()) if word]


def variables(text: str) -> dict[str, str]:
    """NAME=value, one a line; a value goes on to the end of its line, quotes and all."""
    read: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, equals, value = line.partition("=")
        if not equals:
            raise ValueError(_("Line %(number)d has no “=”: write NAME=value.") % {"number": number})
        read[name.strip().removeprefix("export ").strip()] = value
    return read


def lines(text: str) -> str:
    """Browsers send CR LF between the lines of a text; a shell would take the CR for part of the command."""
    return text.replace("\r\n", "\n")


INPUTS = (
    Input(name="name", label=gettext_lazy("Name"), help=gettext_lazy("As it is called in lists. Empty: the beginning of the command.")),
    Input(
        name="command",
        label=gettext_lazy("Command"),
        help=gettext_lazy("Given to the shell as it stands; several lines are fine."),
        kind="area",
        read=lines,
        placeholder='python mock_train.py --name "Mock_Test_V1" --mode normal --mem 2.0',
        required=True,
        mono=True,
    ),
    Input(
        name="working_dir",
        label=gettext_lazy("Working directory"),
        help=gettext_lazy("On the host that runs it. A relative one is taken from AutoTrainer's own directory."),
        placeholder=".",
        mono=True,
    ),
    Input(
        name="min_gpus",
        label=gettext_lazy("GPUs, at least"),
        kind="number",
        width="third",
        initial="1",
        help=gettext_lazy("0: needs none."),
    ),
    Input(
        name="max_gpus",
        label=gettext_lazy("GPUs, at most"),
        kind="number",
        width="third",
        initial="1",
        help=gettext_lazy("As many as are free."),
    ),
    Input(
        name="max_retries", label=gettext_lazy("Retries"), kind="number", width="third", initial="0", help=gettext_lazy("After a failure.")
    ),
)
FOLDED = (
    Input(
        name="gpu_memory_mib",
        label=gettext_lazy("Free memory on each GPU"),
        help=gettext_lazy("In GiB, or with its unit: 20, 512 MiB."),
        width="third",
        read=memory,
        placeholder="0",
    ),
    Input(
        name="time_limit_s",
        label=gettext_lazy("Time limit"),
        help=gettext_lazy("Of one attempt: 30m, 12h, 2d. It fails when this is over."),
        width="third",
        read=span,
        placeholder=gettext_lazy("none"),
    ),
    Input(
        name="priority",
        label=gettext_lazy("Priority"),
        kind="number",
        width="third",
        help=gettext_lazy("Higher starts first."),
        placeholder="0",
    ),
    Input(
        name="retry_delay_s",
        label=gettext_lazy("Delay before a retry"),
        help=gettext_lazy("Doubled for each further one."),
        width="third",
        read=pause,
        placeholder="30s",
    ),
    Input(
        name="begin_at", label=gettext_lazy("Not before"), kind="datetime-local", width="third", help=gettext_lazy("In your own time zone.")
    ),
    Input(
        name="after",
        label=gettext_lazy("After these jobs"),
        help=gettext_lazy("Numbers; all must complete first."),
        width="third",
        read=numbers,
        placeholder="41, 42",
        mono=True,
    ),
    Input(
        name="hosts",
        label=gettext_lazy("Only on these hosts"),
        help=gettext_lazy("Names; empty: any."),
        width="half",
        read=words,
        mono=True,
    ),
    Input(
        name="environment",
        label=gettext_lazy("Python environment"),
        help=gettext_lazy("Path of a venv or conda environment on the host; its bin goes first on PATH."),
        width="half",
        mono=True,
    ),
    Input(
        name="env",
        label=gettext_lazy("Environment variables"),
        help=gettext_lazy("NAME=value, one a line."),
        kind="area",
        read=variables,
        placeholder="EPOCHS=3",
        mono=True,
    ),
    Input(
        name="artifacts",
        label=gettext_lazy("Files it leaves"),
        help=gettext_lazy("Patterns beneath the working directory: shown on the job's page, pictures in the mail too."),
        width="half",
        read=words,
        placeholder="result_*.png",
        mono=True,
    ),
    Input(
        name="notify",
        label=gettext_lazy("Mail the result to"),
        help=gettext_lazy("Addresses, with commas between."),
        width="half",
        read=words,
        placeholder="ada@example.org",
    ),
    Input(name="retry_on_oom", label=gettext_lazy("Retry when the GPU ran out of memory, too"), kind="check", initial="on"),
    Input(name="shared", label=gettext_lazy("Share GPUs with other jobs that share, within the memory asked for"), kind="check"),
    Input(
        name="on_host_loss",
        label=gettext_lazy("Start it elsewhere when its host falls silent: that host ends it after a while without contact"),
        kind="check",
        ticked=str(OnHostLoss.REQUEUE),
        unticked=str(OnHostLoss.WAIT),
    ),
    Input(name="hold", label=gettext_lazy("Hold it: wait until somebody releases it"), kind="check"),
)
ALL = INPUTS + FOLDED


def read(post: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """What jobs.submission.validate takes, and what could not even be read."""
    data: dict[str, Any] = {}
    errors: dict[str, list[str]] = {}
    for field in ALL:
        text = post.get(field.name, "")
        if field.kind == "check":
            data[field.name] = field.ticked if text == "on" else field.unticked
        elif text.strip() or field.required:
            try:
                data[field.name] = _zoned(text, post.get("zone", "")) if field.name == "begin_at" else field.read(text)
            except (ValueError, OverflowError) as exc:
                errors[field.name] = [str(exc)]
    return data, errors


def _zoned(text: str, zone: str) -> str | datetime:
    """A time as the browser knows it, in the zone that it told; else it is left as it is, and means the lab's."""
    try:
        naive = datetime.fromisoformat(text)
        return naive.replace(tzinfo=ZoneInfo(zone)) if naive.tzinfo is None else naive
    except (ValueError, OSError, KeyError):  # ZoneInfo raises all three for names that are none
        return text


# --- showing ------------------------------------------------------------------------------------------------------------


def bind(inputs: tuple[Input, ...], values: Mapping[str, str], errors: Mapping[str, list[str]]) -> list[Bound]:
    return [Bound(field, values.get(field.name, ""), tuple(map(in_labels, errors.get(field.name, ())))) for field in inputs]


_LABELS = {field.name: field.label for field in ALL if "_" in field.name}  # the others are words of every day
_NAMES = re.compile(rf"(?<![A-Za-z0-9_])({'|'.join(_LABELS)})(?![A-Za-z0-9_])")  # \b takes Chinese characters for part of a name


def in_labels(sentence: str) -> str:
    """What it calls a field by its name in the API, as the form calls it."""
    return _NAMES.sub(lambda found: f"“{_LABELS[found[1]]}”", sentence)


def initial() -> dict[str, str]:
    return {field.name: field.initial for field in ALL}


def of_job(job: Job) -> dict[str, str]:
    """An old job's fields as they would have been typed; not when it began, nor what it waited for."""
    return of_fields({field.name: getattr(job, field.name) for field in ALL if field.name not in ("begin_at", "after", "hold")})


def of_fields(fields: Mapping[str, Any]) -> dict[str, str]:
    """What `read` would have made these fields of."""
    return {field.name: _typed(field, fields[field.name]) for field in ALL if field.name in fields}


def _typed(field: Input, value: Any) -> str:
    """A value that this form does not know any more is shown as it is, for its reader to say what is wrong with it."""
    if field.kind == "check":
        return "on" if value == field.ticked else ""
    try:
        return _WRITE.get(field.name, _plain)(value)
    except (TypeError, ValueError, AttributeError):
        return _plain(value)


def _plain(value: Any) -> str:
    return "" if value is None else str(value)


def _memory_text(mib: int) -> str:
    if not mib:
        return ""
    return f"{mib // 1024} GiB" if mib % 1024 == 0 else f"{mib} MiB"


def _span_text(seconds: float | None) -> str:
    """The largest unit that says it exactly."""
    if not seconds:
        return "" if seconds is None else "0s"
    unit = next(unit for unit in "dhms" if seconds % SECONDS[unit] == 0 or unit == "s")
    return f"{seconds / SECONDS[unit]:.15g}{unit}"


def _lines_text(variables: Mapping[str, str]) -> str:
    return "\n".join(f"{name}={value}" for name, value in variables.items())


_WRITE: dict[str, Callable[[Any], str]] = {
    "gpu_memory_mib": _memory_text,
    "time_limit_s": _span_text,
    "retry_delay_s": _span_text,
    "priority": lambda number: _plain(number or ""),
    "after": lambda numbers: ", ".join(map(str, numbers)),
    "hosts": ", ".join,
    "notify": ", ".join,
    "artifacts": " ".join,
    "env": _lines_text,
}
"""How a field is written whose text is not its value: the other way round of `Input.read`."""
