"""The control worker's own threads: who leads, who starts, and what hosts report."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any

import redis
from celery import bootsteps
from django.conf import settings
from django.db import DatabaseError, connections
from django.utils import timezone

from jobs import artifacts, dispatch, drops, failures, health, hostlink, lifecycle, line, retention, shares
from jobs.explanation import Explanation, Told
from jobs.hosts import Watch
from jobs.ingest import Ingest
from jobs.leader import LEASE_S, Deposed, Leadership
from jobs.notifications.sending import Postman
from jobs.provenance import Provenance
from jobs.quiet import Quiet
from jobs.reconcile import EVERY_S as RECONCILE_EVERY_S
from jobs.reconcile import OldNews, Reconciler

log = logging.getLogger(__name__)

TICK_S = 5.0
"""A pass happens at least this often, whatever wake-up was missed."""
LOOK_EVERY_S = 1.0
EXPLAIN_EVERY_S = 0.5
EXPLAIN_AFTER_S = 0.05
"""After a wake-up: often the next one follows at once, and starting comes first."""
EXPLAIN_SHARE = 0.05
"""Of the scheduler's time, what telling why may take: with a long queue it happens less often."""
LONGEST_PAUSE_S = 5.0
SAY_EVERY_S = 60.0
COLLECT_AGAIN_S = 30.0
COUNT_EVERY_S = 5.0
PRUNE_AFTER_S, PRUNE_EVERY_S = 60.0, 24 * 3600.0
"""After the start there is more urgent work."""
SWITCH_S = 0.001
"""How long one thread keeps the others from running. Python's 5 ms would be added to each hand-over between ours."""


