"""docs/training-scripts.md keeps its word: its script runs, its snippets compile, its tables name what there is."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpuworker import settings
from tests.waiting import wait_until

PAGE = (settings.CHECKOUT / "docs" / "training-scripts.md").read_text()
SNIPPETS = re.findall(r"(?ms)^```python\n(.*?)^```", PAGE)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The page's minimal script, in a working directory of its own."""
    (text,) = [snippet for snippet in SNIPPETS if snippet.startswith("# train.py\n")]
    path = tmp_path / "train.py"
    path.write_text(text)
    return path


def run(script: Path, *args: str, attempt: int = 1) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": "1,2", "AUTOTRAINER_ATTEMPT": str(attempt)}
    return subprocess.run([sys.executable, str(script), *args], cwd=script.parent, env=environment, capture_output=True, text=True)


def test_minimal_script_trains_and_leaves_its_checkpoint(script: Path) -> None:
    done = run(script, "--name", "Experiment_001", "--epochs", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Task Name: Experiment_001, attempt 1\nCUDA_VISIBLE_DEVICES: 1,2\n" in done.stdout
    assert "Epoch 3/3 | Loss: 0.5120\n" in done.stdout
    assert json.loads((script.parent / "checkpoint_Experiment_001.json").read_text())["epoch"] == 3


def test_minimal_script_goes_on_from_its_checkpoint_when_it_is_retried(script: Path) -> None:
    run(script, "--name", "a", "--epochs", "2")
    again = run(script, "--name", "a", "--epochs", "4", attempt=2)
    assert "attempt 2" in again.stdout
    assert "Going on after epoch 2\nEpoch 3/4" in again.stdout
    assert "Epoch 1/4" not in again.stdout


def test_minimal_script_fails_with_a_traceback_and_a_code(script: Path) -> None:
    script.write_text(script.read_text().replace("return loss * 0.8", 'raise RuntimeError("CUDA out of memory")'))
    done = run(script, "--name", "a")
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: CUDA out of memory\n")


def test_minimal_script_leaves_quickly_when_it_is_terminated(script: Path) -> None:
    script.write_text(script.read_text().replace("return loss * 0.8", "signal.pause()"))
    command = [sys.executable, "-u", str(script), "--name", "a"]
    with subprocess.Popen(command, cwd=script.parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Task Name: a")
        process.stdout.readline()
        wait_until(lambda: " S " in Path(f"/proc/{process.pid}/stat").read_text(), 5, "it to wait in its epoch")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_are_valid_python(snippet: str) -> None:
    compile(snippet, "docs/training-scripts.md", "exec")


def test_every_variable_that_a_command_gets_is_explained() -> None:
    rows = "\n".join(line for line in PAGE.splitlines() if line.startswith("| `"))
    wanted = [*settings.JOB_VARIABLES, "AUTOTRAINER_HOST", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "PYTHONUNBUFFERED"]
    assert [name for name in wanted if f"`{name}`" not in rows] == []


def test_sample_command_of_the_page_runs(tmp_path: Path) -> None:
    (command,) = re.findall(r"(?m)^python (mock_train\.py .*)$", PAGE)
    script, *args = [word.strip('"') for word in command.split()]
    path = settings.CHECKOUT / script
    done = subprocess.run([sys.executable, str(path), *args, "--seconds", "0.2"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Task Name: Mock_Test_V1\n" in done.stdout
    assert (tmp_path / "result_Mock_Test_V1.png").exists()
