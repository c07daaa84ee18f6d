"""Answers what the control plane asks: in threads of their own, so that a directory that hangs keeps nobody from anything."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import redis

from gpuworker import dropped, gitstate, lookingaround, misplaced, protocol
from gpuworker.artifacts import Artifacts
from gpuworker.link import Link
from gpuworker.protocol import BadEnvelope, BadMessage, Kind
from gpuworker.questions import ANSWER_LIFETIME_S, Answer, Ask, Question, answer_key, questions_key
from gpuworker.settings import Settings
from gpuworker.stacks import Stacks

log = logging.getLogger(__name__)

BLOCK_S = 4
AT_ONCE = 8
"""Questions that are being answered: where so many hang, the next ones are told so."""
REMEMBERED = 1000


class Unanswerable(Exception):
    """The text is a sentence for whoever asked."""


class Answering:
    """One per agent."""

    def __init__(self, link: Link, config: Settings) -> None:
        self._link = link
        artifacts = Artifacts(config)
        self._handlers: Mapping[Ask, Callable[[Question], Any]] = {
            Ask.ARTIFACTS: artifacts.listed,
            Ask.ARTIFACT: artifacts.piece,
            Ask.CHECK: lambda question: lookingaround.check(question.args),
            Ask.GIT: lambda question: gitstate.of(question.args.get("working_dir", "")),
            Ask.STACKS: Stacks(config).of,
            Ask.ENVIRONMENTS: lambda question: lookingaround.environments(question.args),
        }
        self._free = threading.Semaphore(AT_ONCE)
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="questions", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                found: Any = self._link.client.blpop([questions_key(self._link.host)], timeout=BLOCK_S)
                if found:
                    self._take(found[1])
            except redis.RedisError as exc:
                log.debug("questions cannot be read: %s", exc)
                self._clear()
                self._stopped.wait(1.0)
            except Exception:
                log.exception("A question could not be taken", extra={"action": "question_failed"})
                self._stopped.wait(1.0)

    def _clear(self) -> None:
        try:
            misplaced.clear(self._link.client, {questions_key(self._link.host): "list"})
        except redis.RedisError as exc:
            log.debug("nor can their key be looked at: %s", exc)

    def _take(self, text: bytes) -> None:
        try:
            question = Question.read(protocol.unseal(Kind.QUESTION, self._link.host, text, self._link.keys))
        except (BadEnvelope, BadMessage) as exc:
            dropped.warn(log, "A question was dropped: %s", exc, action=dropped.Drop.QUESTION)
            return
        if question.expires_at < time.time() or question.id in self._seen:
            return
        self._seen[question.id] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        if not self._free.acquire(blocking=False):
            self._say(Answer(id=question.id, error="The host is busy with other questions: a file system may hang there."))
            return
        threading.Thread(target=self._answer, args=(question,), name="answer", daemon=True).start()

    def _answer(self, question: Question) -> None:
        try:
            answer = Answer(id=question.id, told=json.dumps(self._handlers[question.ask](question)))
        except Unanswerable as exc:
            answer = Answer(id=question.id, error=str(exc))
        except (OSError, ValueError) as exc:
            answer = Answer(id=question.id, error=f"The host could not look: {exc}.")
        except Exception:
            log.exception("A question could not be answered", extra={"action": "question_failed"})
            answer = Answer(id=question.id, error="The host could not answer; its log says why.")
        finally:
            self._free.release()
        self._say(answer)

    def _say(self, answer: Answer) -> None:
        key = answer_key(self._link.host, answer.id)
        pipe = self._link.client.pipeline()
        pipe.rpush(key, protocol.seal(Kind.ANSWER, self._link.host, answer.body(), self._link.key))
        pipe.expire(key, ANSWER_LIFETIME_S)
        try:
            pipe.execute()
        except redis.RedisError as exc:
            log.debug("an answer is lost: %s", exc)