class Loop(threading.Thread):
    """Calls `turn` until it is stopped. A failure is logged, its database connections are given up, and it goes on later."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.stopping = threading.Event()

    def turn(self) -> None:
        raise NotImplementedError

    def halt(self) -> None:
        """No further turn; the present one is not interrupted."""
        self.stopping.set()

    def run(self) -> None:
        pause_s = 0.0
        try:
            while not self.stopping.wait(pause_s):
                pause_s = self._guarded_turn(pause_s)
        finally:
            connections.close_all()

    def _guarded_turn(self, pause_s: float) -> float:
        """Seconds to wait before the next turn: 0, or longer after each failure."""
        try:
            self.turn()
        except Deposed:
            return 1.0
        except Exception:
            log.exception("%s failed and goes on", self.name, extra={"action": "thread_failed"})
            connections.close_all()
            return min(LONGEST_PAUSE_S, max(0.2, 2 * pause_s))
        return 0.0


class Keeper(Loop):
    """Keeps the lease, looks at the hosts, reconciles."""

    def __init__(self, leadership: Leadership, scheduler: Scheduler) -> None:
        super().__init__("leader")
        self._leadership, self._scheduler = leadership, scheduler
        self._watch = Watch(writing=leadership.writing)
        self._reconciler = Reconciler(writing=leadership.writing)
        self._led = False
        self._reconcile_at = 0.0
        self._cut_off_at: float | None = None
        """Since when Redis has not been reached."""

    def turn(self) -> None:
        led = self._led
        self._led = self._leadership.keep(connected=led or hostlink.answers())
        if self._led:
            if not led:
                self._reconciler = Reconciler(writing=self._leadership.writing)
            self._lead(anew=not led)
        self.stopping.wait(LOOK_EVERY_S)

    def _lead(self, *, anew: bool) -> None:
        """`anew`: as the first thing of a term. Where Redis or a host is back, repair does not wait for its turn either."""
        try:
            if self._watch.look(timezone.now()) or anew:
                self._scheduler.wake()
            if anew or self._watch.to_repair or time.monotonic() >= self._reconcile_at:
                self._reconcile_at = time.monotonic() + RECONCILE_EVERY_S
                self._reconciler.round(timezone.now())
            self._cut_off_at = None
            self._leadership.offer(away=False)
        except redis.RedisError:
            self._reconcile_at = 0.0
            self._offer_if_cut_off()
            raise
        except OldNews as exc:
            log.warning("not repaired: %s", exc, extra={"action": "old_news"})

    def _offer_if_cut_off(self) -> None:
        """It may be only from here that Redis cannot be reached, and another control worker could go on."""
        now = time.monotonic()
        self._cut_off_at = now if self._cut_off_at is None else self._cut_off_at
        if now - self._cut_off_at >= LEASE_S:
            self._leadership.offer(away=True)


class Scheduler(Loop):
    """Places jobs whenever something happened, and explains the rest when there is time."""

    def __init__(self, leadership: Leadership) -> None:
        super().__init__("scheduler")
        self._leadership = leadership
        self._woken = threading.Event()
        self._unexplained = True
        self._explain_at = 0.0
        self._next_moment = float("inf")
        self._told = Told()
        self._shares = shares.Counter(writing=leadership.writing)

    def wake(self) -> None:
        """Something happened that may let a job start. Many at once are one."""
        self._woken.set()

    def halt(self) -> None:
        super().halt()
        self.wake()  # it may be resting for seconds

    def knocked(self) -> None:
        """Wake the scheduler that leads, here or elsewhere."""
        if self._leadership.held:
            self.wake()
        else:
            hostlink.ring()

    def turn(self) -> None:
        woken = self._woken.wait(self._rest_s())
        self._woken.clear()
        if not self._leadership.held:
            self._told = Told()
            self.stopping.wait(0.1)
            return
        if self._shares.turn(timezone.now()):
            line.look_again()
        self._place()
        now = time.monotonic()
        if woken and not self._unexplained:
            self._unexplained, self._explain_at = True, max(self._explain_at, now + EXPLAIN_AFTER_S)
        elif now >= self._explain_at:
            self._explain()

    def _rest_s(self) -> float:
        now = time.monotonic()
        return max(0.0, min(TICK_S, self._next_moment - now, self._explain_at - now if self._unexplained else TICK_S))

    def _place(self) -> None:
        dispatch.place(timezone.now(), writing=self._leadership.writing)

    def _explain(self) -> None:
        began = time.monotonic()
        explanation = Explanation(timezone.now(), writing=self._leadership.writing, told=self._told)
        for _ in explanation.steps():
            if self._woken.is_set():
                self._woken.clear()
                self._place()
        now = time.monotonic()
        self._unexplained = False
        self._explain_at = now + max(EXPLAIN_EVERY_S, (now - began) / EXPLAIN_SHARE)
        self._next_moment = now + explanation.next_in_s if explanation.next_in_s is not None else float("inf")


class IngestLoop(Loop):
    """Takes in what hosts report, where this process leads."""

    def __init__(self, leadership: Leadership, scheduler: Scheduler) -> None:
        super().__init__("ingest")
        self._leadership = leadership
        self._ingest = Ingest(on_knock=scheduler.wake)
        self._said_at = float("-inf")

    def turn(self) -> None:
        if not self._leadership.held:
            self.stopping.wait(0.2)
            return
        try:
            self._ingest.turn()
        except OSError as exc:
            self._wait_for_room(exc)

    def _wait_for_room(self, exc: OSError) -> None:
        """Logs wait on their hosts; reports have been taken in. Said now and then: our own log lies on the same disk."""
        if time.monotonic() - self._said_at >= SAY_EVERY_S:
            self._said_at = time.monotonic()
            log.error("logs cannot be stored and wait on their hosts: %s", exc, extra={"action": "log_failed"})
        self.stopping.wait(LOOK_EVERY_S)


class PostLoop(Loop):
    """Sends what the outbox holds, where this process leads. What it waits for, minutes for each letter at worst, holds up nobody."""

    def __init__(self, leadership: Leadership) -> None:
        super().__init__("post")
        self._leadership = leadership
        self._postman = Postman(writing=leadership.writing)

    def turn(self) -> None:
        if self._leadership.held:
            while self._postman.turn() and not self.stopping.is_set():
                pass
        self.stopping.wait(LOOK_EVERY_S)


class Beholder(Loop):
    """Collects what trainings leave, notes what they are made of and how they failed, and sees which may hang, where this process leads."""

    def __init__(self, leadership: Leadership) -> None:
        super().__init__("beholder")
        self._leadership = leadership
        self._provenance = Provenance()
        self._quiet = Quiet()
        self._collect_at: dict[str, float] = {}
        """By host: not before. One that did not answer is not asked for each of its attempts."""

    def turn(self) -> None:
        if self._leadership.held:
            self._collect()
            failures.explain(timezone.now())
            self._provenance.look(timezone.now())
            self._quiet.look(timezone.now())
        self.stopping.wait(LOOK_EVERY_S)

    def _collect(self) -> None:
        for attempt in artifacts.to_collect(timezone.now()):
            if self.stopping.is_set():
                return
            if time.monotonic() >= self._collect_at.get(attempt.host, 0.0) and artifacts.collect(attempt.job, attempt).error:
                self._collect_at[attempt.host] = time.monotonic() + COLLECT_AGAIN_S


class Janitor(Loop):
    """Once a day, where this process leads, throws away what is older than it has to be kept; and counts what was dropped here."""

    def __init__(self, leadership: Leadership) -> None:
        super().__init__("janitor")
        self._leadership = leadership
        self._next_at = time.monotonic() + PRUNE_AFTER_S
        self._drops, self._count_at = drops.Adder(), 0.0

    def turn(self) -> None:
        self.stopping.wait(LOOK_EVERY_S)
        if time.monotonic() >= self._count_at:
            self._count_at = time.monotonic() + COUNT_EVERY_S
            self._drops.add()
        if self._leadership.held and time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + PRUNE_EVERY_S
            retention.prune(days=settings.AUTOTRAINER.retention_days, now=timezone.now())
            connections.close_all()


class ControlThreads(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts and stops the threads with the worker (not with its broker connection, which comes and goes)."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        health.refuse_to_serve()
        self._leadership = Leadership()
        self._loops: list[Loop] = []

    def start(self, worker: Any) -> None:
        sys.setswitchinterval(SWITCH_S)
        scheduler = Scheduler(self._leadership)
        lifecycle.on_wake.append(scheduler.knocked)
        self._loops = [Keeper(self._leadership, scheduler), scheduler, IngestLoop(self._leadership, scheduler)]
        self._loops += [PostLoop(self._leadership), Beholder(self._leadership), Janitor(self._leadership)]
        for loop in self._loops:
            loop.start()

    def stop(self, worker: Any) -> None:
        """Let another control worker lead at once; trainings go on."""
        loops, self._loops = self._loops, []
        for loop in loops:
            loop.halt()
        for loop in loops:
            loop.join(timeout=3)
        lifecycle.on_wake.clear()
        if loops:
            self._resign()

    def _resign(self) -> None:
        try:
            self._leadership.resign()
        except DatabaseError as exc:
            log.warning("the lease runs out by itself: %s", exc, extra={"action": "leader_resigned"})
        connections.close_all()

    def terminate(self, worker: Any) -> None:
        self.stop(worker)
