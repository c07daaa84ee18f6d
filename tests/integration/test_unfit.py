"""Processes that would harm a database, or could do nothing with it, end at once and say why: of another home, or of a newer version."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.product import CHECKOUT, Product
from tests.postgres import Postgres
from tests.waiting import wait_until

WEB = ("-m", "uvicorn", "autotrainer_site.asgi:application", "--uds", "web.sock", "--lifespan", "off")
CONTROL = ("-m", "celery", "-A", "autotrainer_site", "worker", "-Q", "control", "-P", "solo", "--without-gossip", "--without-mingle")
GOES_WITH_ANOTHER = "The database goes with another AUTOTRAINER_HOME than"


class Plane:
    """A control plane's machine: its home, and what is run there."""

    def __init__(self, root: Path, redis_url: str, database_url: str) -> None:
        root.mkdir()
        self.root = root
        self.environ = Product(root).environ | {"AUTOTRAINER_REDIS_URL": redis_url, "DATABASE_URL": database_url}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """What is expected to end by itself."""
        return subprocess.run(
            [sys.executable, *words], cwd=CHECKOUT, env=self.environ, capture_output=True, text=True, timeout=90, check=False
        )

    def refused(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode != 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stderr

    def web_serves(self) -> bool:
        """Whether a web process comes up; it is ended again."""
        path = self.root / "web.sock"
        argv = [sys.executable, *WEB[:4], str(path), *WEB[5:]]
        with (self.root / "web.log").open("wb") as log, subprocess.Popen(argv, cwd=CHECKOUT, env=self.environ, stderr=log) as web:
            wait_until(lambda: path.exists() or web.poll() is not None, 60, "it serves or ends")
            serves = web.poll() is None
            web.terminate()
        return serves


@pytest.fixture
def planes(tmp_path: Path, redis_url: str, postgres: Postgres) -> Iterator[tuple[Plane, Plane]]:
    """Two machines on one database, each with a home of its own; the first one's has been prepared."""
    url = postgres.fresh()
    first, second = Plane(tmp_path / "a", redis_url, url), Plane(tmp_path / "b", redis_url, url)
    done = first.run("manage.py", "prepare")
    assert done.returncode == 0, done.stderr
    return first, second


def test_second_control_plane_with_a_home_of_its_own_is_refused_in_one_sentence(planes: tuple[Plane, Plane]) -> None:
    first, second = planes
    for words in (("manage.py", "prepare"), WEB, CONTROL):
        assert GOES_WITH_ANOTHER in second.refused(*words)
    told = second.run("manage.py", "doctor").stdout
    assert GOES_WITH_ANOTHER in told
    assert "`manage.py prepare --new-home`" in told
    assert first.run("manage.py", "prepare").returncode == 0
    assert first.web_serves()


def test_shared_home_serves_from_both(planes: tuple[Plane, Plane]) -> None:
    first, second = planes
    second.environ["AUTOTRAINER_HOME"] = first.environ["AUTOTRAINER_HOME"]
    assert second.run("manage.py", "prepare").returncode == 0
    assert second.web_serves()


def test_new_home_takes_the_place_of_the_old_one_where_somebody_says_so(planes: tuple[Plane, Plane]) -> None:
    first, second = planes
    assert second.run("manage.py", "prepare", "--new-home").returncode == 0
    assert second.web_serves()
    assert GOES_WITH_ANOTHER in first.refused("manage.py", "prepare")


@pytest.mark.parametrize("words", [WEB, CONTROL])
def test_database_that_is_behind_is_served_by_nobody(tmp_path: Path, redis_url: str, postgres: Postgres, words: tuple[str, ...]) -> None:
    said = Plane(tmp_path / "a", redis_url, postgres.fresh()).refused(*words)
    assert "The database is behind this version of AutoTrainer" in said
    assert "run manage.py prepare" in said


def test_database_that_does_not_answer_keeps_no_web_process_from_starting(tmp_path: Path, redis_url: str) -> None:
    assert Plane(tmp_path / "a", redis_url, f"postgres:///nothing?host={tmp_path}").web_serves()
