"""What the submit page says while somebody types: by hosts that are asked, and never in the way of a submission."""

from __future__ import annotations

from typing import Any

import pytest

from gpuworker.questions import Ask
from jobs import asking
from jobs.asking import Asked
from jobs.models import Job, User
from jobs.states import Role
from tests.integration.fakehost import FakeHost
from tests.integration.rest import person

FORM = {"command": "python train.py", "working_dir": "/home/ada/mnist", "min_gpus": "1", "max_gpus": "1"}
FINE = {"directory": "", "program": "", "environment": ""}


class Hosts(dict[str, Asked]):
    """What hosts answer; what they were asked."""

    asked: list[tuple[list[str], Ask, dict[str, str]]]

    def __init__(self) -> None:
        super().__init__()
        self.asked = []

    def ask_all(self, hosts: list[str], what: Ask, args: dict[str, str], **_: Any) -> dict[str, Asked]:
        self.asked.append((list(hosts), what, args))
        return {host: self.get(host, Asked(error="no answer")) for host in hosts}


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Hosts:
    hosts = Hosts()
    monkeypatch.setattr(asking, "ask_all", hosts.ask_all)
    return hosts


def said(client: Any, user: User, **changes: str) -> str:
    client.force_login(user)
    answer = client.post("/jobs/new/check/", FORM | changes)
    assert answer.status_code == 200
    return answer.content.decode().replace("&#x27;", "'")


def test_directory_and_program_that_are_there_are_said_and_that_it_would_start(
    host: FakeHost, hosts: Hosts, client: Any, ada: User
) -> None:
    hosts["gpu-a"] = Asked(FINE)
    told = said(client, ada)
    assert "Directory and program are there on gpu-a." in told
    assert "It would start at once." in told
    args = {"working_dir": "/home/ada/mnist", "command": "python train.py", "environment": "", "path": ""}
    assert hosts.asked == [(["gpu-a"], Ask.CHECK, args)]
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("what", "why", "told"),
    [
        ("directory", "does not exist", "/home/ada/mnist does not exist on gpu-a."),
        ("program", "is not found", "python is not found on gpu-a."),
        ("environment", "has no folder 'bin'", "/venv has no folder 'bin' on gpu-a."),
    ],
)
def test_what_is_missing_is_named_with_where(host: FakeHost, hosts: Hosts, client: Any, ada: User, what: str, why: str, told: str) -> None:
    hosts["gpu-a"] = Asked(FINE | {what: why})
    page = said(client, ada, environment="/venv")
    assert told in page
    assert "are there on" not in page


def test_silent_host_is_said_and_strange_words_are_only_words(host: FakeHost, hosts: Hosts, client: Any, ada: User) -> None:
    assert "gpu-a did not answer in time" in said(client, ada)
    hosts["gpu-a"] = Asked({"directory": "<script>" * 100})
    assert "<script>" not in said(client, ada)
    hosts["gpu-a"] = Asked(["nonsense"])
    assert said(client, ada)


def test_what_cannot_be_read_yet_asks_nobody(host: FakeHost, hosts: Hosts, client: Any, ada: User) -> None:
    assert said(client, ada, command="  ").strip() == ""
    assert said(client, ada, time_limit_s="so").strip() == ""
    assert "priority" in said(client, ada, priority="5000") or "1000" in said(client, ada, priority="5000")
    assert hosts.asked == []


def test_why_it_would_wait_is_said(host: FakeHost, hosts: Hosts, submit: Any, client: Any, ada: User) -> None:
    hosts["gpu-a"] = Asked(FINE)
    host.devices = [host.device(0, in_use_outside=True), host.device(1, in_use_outside=True)]
    host.beat()
    told = said(client, ada)
    assert "Needs 1 GPU; gpu-a has 0 of 2" in told
    submit()
    assert "1 job waits in line" in said(client, ada)


def test_hosts_that_it_may_not_use_are_not_asked(host: FakeHost, hosts: Hosts, client: Any, ada: User) -> None:
    said(client, ada, hosts="gpu-z")
    assert hosts.asked == []


def test_environments_of_hosts_are_offered(host: FakeHost, hosts: Hosts, client: Any, ada: User) -> None:
    hosts["gpu-a"] = Asked(["/home/ada/.venv", '/odd"path'])
    client.force_login(ada)
    page = client.get("/jobs/new/environments/", {"working_dir": "/home/ada"}).content.decode()
    assert '<option value="/home/ada/.venv">' in page
    assert '"/odd"' not in page
    assert hosts.asked[0][2] == {"working_dir": "/home/ada"}


def test_only_who_may_submit_is_told(host: FakeHost, hosts: Hosts, client: Any) -> None:
    assert client.post("/jobs/new/check/", FORM).headers["HX-Refresh"] == "true"
    client.force_login(person("vera", Role.VIEWER))
    assert client.post("/jobs/new/check/", FORM).status_code == 403
    assert client.get("/jobs/new/check/").status_code == 405
