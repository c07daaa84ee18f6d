"""People, jobs and hosts for tests of the REST interface, and a client that speaks as one of them."""

from __future__ import annotations

import json
from typing import Any

from django.test import Client
from django.utils import timezone
from knox.models import AuthToken

from jobs import lifecycle
from jobs.models import Attempt, Device, Host, Job, User
from jobs.states import JobState, Role

GIB = 1024


def person(name: str, role: Role = Role.SUBMITTER) -> User:
    """Without a password: to hash one takes longer than most tests."""
    return User.objects.create_user(username=name, role=role)


def token_of(user: User) -> str:
    return str(AuthToken.objects.create(user)[1])


class Rest:
    """Calls as one person, JSON both ways; paths below /api/v1/ unless they begin with a slash."""

    def __init__(self, user: User | None = None, *, token: str = "") -> None:
        self._client = Client(raise_request_exception=False)
        self.token = token or (token_of(user) if user else "")

    def __call__(self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, **headers: str) -> Any:
        head = {"authorization": f"Bearer {self.token}"} if self.token else {}
        head |= {name.replace("_", "-"): value for name, value in headers.items()}
        url = path if path.startswith("/") else f"/api/v1/{path}"
        kind = head.pop("content-type", "application/json")
        sent: dict[str, Any] = {"data": raw} if raw is not None else {} if body is None else {"data": body}
        if raw is not None or body is not None:
            sent["content_type"] = kind
        return self._client.generic(method, url, **self._encoded(sent), headers=head)

    @staticmethod
    def _encoded(sent: dict[str, Any]) -> dict[str, Any]:
        data = sent.get("data")
        return sent | {"data": json.dumps(data)} if data is not None and not isinstance(data, bytes) else sent


def make_job(owner: User, **fields: Any) -> Job:
    given = {"name": "job", "command": "true", "working_dir": "/work"} | fields
    after, hold = given.pop("after", ()), given.pop("hold", False)
    return lifecycle.submit(owner, given, after=after, hold=hold)


def put_into(job: Job, state: JobState, **fields: Any) -> None:
    Job.objects.filter(pk=job.pk).update(state=state, **fields)
    job.refresh_from_db()


def make_attempt(job: Job, number: int = 1, **fields: Any) -> Attempt:
    now = timezone.now()
    given = {"fence": job.pk * 1000 + number, "host": "gpu-a", "offer_expires_at": now, "created_at": now} | fields
    return Attempt.objects.create(job=job, number=number, **given)


def known_host(name: str, *sizes_gib: int, **fields: Any) -> Host:
    """A host whose devices have been told."""
    host = Host.objects.create(name=name, **({"inventory_known": True, "device_count": len(sizes_gib)} | fields))
    for index, size in enumerate(sizes_gib):
        Device.objects.create(uuid=f"GPU-{name}-{index}", host=host, index=index, memory_total_mib=size * GIB, updated_at=timezone.now())
    return host


def errors(answer: Any) -> dict[str | None, str]:
    """attr -> detail of a refusal in the one shape that all have."""
    body = answer.json()
    assert set(body) == {"type", "errors"}, body
    for each in body["errors"]:
        assert set(each) == {"code", "detail", "attr"}, each
    return {each["attr"]: each["detail"] for each in body["errors"]}
