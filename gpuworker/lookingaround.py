"""What a person wants to know of a host before a job is submitted: whether it could start here, and which environments there are."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpuworker.settings import without_ours

MOST_ENVIRONMENTS = 100
MOST_NOTED = 64 * 1024
"""Bytes that are read of the list of environments that conda keeps."""


def check(args: Mapping[str, str]) -> dict[str, str]:
    """For each of directory, program and environment: why it would not do, as the rest of a sentence; empty where it would."""
    directory, environment = args.get("working_dir", ""), args.get("environment", "")
    return {
        "directory": _directory(directory),
        "program": _program(args.get("command", ""), directory, _path(environment, args.get("path", ""))),
        "environment": "" if not environment or os.path.isdir(os.path.join(environment, "bin")) else "has no folder 'bin'",
    }


def _directory(path: str) -> str:
    if not os.path.isdir(path):
        return "is a file" if os.path.exists(path) else "does not exist"
    if not os.access(path, os.R_OK | os.X_OK):
        return "may not be entered"
    return "" if os.access(path, os.W_OK) else "may not be written to"


def _program(command: str, directory: str, path: str) -> str:
    """Only where the command begins with a plain word is it known which program that is."""
    try:
        word = next(iter(shlex.split(command, comments=True)), "")
    except ValueError:
        return ""
    if not word or not all(c.isalnum() or c in "._-+/" for c in word):
        return ""
    if "/" in word:
        program = os.path.join(directory, word)
        return "" if os.access(program, os.X_OK) and os.path.isfile(program) else "is no program that may be run"
    found = word in _BUILTINS or shutil.which(word, path=path)
    return "" if found else "is not found"


def _path(environment: str, own: str) -> str:
    """Where the command would look: `own` is the PATH among the job's variables, and takes the place of the host's."""
    first = [os.path.join(environment, "bin")] if environment else []
    return os.pathsep.join([*first, own or without_ours(os.environ).get("PATH", os.defpath)])


_BUILTINS = frozenset(
    (
        *(
            ".",
            ":",
            "alias",
            "case",
            "cd",
            "command",
            "declare",
            "do",
            "echo",
            "eval",
            "exec",
            "exit",
            "export",
            "false",
            "for",
            "function",
        ),
        *("if", "kill", "let", "local", "printf", "pwd", "read", "readonly", "return", "select", "set", "shift", "shopt", "source", "test"),
        *("time", "times", "trap", "true", "type", "ulimit", "umask", "unalias", "unset", "until", "wait", "while"),
    )
)


def environments(args: Mapping[str, str]) -> list[str]:
    """conda prefixes that conda has noted, venvs in the working directory and beside it."""
    found: dict[str, Any] = {}
    for path in (*_conda(), *_venvs(args.get("working_dir", ""))):
        if "\0" not in path and os.access(os.path.join(path, "bin", "python"), os.X_OK):
            found.setdefault(path)
        if len(found) >= MOST_ENVIRONMENTS:
            break
    return list(found)


def _conda() -> Iterator[str]:
    home = Path.home()
    yield from (line.strip() for line in _beginning(home / ".conda" / "environments.txt").splitlines() if line.strip())
    for root in ("miniconda3", "anaconda3", "miniforge3", "mambaforge", "micromamba"):
        for base in (home / root, Path("/opt") / root):
            yield str(base)
            yield from (str(path) for path in sorted(base.glob("envs/*")))


def _beginning(path: Path) -> str:
    """Of a file that its owner may have made anything of: empty where it cannot be read, never waits for a pipe."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return file.read(MOST_NOTED).decode(errors="replace") if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else ""
    except OSError:
        return ""


def _venvs(directory: str) -> Iterator[str]:
    if not os.path.isabs(directory):
        return
    for name in (".venv", "venv", "env"):
        yield os.path.join(directory, name)
        yield os.path.join(os.path.dirname(directory.rstrip("/")), name)
