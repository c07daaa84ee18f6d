"""What the control plane may ask a host, and the answers. Standard library only.

    host:<name>:questions       list, sealed Questions; the host takes them, each at once or never
    host:<name>:answer:<id>     list with the one sealed Answer to a question, expires soon

A question changes nothing. It expires, and an answer names the question that it is to.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from gpuworker.message import Message
from gpuworker.protocol import KEY_PREFIX

ANSWER_LIFETIME_S = 60
MOST_WAITING = 200
"""More than this lies there only where nobody takes them."""
PIECE_BYTES = 768 * 1024
MOST_ARTIFACTS = 200


class Ask(enum.StrEnum):
    ARTIFACTS = "artifacts"
    """Which files of an attempt's working directory match `patterns`: a list of {name, size, modified_at}."""
    ARTIFACT = "artifact"
    """PIECE_BYTES at most of the file `name` from `offset` on: {data (base64), size}."""
    CHECK = "check"
    """Whether a job could start here: {directory, program, environment}, each a sentence that says why not, or empty."""
    GIT = "git"
    """Where a directory is in a git repository: {commit, branch, dirty}, else null."""
    ENVIRONMENTS = "environments"
    """Python environments of this host: a list of paths."""
    STACKS = "stacks"
    """What the Python processes of an attempt are doing: a list of {pid, stack}, empty without py-spy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(Message):
    id: str
    ask: Ask
    expires_at: float
    args: dict[str, str] = field(default_factory=dict)
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Message):
    id: str
    told: str = "null"
    """JSON."""
    error: str = ""
    """Why there is no answer, as a sentence."""


def questions_key(host: str) -> str:
    return f"{KEY_PREFIX}host:{host}:questions"


def answer_key(host: str, question: str) -> str:
    return f"{KEY_PREFIX}host:{host}:answer:{question}"
