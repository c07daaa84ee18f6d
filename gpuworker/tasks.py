"""`autotrainer.train` on a host: attach to the attempt that the sealed spec names, or start it. Thin."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NoReturn

import redis
from celery import Celery
from celery.exceptions import Ignore, Reject, Retry

from gpuworker import dropped, failpoints, protocol
from gpuworker.protocol import Ended, EndReason, Kind, Spec
from gpuworker.watch import Detached

if TYPE_CHECKING:
    from gpuworker.agent import Agent

log = logging.getLogger(__name__)


class AttemptFailed(RuntimeError):
    """What Celery and Flower get to see of an attempt that did not complete."""


def register(app: Celery) -> None:
    """Give the app its tasks. The agent comes with the worker (bootsteps.py)."""
    _add_canary(app)

    @app.task(  # type: ignore[untyped-decorator]
        name=protocol.TRAIN_TASK,
        bind=True,
        ignore_result=True,
        max_retries=None,
        throws=(AttemptFailed,),
        Request="gpuworker.bootsteps:DiscreetRequest",
    )
    def train(self: Any, uid: object = None, sealed: object = None, *_: object, **__: object) -> None:
        agent: Agent | None = getattr(app, "agent", None)
        spec = read_spec(agent, self.request.id, uid, sealed) if agent else None
        if agent is None or spec is None or not isinstance(sealed, str):
            raise Ignore
        ended = _attach_or_start(agent, spec, sealed)
        if ended is None:
            raise Ignore
        settle(self, spec, ended)


def _add_canary(app: Celery) -> None:
    @app.task(name=protocol.CANARY_TASK, ignore_result=True, send_events=False)  # type: ignore[untyped-decorator]
    def canary(sealed: object = None, *_: object, **__: object) -> None:
        if agent := getattr(app, "agent", None):
            agent.ear.heard(sealed)

    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).addFilter(_not_of_a_canary)


def _not_of_a_canary(record: logging.LogRecord) -> bool:
    """Celery says two lines for each task; three canaries a minute would be all that an idle host's log holds."""
    return record.levelno > logging.INFO or not (isinstance(record.args, dict) and record.args.get("name") == protocol.CANARY_TASK)


def read_spec(agent: Agent, task_id: str, uid: object, sealed: object) -> Spec | None:
    """The spec in a task's arguments; None, and a line in the log, where it is not the control plane's word to this host."""
    try:
        if not isinstance(sealed, str):
            raise protocol.BadEnvelope("there is no spec")
        spec = Spec.read(protocol.unseal(Kind.SPEC, agent.link.host, sealed, agent.link.keys))
        if not spec.job == uid == task_id:
            raise protocol.BadEnvelope(f"the spec is for job {spec.job}, the task for {task_id}")
    except (protocol.BadEnvelope, protocol.BadMessage) as exc:
        dropped.warn(log, "A task was dropped: %s", exc, action=dropped.Drop.TASK)
        return None
    return spec


def _attach_or_start(agent: Agent, spec: Spec, sealed: str) -> Ended | None:
    key = protocol.attempt_key(spec.job, spec.attempt, spec.fence)
    failpoints.hit("agent.spec_opened")
    try:
        return agent.runner.join(key) or agent.runner.run(spec, sealed)
    except Detached:
        return None
    except redis.RedisError as exc:
        log.warning("Not started, Redis is away: %s", exc, extra={"action": "claim", "attempt_key": key})
        return None


def settle(task: Any, spec: Spec, ended: Ended) -> None:
    """Tell Celery how it ended. The report is out already and the row decides; this is its picture in Flower."""
    if ended.reason is EndReason.EXITED and ended.exit_code == 0:
        return
    failure = AttemptFailed(describe(ended))
    delay_s = protocol.retry_in_s(
        ended,
        max_retries=spec.max_retries,
        retries_spent=spec.retries_spent,
        retry_delay_s=spec.retry_delay_s,
        retry_on_oom=spec.retry_on_oom,
    )
    if delay_s is None:
        raise failure
    _retry(task, spec, failure, delay_s)


def _retry(task: Any, spec: Spec, failure: AttemptFailed, delay_s: float) -> NoReturn:
    """Celery's own retry, through the control plane's front door. Only the job's id goes there: no command, no environment."""
    failpoints.hit("retry.sending")
    try:
        raise task.retry(
            exc=failure,
            args=[spec.job],
            kwargs={},
            countdown=min(delay_s, protocol.LONGEST_COUNTDOWN_S),
            max_retries=spec.max_retries,
            queue=protocol.CONTROL_QUEUE,
            argsrepr=repr(spec.command[:200]),
            kwargsrepr="",
        )
    except (Retry, AttemptFailed):
        failpoints.hit("retry.sent")
        raise
    except Reject as exc:
        log.warning("Redis took no retry; the scheduler has its time: %s", exc, extra={"action": "retry_lost", "job_id": spec.number})
        raise Ignore from exc
    except Exception as exc:  # Celery 5.7 raises AttributeError too where a worker's first publish finds no Redis.
        log.warning("Redis took no retry; the scheduler has its time: %r", exc, extra={"action": "retry_lost", "job_id": spec.number})
        raise Ignore from exc


def describe(ended: Ended) -> str:
    if ended.reason is not EndReason.EXITED:
        return ended.reason.value
    return f"signal {ended.signal}" if ended.signal else f"exit code {ended.exit_code}"
