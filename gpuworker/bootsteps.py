"""Ties the agent to its Celery worker: made with it, started before it consumes, and let go of without a word to trainings."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from celery import Celery, bootsteps, signals
from celery.worker.control import control_command
from celery.worker.request import Request
from kombu.exceptions import OperationalError

from gpuworker import protocol, settings
from gpuworker.protocol import Spec

T = TypeVar("T")


def install(app: Celery, config: settings.Settings) -> None:
    app.autotrainer_settings = config
    app.steps["worker"].add(AgentStep)


class AgentStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """The agent of this worker. Its threads are its own: Celery's timer stands still while the broker is away."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        from gpuworker.agent import Agent  # here, so that `celery -A gpuworker inspect` needs no key and no devices

        app = worker.app
        self.agent = app.agent = _or_exit(lambda: Agent(app.autotrainer_settings, _publisher(app)))
        # A worker that hangs in a broker's silence never comes to `close`; its signal handler runs all the same.
        signals.worker_shutting_down.connect(self._leave, weak=False)

    def start(self, worker: Any) -> None:
        _or_exit(self.agent.start)

    def close(self, worker: Any) -> None:
        self.agent.leave()

    def stop(self, worker: Any) -> None:
        self.agent.stop()

    terminate = stop

    def _leave(self, **_: Any) -> None:
        self.agent.leave()


class DiscreetRequest(Request):  # type: ignore[misc]
    """`celery inspect active` and Flower show the command, never the spec with its environment."""

    def info(self, safe: bool = False) -> Any:
        return super().info(safe=True)


@control_command(name=protocol.STOP_COMMAND, args=[("sealed", str)], signature="<sealed>")  # type: ignore[untyped-decorator]
def autotrainer_stop(state: Any, sealed: Any = None, **_: Any) -> None:
    state.app.agent.stops.take(sealed)


def _publisher(app: Celery) -> Callable[[Spec, str], None]:
    """Puts the task of an attempt that was taken over into our own queue, for Flower and for Celery's retry."""

    def publish(spec: Spec, sealed: str) -> None:
        try:
            app.send_task(
                protocol.TRAIN_TASK,
                args=[spec.job, sealed],
                task_id=spec.job,
                queue=protocol.host_queue(app.autotrainer_settings.host),
                retries=spec.retries_spent,
                argsrepr=repr(spec.command[:200]),
                kwargsrepr="",
                ignore_result=True,
            )
        except (OperationalError, OSError):
            pass  # Only Flower misses it.

    return publish


def _or_exit(make: Callable[[], T]) -> T:
    """A setting that cannot be used ends the worker with a sentence, not with a traceback."""
    try:
        return make()
    except settings.BadSetting as exc:
        print(exc, file=sys.stderr, flush=True)
        raise SystemExit(1) from None
