"""What a submission's fields may hold: one reader for each kind of value. Pure; each raises ValueError with the mend."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.translation import gettext as _

from gpuworker.protocol import valid_host_name

LARGEST_INTEGER = 2**31 - 1
LONGEST_COMMAND = 64 * 1024  # bytes; the kernel takes at most 128 KiB as one argument of the shell
LONGEST_PATH = 4096  # bytes, PATH_MAX
MOST_VARIABLES = 256
LONGEST_VARIABLE = 64 * 1024  # bytes, name and value
LONGEST_ENVIRONMENT = 512 * 1024  # bytes; the kernel's limit for arguments and environment together is 2 MiB
MOST_PARENTS = 1000
MOST_ADDRESSES, MOST_PATTERNS, LONGEST_PATTERN = 20, 50, 300
MOST_HOSTS = 200
LONGEST_REASON = 500
LARGEST_ID = 2**63 - 1

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Reader = Callable[[Any], Any]
Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Field:
    """How a value is read and described. `schema` is JSON Schema for the OpenAPI document."""

    read: Reader
    schema: Schema
    help: str = ""


def unfit(text: str) -> str:
    """Why this text can be stored nowhere; empty if it can."""
    if "\0" in text:
        return _("NUL characters are not possible here: leave them out.")
    try:
        text.encode()
    except UnicodeEncodeError:
        return _("This is not valid Unicode (a lone surrogate): send whole characters.")
    return ""


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(_("Write this as text, in quotes; it is %(kind)s.") % {"kind": _kind(value)})
    if why := unfit(value):
        raise ValueError(why)
    return value


def name(value: Any) -> str:
    read = text(value).strip()
    if len(read) > 200:
        raise ValueError(_("At most 200 characters; these are %(count)s.") % {"count": len(read)})
    if _CONTROL.search(read):
        raise ValueError(_("Line breaks and control characters are not possible in a name: leave them out."))
    return read


def command(value: Any) -> str:
    """As it stands: the shell gets every character of it."""
    read = text(value)
    if not read.strip():
        raise ValueError(_("The command is empty: write what the shell shall run."))
    if (length := len(read.encode())) > LONGEST_COMMAND:
        raise ValueError(
            _("At most %(most)s bytes; these are %(length)s. Put it into a script and run that.")
            % {"most": LONGEST_COMMAND, "length": length}
        )
    return read


def directory(base: Path) -> Reader:
    """A path on the host, absolute or taken from `base`; whether it exists is for the host to say."""

    def read(value: Any) -> str:
        path = text(value)
        if path.startswith("~"):
            raise ValueError(_("Write the whole path: ~ means another directory for each account and host."))
        if len(path.encode()) > LONGEST_PATH:
            raise ValueError(_("At most %(most)s bytes.") % {"most": LONGEST_PATH})
        if _CONTROL.search(path):
            raise ValueError(_("Line breaks and control characters are not possible in a path: leave them out."))
        return str(base / path)

    return read


def optional_directory(base: Path) -> Reader:
    read = directory(base)
    return lambda value: "" if value in ("", None) else read(value)


def reason(value: Any) -> str:
    """Why an operator does something, for those who meet it later."""
    read = text(value).strip()
    if len(read) > LONGEST_REASON:
        raise ValueError(_("At most %(most)s characters.") % {"most": LONGEST_REASON})
    return read


def integer(least: int, most: int = LARGEST_INTEGER) -> Reader:
    def read(value: Any) -> int:
        number = _whole(value)
        if number < least:
            raise ValueError(_("This must be %(least)s or more; it is %(number)s.") % {"least": least, "number": number})
        if number > most:
            raise ValueError(_("This must be at most %(most)s.") % {"most": most})
        return number

    return read


def _whole(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,20}\s*", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(_("Write a whole number; this is %(kind)s.") % {"kind": _kind(value)})
    return value


def optional(read: Reader) -> Reader:
    return lambda value: None if value is None else read(value)


def seconds(most: float) -> Reader:
    def read(value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if isinstance(value, bool) or not math.isfinite(number):
            raise ValueError(_("Write a number of seconds; this is %(kind)s.") % {"kind": _kind(value)})
        if not 0 <= number <= most:
            raise ValueError(_("This must be between 0 and %(most)s seconds.") % {"most": f"{most:g}"})
        return number

    return read


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(_("Write true or false; this is %(kind)s.") % {"kind": _kind(value)})
    return value


def moment(value: Any) -> datetime | None:
    """ISO 8601; without a zone it is meant in the lab's."""
    if value is None or isinstance(value, datetime):
        return value
    read = text(value).strip()
    try:
        found = parse_datetime(read)
        if found is None and (day := parse_date(read)):
            found = datetime.combine(day, time.min)
        if found is None:
            raise ValueError
        if timezone.is_naive(found):
            found = timezone.make_aware(found, timezone.get_default_timezone())
        found = found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(_("Write a date and time such as 2027-01-31T18:00 or 2027-01-31T18:00:00+01:00.")) from None
    if not date(1970, 1, 2) <= found.date() <= date(9000, 1, 1):
        raise ValueError(_("This must lie between the years 1970 and 9000."))
    return found


