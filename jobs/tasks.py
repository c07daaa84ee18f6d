"""The front door: what Celery delivers to the control plane is a knock, never a decision."""

from __future__ import annotations

from typing import Any, NoReturn

from celery import shared_task
from celery.exceptions import Ignore

from gpuworker import protocol
from jobs import lifecycle


@shared_task(name=protocol.TRAIN_TASK, ignore_result=True, send_events=False)  # type: ignore[untyped-decorator]
def knock(*_args: Any, **_kwargs: Any) -> NoReturn:
    """Wake the scheduler. The same task id runs on a host later: ignored here, so that Flower shows it queued until then."""
    lifecycle.wake()
    raise Ignore
