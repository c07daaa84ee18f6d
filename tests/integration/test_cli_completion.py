"""The completions in the shells that they are for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cli.main import COMMANDS
from tests.house.sources import CHECKOUT

COMPLETE = """\
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
_autotrainer
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The completions of all shells, and an `autotrainer` that has two jobs and one host."""
    folder = tmp_path_factory.mktemp("completions")
    for shell in ("bash", "zsh", "fish"):
        argv = [sys.executable, "-m", "jobs.cli", "completion", shell]
        (folder / shell).write_text(subprocess.check_output(argv, cwd=CHECKOUT, text=True))
    program = folder / "autotrainer"
    program.write_text(
        "#!/bin/sh\nif [ $1 = hosts ]; then printf 'gpu-a\\tup\\n'; "
        "elif [ $1 = templates ]; then printf 'nightly run\\tx\\nresnet\\ty\\n'; "
        " else printf '41\\trunning\\tx\\n42\\tqueued\\ty\\n'; fi\n"
    )
    program.chmod(0o755)
    return folder


def completed(scripts: Path, *words: str) -> list[str]:
    environ = {"PATH": f"{scripts}:/usr/bin:/bin"}
    argv = ["bash", "--norc", "-c", COMPLETE, "bash", str(scripts / "bash"), "autotrainer", *words]
    done = subprocess.run(argv, env=environ, cwd=scripts, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["li"], ["list"]),
        ([""], list(COMMANDS)),
        (["submit", "--ho"], ["--host", "--hold"]),
        (["submit", "--host", ""], ["gpu-a"]),
        (["submit", "--template", "n"], ["nightly\\", "run"]),
        (["run", "--template", ""], ["nightly\\", "run", "resnet"]),
        (["list", "--state", "ru"], ["running"]),
        (["logs", ""], ["41", "42"]),
        (["cancel", "41", "4"], ["41", "42"]),
        (["completion", "z"], ["zsh"]),
        (["submit", "--", "--ho"], []),
    ],
)
def test_bash_completes_words_options_and_jobs(scripts: Path, words: list[str], found: list[str]) -> None:
    assert completed(scripts, *words) == found


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_theirs(scripts: Path, shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n", str(scripts / shell)], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
