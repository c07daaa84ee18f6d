"""Backups: what is in them, what is refused, and PostgreSQL. tests/faults/test_restore.py restores one among living hosts."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from autotrainer_site import backup
from jobs import dispatch, lifecycle
from jobs.models import Dispatch, Host, Job, Leader, User
from jobs.settlement import FAULT_BUDGET
from jobs.states import JobState
from tests.integration.databases import postgres_as_default
from tests.integration.fakehost import FakeHost
from tests.postgres import Postgres


@pytest.fixture
def ours(tmp_path: Path, settings: Any) -> Any:
    """A control plane's home with keys and one log."""
    home = tmp_path / "home"
    settings.LOGS_HOME = home / "logs"
    for name, text in {"keys/cluster_key": "the key", "logs/1/1.log": "epoch 1\n", "logs/1/odd name": "x"}.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    return SimpleNamespace(home=home)


@pytest.fixture
def postgresql(transactional_db: None, migrated_postgres: Postgres) -> Iterator[None]:
    with postgres_as_default(migrated_postgres):
        yield


def submit(owner: User, name: str) -> Job:
    return lifecycle.submit(owner, {"name": name, "command": "true", "working_dir": "/", "max_gpus": 1})


def test_postgresql_is_put_back_and_what_is_not_known_is_held(postgresql: None, ours: Any, broker: str, tmp_path: Path) -> None:
    ada = User.objects.create_user("ada", password="of the engine")
    Host.objects.create(name="gpu-a")
    host = FakeHost(broker, "gpu-a")
    host.beat()
    runs, offered, waits = submit(ada, "runs"), submit(ada, "offered"), submit(ada, "waits")
    dispatch.run_pass(timezone.now())
    first, _ = host.offers()
    lifecycle.started(host.started(first), host="gpu-a")
    with open(ours.home / "logs" / "1" / "2.log", "wb") as cut:
        cut.write(b"begin")
        cut.seek(64 * 2**20)
        cut.write(b"end")
    made = backup.make(ours, tmp_path / "kept" / "backup.tar.gz")
    with tarfile.open(made) as tar:
        assert sorted(tar.getnames()) == ["database.dump", "keys/cluster_key", "logs/1/1.log", "logs/1/2.log", "manifest.json"]
    later = submit(ada, "later")
    fence = Dispatch.objects.latest("pk").pk
    (ours.home / "keys" / "cluster_key").write_text("another key")

    summary = backup.restore(ours, made)

    assert (summary.held, summary.open) == (2, 1)
    found = {job.name: job for job in Job.objects.all()}
    assert {name: job.state for name, job in found.items()} == {"runs": JobState.RUNNING, "offered": JobState.HELD, "waits": JobState.HELD}
    assert {found[job.name].pk for job in (runs, offered, waits)} == {runs.pk, offered.pk, waits.pk}
    assert found["runs"].faults == FAULT_BUDGET
    assert "may have run since" in found["waits"].wait_message
    assert submit(ada, "anew").pk > later.pk + 900
    assert Dispatch.objects.create(job=waits, attempt_number=1, host="gpu-a", created_at=timezone.now()).pk > fence + 900_000
    assert (ours.home / "keys" / "cluster_key").read_text() == "the key"
    assert (summary.aside / "keys" / "cluster_key").read_text() == "another key"
    assert (ours.home / "logs" / "1" / "1.log").read_text() == "epoch 1\n"
    restored = ours.home / "logs" / "1" / "2.log"
    assert (restored.stat().st_size, restored.read_bytes().strip(b"\0")) == (64 * 2**20 + 3, b"begin" + bytes(64 * 2**20 - 5) + b"end")
    assert restored.stat().st_blocks * 512 < 2**20
    assert (summary.aside / "database.dump").stat().st_size
    assert made.stat().st_mode & 0o077 == 0
    host.close()


def test_backup_is_refused_while_a_control_worker_leads(postgresql: None, ours: Any, tmp_path: Path) -> None:
    made = backup.make(ours, tmp_path / "backup.tar.gz", logs=False)
    Leader.objects.update_or_create(pk=1, defaults={"holder": "another machine", "renewed_at": timezone.now()})
    with pytest.raises(backup.BackupFailed, match="stop it first"):
        backup.restore(ours, made)


def test_backup_of_another_database_is_refused(transactional_db: None, ours: Any, tmp_path: Path) -> None:
    other = "postgresql" if connection.vendor == "sqlite" else "sqlite"
    path = tmp_path / "backup.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        backup._add_text(tar, "manifest.json", backup.Manifest(timezone.now(), other).text())
    with pytest.raises(backup.BackupFailed, match="DATABASE_URL"):
        backup.restore(ours, path)


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_file_that_is_no_backup_is_refused(content: bytes | None, ours: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    if content is None:
        with tarfile.open(path, "w:gz") as tar:
            tar.add(ours.home / "keys" / "cluster_key", "../../etc/evil")
    else:
        path.write_bytes(content)
    with pytest.raises(backup.BackupFailed, match="is no backup of AutoTrainer"):
        backup.restore(ours, path)
