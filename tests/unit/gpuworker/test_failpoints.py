"""Failpoints: what may be asked for, that nothing happens unless a test asks, and that each name is a place in the code."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from gpuworker import failpoints, settings
from tests.house.sources import CHECKOUT, PACKAGES, python_files

NAME, OTHER = "agent.claimed", "shim.locked"


def come(home: Path, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A process that comes to places, under these variables."""
    env = {"AUTOTRAINER_HOME": str(home), "PYTHONPATH": str(CHECKOUT), **variables}
    program = f"from gpuworker.failpoints import hit\n{code}\nprint('came through')"
    return subprocess.run([sys.executable, "-S", "-c", program], env=env, capture_output=True, text=True, check=False, timeout=30)


def armed(plan: str) -> dict[str, str]:
    return {failpoints.FLAG: "1", failpoints.VARIABLE: plan}


def test_failpoint_kills_once_for_a_home(tmp_path: Path) -> None:
    variables = armed(f"{NAME}:kill")
    assert come(tmp_path, f"hit({OTHER!r})", **variables).returncode == 0
    assert come(tmp_path, f"hit({NAME!r})", **variables).returncode == -signal.SIGKILL
    again = come(tmp_path, f"hit({NAME!r})", **variables)
    assert (again.returncode, again.stdout) == (0, "came through\n")
    assert (tmp_path / "failpoints" / f"{NAME}.fired").exists()


def test_failpoint_counts_over_all_processes(tmp_path: Path) -> None:
    variables = armed(f"{NAME}:kill@3")
    assert come(tmp_path, f"hit({NAME!r})", **variables).returncode == 0
    assert come(tmp_path, f"hit({NAME!r}); hit({NAME!r})", **variables).returncode == -signal.SIGKILL


def test_failpoint_raises_an_error_of_the_system(tmp_path: Path) -> None:
    done = come(tmp_path, f"try:\n    hit({NAME!r})\nexcept OSError as exc:\n    print(exc.errno)", **armed(f"{NAME}:raise"))
    assert done.stdout == "5\ncame through\n"


def test_failpoint_may_be_asked_for_while_the_process_runs(tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    code = f"hit({NAME!r})\nopen({str(plan)!r}, 'w').write('{NAME}:kill\\n')\nhit({NAME!r})"
    assert come(tmp_path, code, **armed(f"@{plan}")).returncode == -signal.SIGKILL


@pytest.mark.parametrize("flag", ["", "0", "true"])
def test_failpoint_is_ignored_without_the_flag(tmp_path: Path, flag: str) -> None:
    done = come(tmp_path, f"hit({NAME!r})", **{failpoints.FLAG: flag, failpoints.VARIABLE: f"{NAME}:kill"})
    assert done.stdout == "came through\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("plan", ["nowhere:kill", f"{NAME}:explode", f"{NAME}:kill@x", NAME, f"{OTHER}:stop,nowhere:kill"])
def test_settings_refuse_a_failpoint_that_is_none(plan: str) -> None:
    with pytest.raises(settings.BadSetting, match=r"(?s)AUTOTRAINER_FAILPOINT.*(agent\.claimed|kill, stop, raise)"):
        settings.load(armed(plan))
    settings.load({failpoints.VARIABLE: plan})


def test_trainings_see_nothing_of_it_and_shims_see_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failpoints.environ() == {}
    monkeypatch.setattr(failpoints, "_plan", "@plan")
    assert failpoints.environ() == armed("@plan")
    assert settings.without_ours(failpoints.environ()) == {}


def test_each_failpoint_is_one_place_in_the_code() -> None:
    places = Counter(name for path in python_files(*PACKAGES) for name in re.findall(r"\bhit\(\"([\w.]+)\"\)", path.read_text()))
    assert sorted(set(places) ^ set(failpoints.FAILPOINTS)) == []
    assert {name: count for name, count in places.items() if count > 1} == {}
