"""What people write on the command line, read: counts, sizes, durations, variables, commands. Nothing here asks the server."""

from __future__ import annotations

import os
import re
import shlex
from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

LARGEST_SWAP = 2**20  # bytes

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+)s)?", re.ASCII)
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt])(?:i?b)?", re.IGNORECASE | re.ASCII)
_MIB = {"k": 2**-10, "m": 1, "g": 2**10, "t": 2**20}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def gpus(text: str) -> tuple[int, int]:
    """`2`, or `1-4`: at least and at most."""
    found = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", text)
    if not found:
        raise ArgumentTypeError(f"{text!r} is not a number of GPUs: write 2, or 1-4 for at least 1 and at most 4")
    least = int(found[1])
    most = int(found[2]) if found[2] else least
    if most < least:
        raise ArgumentTypeError(f"{text!r} ends below its beginning: write {most}-{least}")
    return least, most


def seconds(text: str) -> int:
    """`90s`, `30m`, `2h`, `1d12h`, or Slurm's `H:MM:SS` and `D-HH:MM:SS`. A bare number is minutes to some and seconds to others."""
    found = _DURATION.fullmatch(text) or _CLOCK.fullmatch(text)
    if not found or not any(found.groups()):
        raise ArgumentTypeError(f"{text!r} is not a duration: write it with its unit, such as 90s, 30m, 2h or 1d12h")
    days, hours, minutes, rest = (int(each or 0) for each in found.groups())
    total = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if not total:
        raise ArgumentTypeError(f"{text!r} is no time at all: leave it out for no limit")
    return total


def mib(text: str) -> int:
    """`20G`, `500M`: 1024 to the unit, as nvidia-smi counts, whether an iB follows or not. Rounded up."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ArgumentTypeError(f"{text!r} is not a size: write it with its unit, such as 20G or 500M")
    amount = float(found[1]) * _MIB[found[2].lower()]
    return int(amount) + (amount > int(amount))


def variable(text: str) -> tuple[str, str]:
    """`NAME=VALUE`, or `NAME` alone for the value that it has here."""
    name, equals, value = text.partition("=")
    if not _VARIABLE.fullmatch(name):
        raise ArgumentTypeError(f"{text[:70]!r} is not NAME=VALUE: a name has letters, digits and '_', and no digit first")
    if equals:
        return name, value
    if name not in os.environ:
        raise ArgumentTypeError(f"{name} has no value here: write {name}=VALUE")
    return name, os.environ[name]


def job_id(text: str) -> int:
    found = re.fullmatch(r"#?([0-9]{1,18})", text)
    if not found or not int(found[1]):
        raise ArgumentTypeError(f"{text!r} is not the number of a job")
    return int(found[1])


def job_ids(text: str) -> list[int]:
    """Commas between them are fine."""
    return [job_id(each) for each in text.split(",") if each]


def words(text: str) -> list[str]:
    return [each for each in text.split(",") if each]


def whole(text: str) -> int:
    """0 or more."""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def positive(text: str) -> int:
    if (number := whole(text)) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return number


def moment(text: str, now: datetime | None = None) -> str:
    """`+2h` from now on; anything else is for the server to read, in the lab's zone where it names none."""
    if not text.startswith("+"):
        return text
    begin = (now or datetime.now(UTC)) + timedelta(seconds=seconds(text[1:]))
    return begin.isoformat(timespec="seconds")


def swap(text: str) -> dict[str, str]:
    """`TARGET=SOURCE`: the file SOURCE here, whole, for TARGET there."""
    target, _, source = text.partition("=")
    if not target or not source:
        raise ArgumentTypeError(f"{text!r} is not TARGET=SOURCE: the file to replace, and the file here that replaces it")
    try:
        with open(source, "rb") as file:
            data = file.read(LARGEST_SWAP + 1)
        content = data.decode()
    except OSError as exc:
        raise ArgumentTypeError(f"{source} cannot be read ({exc.strerror})") from None
    except UnicodeDecodeError:
        raise ArgumentTypeError(f"{source} is not text in UTF-8: only such files can be swapped in from here") from None
    if len(data) > LARGEST_SWAP:
        raise ArgumentTypeError(f"{source} is larger than 1 MiB: put it on the host and swap it in over the API (`source`)")
    return {"target": target, "content": content}


def command(given: Sequence[str]) -> str:
    """One word is a shell string as it stands; several are a program and its arguments, quoted so that they arrive as such."""
    rest = given[1:] if given[:1] == ["--"] else given
    return rest[0] if len(rest) == 1 else shlex.join(rest)


def here(environ: Mapping[str, str] = os.environ) -> str:
    """This directory as its user names it: behind a symbolic link the name is often what other hosts know it by."""
    named = environ.get("PWD", "")
    try:
        if os.path.isabs(named) and os.path.samefile(named, "."):
            return os.path.normpath(named)
    except OSError:
        pass
    try:
        return os.getcwd()
    except OSError as exc:
        raise ArgumentTypeError(f"the current directory is gone ({exc.strerror}): go to another one, or name one with -C") from None


def directory(text: str) -> str:
    """An absolute path. One that begins here must exist here; what an absolute one means is for the hosts to say."""
    if os.path.isabs(text):
        return text
    path = os.path.join(here(), text)
    if not os.path.isdir(path):
        raise ArgumentTypeError(f"there is no directory {text!r} here: write the whole path if it is on the hosts only")
    plain = os.path.normpath(path)
    return plain if os.path.exists(plain) and os.path.samefile(plain, path) else os.path.realpath(path)