def job_ids(value: Any) -> list[int]:
    """Numbers of jobs, each once; whether they exist is not asked here."""
    if not isinstance(value, list):
        raise ValueError(_("Write a list of job numbers, such as [41, 42]; this is %(kind)s.") % {"kind": _kind(value)})
    if len(value) > MOST_PARENTS:
        raise ValueError(_("At most %(most)s jobs.") % {"most": MOST_PARENTS})
    return list(dict.fromkeys(map(integer(1, LARGEST_ID), value)))


def searched_number(words: str) -> int | None:
    """The job that somebody who types "42" or "#42" into a search may mean; None where no job can have that number."""
    number = words.strip().removeprefix("#")
    if not (number.isascii() and number.isdecimal() and len(number) < 20):
        return None
    return int(number) if int(number) <= LARGEST_ID else None


def host_names(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(_('Write a list of host names, such as ["gpu-a"]; this is %(kind)s.') % {"kind": _kind(value)})
    if len(value) > MOST_HOSTS:
        raise ValueError(_("At most %(most)s hosts.") % {"most": MOST_HOSTS})
    for each in value:
        if not valid_host_name(text(each)):
            raise ValueError(_("%(each)s is not a host name: letters, digits, '_', '.' and '-', at most 63.") % {"each": repr(each[:70])})
    return list(dict.fromkeys(value))


def mail_addresses(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(_('Write a list of mail addresses, such as ["ada@example.org"]; this is %(kind)s.') % {"kind": _kind(value)})
    if len(value) > MOST_ADDRESSES:
        raise ValueError(_("At most %(most)s addresses.") % {"most": MOST_ADDRESSES})
    for each in value:
        try:
            validate_email(text(each))
        except ValidationError:
            raise ValueError(_("%(each)s is not a mail address.") % {"each": repr(each[:70])}) from None
    return list(dict.fromkeys(value))


def patterns(value: Any) -> list[str]:
    """Of files beneath the working directory."""
    if not isinstance(value, list):
        raise ValueError(_('Write a list of patterns, such as ["result_*.png"]; this is %(kind)s.') % {"kind": _kind(value)})
    if len(value) > MOST_PATTERNS:
        raise ValueError(_("At most %(most)s patterns.") % {"most": MOST_PATTERNS})
    for each in value:
        parts = text(each).split("/")
        if not all(parts) or ".." in parts or "." in parts or len(each) > LONGEST_PATTERN:
            raise ValueError(
                _("%(each)s is no pattern of files in the working directory, such as result_*.png or plots/**/*.png.")
                % {"each": repr(each[:70])}
            )
    return list(dict.fromkeys(value))


def variables(value: Any) -> dict[str, str]:
    """Environment variables, as the kernel takes them."""
    if not isinstance(value, dict):
        raise ValueError(_('Write an object such as {"EPOCHS": "3"}; this is %(kind)s.') % {"kind": _kind(value)})
    if len(value) > MOST_VARIABLES:
        raise ValueError(_("At most %(most)s variables; these are %(count)s.") % {"most": MOST_VARIABLES, "count": len(value)})
    total = 0
    for key, each in value.items():
        if not _VARIABLE.fullmatch(text(key)):
            raise ValueError(
                _("%(key)s is not a name of a variable: letters, digits and '_', not beginning with a digit.") % {"key": repr(key[:70])}
            )
        length = len(key) + len(_value(key, each).encode())
        total += length
        if length > LONGEST_VARIABLE:
            raise ValueError(
                _("%(key)s has %(length)s bytes; at most %(most)s are possible.")
                % {"key": key[:70], "length": length, "most": LONGEST_VARIABLE}
            )
    if total > LONGEST_ENVIRONMENT:
        raise ValueError(
            _("These are %(total)s bytes together; at most %(most)s are possible.") % {"total": total, "most": LONGEST_ENVIRONMENT}
        )
    return dict(value)


def _value(key: str, value: Any) -> str:
    try:
        return text(value)
    except ValueError as exc:
        raise ValueError(_("%(key)s: %(why)s") % {"key": key[:70], "why": exc}) from None


def one_of(*choices: str) -> Reader:
    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError(_("Write one of %(value)s.") % {"value": ", ".join(choices)})
        return str(value)

    return read


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        return _("the text %(value)s") % {"value": repr(value[:40])}
    number = _("a number")
    kinds = {bool: _("true or false"), int: number, float: number, list: _("a list"), dict: _("an object")}
    return kinds.get(type(value), type(value).__name__)
