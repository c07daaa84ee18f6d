"""What a host and the control plane say to each other before they work together. Standard library only.

host:<name>:hello     string, a sealed Hello, expires soon; the control plane takes it and answers
host:<name>:welcome   string, a sealed Welcome. Sealed with the key that belongs to the name: who cannot open it has another
"""

from __future__ import annotations

from dataclasses import dataclass

from gpuworker.message import Message
from gpuworker.protocol import KEY_PREFIX

HELLO_LIFETIME_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Message):
    """A host agent has started. `instance` names this start of it and no other."""

    instance: str
    at: float
    agent_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome(Message):
    """The answer to one Hello, which `to` names by its fingerprint. `at` is unix seconds by the control plane's clock."""

    to: str
    at: float


def hello_key(host: str) -> str:
    return f"{KEY_PREFIX}host:{host}:hello"


def welcome_key(host: str) -> str:
    return f"{KEY_PREFIX}host:{host}:welcome"
