"""Which code an attempt ran: the commit of its directory, by a real agent and a real git."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from gpuworker import gitstate
from jobs import asking
from jobs.asking import Asked
from jobs.models import Attempt, User
from jobs.provenance import ASK_FOR, Provenance
from tests.integration.host import CLUSTER_KEY, HOST, Host, running_host
from tests.integration.rest import Rest, make_attempt, make_job, person


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "train.py").write_text("1")
    for words in (
        ["init", "-q", "-b", "trunk"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "-m", "first"],
    ):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    return folder


def test_commit_branch_and_changes_are_told(repository: Path, tmp_path: Path) -> None:
    told = gitstate.of(str(repository))
    assert told
    assert (len(told["commit"]), told["branch"], told["dirty"]) == (40, "trunk", False)
    (repository / "new.txt").touch()
    assert gitstate.of(str(repository)) == told  # not yet part of it
    (repository / "train.py").write_text("2")
    assert gitstate.of(str(repository)) == told | {"dirty": True}
    subprocess.run(["git", "-C", str(repository), "checkout", "-q", "--detach"], check=True)
    assert (gitstate.of(str(repository)) or {})["branch"] == ""
    assert gitstate.of(str(tmp_path / "nowhere")) is None
    assert gitstate.of("/") is None


def test_programs_of_a_repository_are_not_run(repository: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trapped"
    hook = repository / "trap.sh"
    hook.write_text(f"#!/bin/sh\ntouch {trap}\n")
    hook.chmod(0o755)
    subprocess.run(["git", "-C", str(repository), "config", "core.fsmonitor", str(hook)], check=True)
    assert gitstate.of(str(repository))
    assert not trap.exists()


def test_repository_that_takes_too_long_says_nothing(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gitstate, "LONGEST_S", 0.0)
    assert gitstate.of(str(repository)) is None


@pytest.fixture
def host(broker: str, settings: Any, tmp_path: Path) -> Iterator[Host]:
    settings.CLUSTER_KEY = CLUSTER_KEY
    with running_host(broker, tmp_path) as host:
        yield host


def test_attempt_keeps_the_commit_of_its_beginning(host: Host, repository: Path, ada: User) -> None:
    job = make_job(ada, working_dir=str(repository))
    elsewhere = make_job(ada, working_dir="/")
    now = timezone.now()
    make_attempt(job, 1, host=HOST, started_at=now)
    make_attempt(elsewhere, 1, host=HOST, started_at=now)
    late = make_attempt(make_job(ada, working_dir=str(repository)), 1, host=HOST, started_at=now - ASK_FOR - timedelta(seconds=5))
    assert Provenance().look(now) == 2
    (repository / "train.py").write_text("2")
    assert Provenance().look(now) == 0
    (told,) = Rest(ada)("GET", f"jobs/{job.pk}/").json()["attempts"]
    assert (told["git"]["branch"], told["git"]["dirty"]) == ("trunk", False)
    assert Rest(person("bob"))("GET", f"jobs/{job.pk}/").json()["attempts"][0]["git"] is None
    assert Rest(ada)("GET", f"jobs/{elsewhere.pk}/").json()["attempts"][0]["git"] is None
    assert Attempt.objects.get(pk=late.pk).git is None


@pytest.mark.django_db
def test_silent_host_is_left_alone_for_a_while_and_nonsense_is_no_commit(monkeypatch: pytest.MonkeyPatch, client: Any) -> None:
    ann, asked = person("ann"), []
    answers = [Asked(error="silent"), Asked({"commit": "../../x"})]

    def ask(*args: Any, **how: Any) -> Asked:
        asked.append(args)
        return answers[len(asked) - 1]

    monkeypatch.setattr(asking, "ask", ask)
    now = timezone.now()
    job = make_job(ann)
    make_attempt(job, 1, started_at=now)
    one = Provenance()
    assert [one.look(now), one.look(now + timedelta(seconds=5)), one.look(now + timedelta(seconds=40))] == [0, 0, 1]
    assert len(asked) == 2
    assert Attempt.objects.get().git == {}
    client.force_login(ann)
    assert 'id="git"' not in client.get(f"/jobs/{job.pk}/").content.decode()
    Attempt.objects.update(git={"commit": "a" * 40, "branch": "main", "dirty": True})
    page = client.get(f"/jobs/{job.pk}/").content.decode()
    assert "aaaaaaaaaa</code> main" in page
    assert "not committed" in page
