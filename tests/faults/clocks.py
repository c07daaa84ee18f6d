"""The product's own services with shorter waits, so that what takes half a minute in a lab takes a second or two here.

`celery -A tests.faults.quick_host` and `celery -A tests.faults.quick_control` are the real apps; only these times differ.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any


def hurry(module: ModuleType, **times: Any) -> None:
    """Set constants of a module. One that is not there any more is a mistake of ours, said at once."""
    for name, value in times.items():
        if not hasattr(module, name):
            raise AttributeError(f"{module.__name__} has no {name} any more: mend tests/faults/clocks.py and its users")
        setattr(module, name, value)
