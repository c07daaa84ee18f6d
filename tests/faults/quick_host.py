"""The host agent's Celery app with shorter waits (tests/faults/clocks.py)."""

from __future__ import annotations

from gpuworker import agent, tail
from gpuworker.celery import app
from tests.faults.clocks import hurry

__all__ = ["app"]

hurry(agent, LOOK_EVERY_S=2.0, REPEAT_EVERY_S=0.7)
hurry(tail, STALL_S=1.0, LONGEST_STALL_S=4.0)
