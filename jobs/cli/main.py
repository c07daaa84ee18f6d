"""The words of the client, and what every one of them has in common: arguments, errors, exit codes."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from . import tables
from .errors import CliError

COMMANDS = {
    "submit": ("submitting", "submit a command to the queue"),
    "run": ("submitting", "submit a command, show its output, and exit with its exit code"),
    "list": ("looking", "what runs and what waits, and why"),
    "show": ("looking", "everything about one job"),
    "logs": ("reading", "the output of a job"),
    "wait": ("acting", "wait until jobs are over; exits 0 only if all of them completed"),
    "cancel": ("acting", "end jobs, or take them out of the queue"),
    "retry": ("acting", "submit copies of jobs"),
    "hold": ("acting", "keep queued jobs from starting"),
    "release": ("acting", "let held jobs start"),
    "gpus": ("devices", "the GPUs of all hosts, and who uses them"),
    "hosts": ("devices", "the hosts"),
    "templates": ("looking", "what you have kept of the form for new jobs"),
    "login": ("signing", "sign in to a server, once for this machine"),
    "logout": ("signing", "forget a sign-in, and make its token useless"),
    "whoami": ("signing", "which server is used, and as whom"),
    "completion": ("completion", "print completions for bash, zsh or fish"),
}
"""Word -> its module, and what it does. AutoTrainer.py has the same words (a house test compares)."""

Run = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str]) -> int:
    """The exit code. What is said goes to stdout, what went wrong to stderr."""
    try:
        return _dispatch(argv)
    except CliError as exc:
        print(exc, file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `… | head`: the reader has had enough. Without this the interpreter would complain at its own end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def run() -> None:
    """The installed `autotrainer`."""
    sys.exit(main(sys.argv[1:]))


def program() -> str:
    """What a person types to get here, for hints."""
    return "python3 AutoTrainer.py" if os.path.basename(sys.argv[0]) == "AutoTrainer.py" else "autotrainer"


def _dispatch(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        print(f"{program()} knows no {argv[0]!r}.\n\n{usage()}", file=sys.stderr)
        return 2
    parser, act = parser_of(argv[0])
    try:
        options = parser.parse_args(argv[1:])
    except SystemExit as exc:  # argparse has said why
        return exc.code if isinstance(exc.code, int) else 2
    code = act(options)
    sys.stdout.flush()
    return code


def parser_of(word: str) -> tuple[argparse.ArgumentParser, Run]:
    """The parser of one command and the function that does it. The other commands' are never built: it would take time."""
    module, help_text = COMMANDS[word]
    description = f"{help_text[0].upper()}{help_text[1:]}."
    parser = argparse.ArgumentParser(prog=f"{program()} {word}", description=description, allow_abbrev=False, formatter_class=_formatter)
    add = importlib.import_module(f".{module}", __package__).PARSERS[word]
    act: Run = add(parser)
    return parser, act


def _formatter(prog: str) -> argparse.HelpFormatter:
    """Without a width it would load shutil, with each option that is added, to ask for one."""
    return argparse.HelpFormatter(prog, width=max(60, min(tables.size().columns, 120)) - 2)


def usage() -> str:
    rows = "".join(f"  {word:11} {help_text}\n" for word, (_, help_text) in COMMANDS.items())
    return f"usage: {program()} COMMAND …\n\n{rows}\n`{program()} COMMAND --help` tells the options of each."
