"""The command line client stands alone, and the launcher knows its words."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from gpuworker.agent import AGENT_VERSION
from jobs.cli.main import COMMANDS
from tests.house.sources import CHECKOUT


def test_launcher_knows_the_words_of_the_client() -> None:
    assert runpy.run_path(str(CHECKOUT / "AutoTrainer.py"))["CLIENT"] == list(COMMANDS)


def test_readme_shows_every_word_of_the_client() -> None:
    section = (CHECKOUT / "README.md").read_text().partition("\n## From the command line\n")[2].partition("\n## ")[0]
    assert [word for word in COMMANDS if not re.search(rf"(autotrainer |`){word}\b", section)] == []


def test_agents_tell_the_version_of_the_project() -> None:
    assert tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"] == AGENT_VERSION


def test_client_runs_from_the_packages_that_are_installed_and_the_standard_library(tmp_path: Path) -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    assert project["project"]["dependencies"] == []
    (package,) = project["tool"]["setuptools"]["packages"]
    shutil.copytree(CHECKOUT / project["tool"]["setuptools"]["package-dir"][package], tmp_path / package)
    module, _, function = project["project"]["scripts"]["autotrainer"].partition(":")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from {module} import {function}; {function}()"
    for word in COMMANDS:
        done = subprocess.run([sys.executable, "-I", "-S", "-c", code, word, "--help"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), word
        assert f"usage: autotrainer {word}" in done.stdout
    environ = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, "list"], capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 4
    assert "autotrainer login" in done.stderr


def test_client_imports_nothing_heavy_for_a_list() -> None:
    code = (
        "import sys; from jobs.cli.main import main; code = main(['list']); "
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'django', 'celery', 'kombu', 'redis', 'ssl', 'dataclasses', 'typing'}))"
    )
    environ = {"AUTOTRAINER_TOKEN": "at_x", "AUTOTRAINER_URL": "http://127.0.0.1:9", "PATH": "/usr/bin:/bin"}
    argv = [sys.executable, "-E", "-s", "-S", "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environ, cwd=CHECKOUT)
    assert done.stdout == "[]\n", done.stderr
