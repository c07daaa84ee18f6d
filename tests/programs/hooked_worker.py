"""The host agent's worker with handles for a test: it can be made deaf, made impatient, and held between claim and launch.

Started as `python hooked_worker.py worker …`; starts over as itself. Handles: the remote command `test_deafen`, which stops
the consumption of the queue for good as kombu's bugs do, and a file named by AT_HOLD: while it is there, looking at devices
waits.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from celery.worker.control import control_command

from gpuworker import canary, inventory
from gpuworker.celery import app

canary.START_OVER_AFTER_S = float(os.environ.get("AT_START_OVER_AFTER_S", "60"))
_look = inventory.Inventory.look


def _held_look(self: Any, uuids: Any, **more: Any) -> dict[str, str]:
    hold = Path(os.environ.get("AT_HOLD", "/nonexistent"))
    if hold.exists():
        hold.with_suffix(".reached").touch()
    while hold.exists():
        time.sleep(0.02)
    return _look(self, uuids, **more)


inventory.Inventory.look = _held_look  # type: ignore[method-assign]


@control_command(name="test_deafen")
def test_deafen(state: Any, **_: Any) -> dict[str, str]:
    state.consumer.task_consumer.cancel()
    return {"ok": "deaf"}


if __name__ == "__main__":
    app.start(argv=sys.argv[1:])
