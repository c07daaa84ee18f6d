"""Messages as frozen values: strict about types, with defaults for what is missing, silent about what is not known.

So that N reads N-1 and N-1 reads N. Standard library only; `gpuworker.protocol` says which messages there are.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self


class BadMessage(ValueError):
    """A sealed message whose body is not what its kind promises: a bug or another version, never an attack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A value that travels in a sealed body. `read` is strict about types and silent about fields that it does not know."""

    def body(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Raises BadMessage with the path of what is wrong."""
        try:
            return typing.cast(Self, _reader(typing.cast(Any, cls))(body))
        except BadMessage as exc:
            raise BadMessage(f"{cls.__name__}{exc}") from exc


Reader = Callable[[Any], Any]
"""Takes what JSON gave for a value and gives what it means; raises BadMessage with the path below it."""


@functools.cache
def _reader(kind: Any) -> Reader:
    """Made once for each type: heartbeats of many hosts are read all the time."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _or_none(_reader(next(a for a in args if a is not type(None))))
    if origin is tuple:
        return _each(_reader(args[0]))
    if origin is dict:
        return _by_name(_reader(args[1]))
    if isinstance(kind, type) and issubclass(kind, enum.StrEnum):
        return _word(kind)
    if dataclasses.is_dataclass(kind):
        return _fields(typing.cast(type, kind))
    return _number if kind is float else functools.partial(_of, kind)


def _or_none(read: Reader) -> Reader:
    return lambda value: None if value is None else read(value)


def _each(read: Reader) -> Reader:
    def every(value: Any) -> tuple[Any, ...]:
        found = []
        for i, one in enumerate(_of(list, value)):
            try:
                found.append(read(one))
            except BadMessage as exc:
                raise _below(f"[{i}]", exc) from exc
        return tuple(found)

    return every


def _by_name(read: Reader) -> Reader:
    def every(value: Any) -> dict[str, Any]:
        found = {}
        for name, one in _of(dict, value).items():
            try:
                found[_of(str, name)] = read(one)
            except BadMessage as exc:
                raise _below(f".{name}", exc) from exc
        return found

    return every


def _word(kind: type[enum.StrEnum]) -> Reader:
    def word(value: Any) -> enum.StrEnum:
        text = _of(str, value)
        try:
            return kind(text)
        except ValueError as exc:
            raise BadMessage(f": {text!r} is none of {', '.join(kind)}") from exc

    return word


def _fields(kind: type) -> Reader:
    readers = {name: _reader(hint) for name, hint in typing.get_type_hints(kind).items()}

    def fields(value: Any) -> Any:
        known = {}
        for name, one in _of(dict, value).items():
            if read := readers.get(name):
                try:
                    known[name] = read(one)
                except BadMessage as exc:
                    raise _below(f".{name}", exc) from exc
        try:
            return kind(**known)
        except TypeError as exc:
            raise BadMessage(f": {', '.join(sorted(readers.keys() - known.keys()))} is missing") from exc

    return fields


def _number(value: Any) -> float:
    return float(value) if type(value) is int else _of(float, value)


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BadMessage(f": {type(value).__name__} instead of {kind.__name__}")
    return value


def _below(place: str, exc: BadMessage) -> BadMessage:
    return BadMessage(f"{place}{exc}")
