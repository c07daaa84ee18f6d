"""What the OpenAPI document promises, tried with generated requests as each role: no 5xx, and no answer of another status or shape.

A short run with a fixed seed is part of the tests; `AT_SCHEMA_EXAMPLES=200 python -m pytest tests/integration/test_api_schema.py`
is a longer one with fresh seeds,
and `python -m tests.schema_sweep` the longest, with boundary values and chains of calls.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from django.core.cache import cache
from django.core.management.color import no_style
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.utils import timezone
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from knox.models import AuthToken
from schemathesis import GenerationMode
from schemathesis import checks as known_checks

from jobs import logs
from jobs.models import JobTemplate, User
from jobs.states import JobState, Role
from tests.integration.rest import known_host, make_attempt, make_job, person, put_into

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("database"),
    pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume"),
]

SHORT, SEED = 2, 20261126
EXAMPLES = int(os.environ.get("AT_SCHEMA_EXAMPLES", "0"))

schemathesis.checks.load_all_checks()
CHECKS = [
    schemathesis.checks.not_a_server_error,
    known_checks.CHECKS.get_one("status_code_conformance"),
    known_checks.CHECKS.get_one("content_type_conformance"),
    known_checks.CHECKS.get_one("response_headers_conformance"),
    known_checks.CHECKS.get_one("response_schema_conformance"),
]
ROLES = [None, *Role]


@pytest.fixture
def known(broker: str, settings: Any) -> dict[str, list[Any]]:
    """Of ann, of everybody's queue: what the path of a call may name."""
    cache.clear()
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    known_host("gpu-a", 24)
    ann = person("ann")
    queued, held, over = (
        make_job(ann),
        make_job(ann, hold=True),
        make_job(ann, artifacts=["*.png"], swaps=[{"target": "a", "content": "b"}]),
    )
    make_attempt(over, outcome="failed", exit_code=1, ended_at=over.created_at, log_bytes=4)
    logs.append(over.pk, 1, 0, b"loss")
    put_into(over, JobState.FAILED, exit_code=1)
    return {"id": [queued.pk, held.pk, over.pk], "number": [1, 2], "name": ["gpu-a"], "uuid": ["GPU-gpu-a-0"]}


@pytest.mark.parametrize("role", ROLES, ids=[role or "anonymous" for role in ROLES])
def test_no_answer_is_other_than_the_schema_promises(role: Role | None, known: dict[str, list[Any]]) -> None:
    schema = schemathesis.openapi.from_wsgi("/api/v1/schema/?format=json", get_wsgi_application())
    asker = person("zoe", role) if role else None
    if asker:
        known = known | {"id": [*known["id"], make_job(asker).pk]}
        for number in known["id"]:
            JobTemplate.objects.create(
                pk=number, owner=asker, name=str(number), version=1, created_at=timezone.now(), changed_at=timezone.now()
            )
        with connection.cursor() as cursor:
            for sql in connection.ops.sequence_reset_sql(no_style(), [JobTemplate]):  # of PostgreSQL: the numbers were our choice
                cursor.execute(sql)
    for found in schema.get_all_operations():
        if asker:
            _try(found.ok(), asker, known, modes=[GenerationMode.POSITIVE])
        _try(found.ok(), asker, {}, modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])


def _try(operation: Any, asker: User | None, there: dict[str, list[Any]], *, modes: list[GenerationMode]) -> None:
    """Generated calls; `there`: what they name in their paths instead of anything."""
    cases = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes))
    choices = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in there.items()})

    @settings(max_examples=EXAMPLES or SHORT, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=cases, named=choices)
    def tried(case: Any, named: dict[str, Any]) -> None:
        case.path_parameters = {name: named.get(name, value) for name, value in (case.path_parameters or {}).items()}
        head = {"Authorization": f"Bearer {AuthToken.objects.create(asker)[1]}"} if asker else {}
        case.validate_response(case.call(headers=head), checks=CHECKS, headers=head)

    run: Callable[[], None] = tried if EXAMPLES else seed(SEED)(tried)
    run()
