"""Messages as frozen values: strict about types, with defaults for what is missing, silent about what is not known.

So that N reads N-1 and N-1 reads N. Standard library only; `gpuworker.protocol` says which messages there are.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Iterable, Mapping
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
        value = _decode(cls, body, cls.__name__)
        return typing.cast(Self, value)


def _decode(kind: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _decode(next(a for a in args if a is not type(None)), value, path)
    if origin is tuple:
        return tuple(_decode(args[0], v, f"{path}[{i}]") for i, v in enumerate(_of(value, list, path)))
    if origin is dict:
        return {_of(k, str, path): _decode(args[1], v, f"{path}.{k}") for k, v in _of(value, dict, path).items()}
    if isinstance(kind, type) and issubclass(kind, enum.StrEnum):
        try:
            return kind(_of(value, str, path))
        except ValueError as exc:
            raise BadMessage(f"{path}: {value!r} is none of {', '.join(kind)}") from exc
    if dataclasses.is_dataclass(kind):
        return _decode_fields(typing.cast(type, kind), _of(value, dict, path), path)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _of(value, kind, path)


def _decode_fields(kind: type, value: Mapping[str, Any], path: str) -> Any:
    hints = _hints(kind)
    known = {name: _decode(hint, value[name], f"{path}.{name}") for name, hint in hints.items() if name in value}
    try:
        return kind(**known)
    except TypeError as exc:
        raise BadMessage(f"{path}: {_missing(hints, known)} is missing") from exc


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(kind: type) -> dict[str, Any]:
    if kind not in _HINTS:
        _HINTS[kind] = typing.get_type_hints(kind)
    return _HINTS[kind]


def _missing(hints: Iterable[str], known: Iterable[str]) -> str:
    return ", ".join(sorted(set(hints) - set(known)))


def _of(value: Any, kind: type, path: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BadMessage(f"{path}: {type(value).__name__} instead of {kind.__name__}")
    return value
