"""What ends a command early: a text for stderr and an exit code. 0 is well done, 130 interrupted."""

from __future__ import annotations


class CliError(Exception):
    """The server refused it, or it failed."""

    exit_code = 1


class Unreachable(CliError):
    """Nobody answers, or not as AutoTrainer does."""


class UsageError(CliError):
    exit_code = 2


class NotFound(CliError):
    exit_code = 3


class NotAllowed(CliError):
    """Not signed in, or not permitted."""

    exit_code = 4
