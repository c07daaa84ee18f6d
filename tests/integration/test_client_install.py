"""`pip install .` in a fresh virtual environment: the client, and nothing of what the server needs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing
from tests.house.sources import CHECKOUT

TOOLS = {"pip", "setuptools", "wheel"}


def run(*argv: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(each) for each in argv], capture_output=True, text=True, check=False, timeout=120, **more)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The environment. What builds a package comes from the network; without one the house tests must do."""
    base = Path(getattr(sys, "_base_executable", sys.executable))
    if run(base, "-m", "venv", tmp_path / "venv").returncode:
        missing("the package with `python3 -m venv`")
    done = run(tmp_path / "venv/bin/pip", "install", "--retries", "0", sources(tmp_path / "sources"))
    if done.returncode and "No matching distribution found for setuptools" in done.stdout + done.stderr:
        missing("a package index")
    assert done.returncode == 0, done.stdout + done.stderr
    return tmp_path / "venv"


def sources(folder: Path) -> Path:
    """What the installation is made of; in the checkout itself it would leave a build folder."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    (package,) = project["tool"]["setuptools"]["package-dir"].values()
    shutil.copytree(CHECKOUT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, folder)
    return folder


@pytest.mark.timeout(180)
def test_pip_installs_the_client_and_nothing_that_the_server_needs(installed: Path, tmp_path: Path) -> None:
    listed = json.loads(run(installed / "bin/pip", "list", "--format=json", "--disable-pip-version-check").stdout)
    assert {each["name"].lower() for each in listed} - TOOLS == {"autotrainer"}
    told = run(installed / "bin/autotrainer", "list", cwd=tmp_path, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"})
    assert (told.returncode, told.stdout) == (4, "")
    assert "autotrainer login" in told.stderr
