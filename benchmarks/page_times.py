"""What pages and REST lists cost in the web process: `python -m benchmarks.page_times GPUS JOBS DAYS ROUNDS`, JSON to standard output.

With an environment as the product has it, of an installation that has no database yet. Each request goes through the whole
of the product but uvicorn: middleware, session or token, queries, templates. They come by turns, so that none has the
caches for itself alone.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import django

REDO_S = 1.0
"""Hosts are heard again after so long."""

Ask = Callable[[], Any]


def main(gpus: int, jobs: int, days: int, rounds: int) -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "autotrainer_site.settings"
    django.setup()
    from autotrainer_site import prepare
    from benchmarks import lab

    prepare.migrate()
    where = lab.make(os.environ["AUTOTRAINER_REDIS_URL"], gpus=gpus, jobs=jobs, waiting_pct=60 if days == 1 else 1, days=days)
    import_module("autotrainer_site.asgi")  # the web process is set up as there
    print(json.dumps(_measured(where, dict(single_pages(where) if days == 1 else filters(where)), rounds)))


def single_pages(lab: Any) -> Iterator[tuple[str, Ask]]:
    """Pages of which each has one address."""
    operator, submitter = _Asker(lab.people[0]), _Asker(lab.people[1])
    yield "sign-in page", _Asker(None).page("/signin/")
    running, ended, waiting = (_number(state) for state in ("running", "completed", "queued"))
    for name, asker in (("operator", operator), ("submitter", submitter)):
        yield f"dashboard, {name}", asker.page("/")
        yield f"dashboard again (live), {name}", asker.page("/live/")
    yield "list of jobs", operator.page("/jobs/?whose=all")
    yield "a job that runs", operator.page(f"/jobs/{running}/")
    yield "a job that runs, again (live)", operator.page(f"/jobs/{running}/live/")
    yield "a job that has ended", operator.page(f"/jobs/{ended}/")
    yield "a job that waits", operator.page(f"/jobs/{waiting}/")
    yield "form for a new job", submitter.page("/jobs/new/")
    yield "chart: devices", operator.rest(f"jobs/{running}/samples/")
    yield "chart: curves", operator.rest(f"jobs/{running}/curves/")
    yield "chart: last hour of all devices", operator.rest("devices/history/")
    yield "REST: devices", operator.rest("devices/?limit=1000")
    yield "REST: hosts", operator.rest("hosts/?limit=1000")
    yield "REST: jobs that are not over", operator.rest("jobs/?state=queued,held,starting,running,stopping&ordering=id&limit=200")
    yield "REST: one job", operator.rest(f"jobs/{running}/")


def filters(lab: Any) -> Iterator[tuple[str, Ask]]:
    """Every filter of the page, and of REST every filter and every order."""
    from jobs.api.job_views import ORDERINGS
    from jobs.states import JobState
    from jobs.web.views.joblist import FILTERS

    words = ("", "resnet", "sweep-77", "nothing-like-it", "person-3", "70000")
    for asker, whose in itertools.product((_Asker(lab.people[0]), _Asker(lab.people[1])), ("mine", "all")):
        who = "operator" if asker.user.is_operator else "submitter"
        for state, search in itertools.product([*FILTERS, "ended", *JobState], words):
            for page in (1, 40, 1000) if not search else (1,):
                query = f"state={state}&whose={whose}&search={search}&page={page}"
                yield f"page, {who}: {query}", asker.page(f"/jobs/?{query}")
    for asker in (_Asker(lab.people[0]), _Asker(lab.people[1])):
        who = "operator" if asker.user.is_operator else "submitter"
        for query in _queries([*JobState, "queued,held,starting,running,stopping"], words, ORDERINGS):
            yield f"REST, {who}: {query}", asker.rest(f"jobs/?{query}")


def _queries(states: list[str], words: tuple[str, ...], orderings: tuple[str, ...]) -> Iterator[str]:
    yield from (f"state={state}" for state in states)
    yield from (f"search={word}" for word in words)
    yield from (f"state={state}&search={word}" for state in ("completed", "failed", "queued") for word in words)
    yield from (f"ordering={sign}{name}" for name in orderings for sign in ("", "-"))
    yield from (f"state=completed&ordering={sign}{name}" for name in orderings for sign in ("", "-"))
    yield from (f"owner={owner}" for owner in ("person-3", "nobody"))
    yield from (f"owner=person-3&state={state}&ordering={order}" for state in ("completed", "queued") for order in ("-id", "ended_at"))
    yield from (f"{more}offset={offset}" for more in ("", "state=completed&") for offset in (1000, 50_000))


def _number(state: str) -> int:
    from jobs.models import Job

    return int(Job.objects.filter(state=state).values_list("pk", flat=True)[0])


class _Asker:
    """Somebody with a browser and a token; None is not signed in."""

    def __init__(self, user: Any) -> None:
        from django.test import Client
        from knox.models import AuthToken

        self.user, self._browser = user, Client(headers={"host": "localhost"})
        if user:
            self._browser.force_login(user)
            self._bearer = {"authorization": f"Bearer {AuthToken.objects.create(user)[1]}"}

    def page(self, path: str) -> Ask:
        return lambda: self._browser.get(path)

    def rest(self, path: str) -> Ask:
        return lambda: self._browser.get(f"/api/v1/{path}", headers=self._bearer)


def _measured(lab: Any, asked: dict[str, Ask], rounds: int) -> dict[str, dict[str, Any]]:
    """{what: its times in ms, the most queries that it took, the size of the answer}"""
    found: dict[str, dict[str, Any]] = defaultdict(lambda: {"ms": [], "cpu_ms": [], "queries": 0, "bytes": 0})
    heard_at = time.monotonic()
    for number in range(rounds + 1):
        for what, ask in asked.items():
            if time.monotonic() - heard_at > REDO_S:
                lab.beat()
                heard_at = time.monotonic()
            began, cpu_began = time.perf_counter(), time.process_time()
            queries, answer = once(ask)
            took_ms, cpu_ms = (time.perf_counter() - began) * 1000, (time.process_time() - cpu_began) * 1000
            if answer.status_code not in (200, 286):
                raise AssertionError(f"{what} answered {answer.status_code}: {answer.content[:300]!r}")
            if number:  # the first round warms everything up
                found[what]["ms"].append(took_ms)
                found[what]["cpu_ms"].append(cpu_ms)
                found[what] |= {"queries": max(queries, found[what]["queries"]), "bytes": len(answer.content)}
    return dict(found)


def once(ask: Ask) -> tuple[int, Any]:
    """How many queries it took, and the answer."""
    from django.db import connection

    count = 0

    def counted(execute: Any, *args: Any) -> Any:
        nonlocal count
        count += 1
        return execute(*args)

    if not connection.in_atomic_block:
        connection.close()  # as the server has it: each request opens its own
    with connection.execute_wrapper(counted):
        answer = ask()
    return count, answer


if __name__ == "__main__":
    main(*(int(each) for each in sys.argv[1:]))
