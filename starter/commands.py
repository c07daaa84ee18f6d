"""What `python3 AutoTrainer.py …` does. Runs under the user's own Python, before anything is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

from gpuworker import settings as environment
from gpuworker.settings import BadSetting
from starter import installing, supervisor, up
from starter.installing import CHECKOUT, ISOLATED, InstallFailed, say

USAGE = """\
python3 AutoTrainer.py                    make the environment (once), then start AutoTrainer
python3 AutoTrainer.py --demo [--exit]    the same, and run the sample training; --exit: stop afterwards
python3 AutoTrainer.py host               run only the agent of one more GPU machine
python3 AutoTrainer.py test [ARGUMENTS]   run all checks and tests, or only pytest with these arguments
python3 AutoTrainer.py submit … -- CMD    the command line client: submit, run, list, show, logs, wait, cancel, retry, hold,
                                          release, gpus, hosts, templates, login, logout, whoami, completion (each with --help)

Settings come from the environment or from .env; the README lists them."""


def main(argv: Sequence[str]) -> int:
    word, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("", argv)
    try:
        if word == "" and argv[:1] in (["-h"], ["--help"]):
            print(USAGE)
            return 0
        if word == "":
            return start(argv)
        if word == "test":
            return test(rest)
        if word == "host" and not rest:
            return host()
    except (BadSetting, InstallFailed) as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The next start goes on where this one was.", file=sys.stderr)
        return 130
    print(f"AutoTrainer.py knows no {' '.join(argv)!r}.\n\n{USAGE}", file=sys.stderr)
    return 2


def start(argv: Sequence[str]) -> int:
    """Become `manage.py up`; returns only where that is not possible."""
    up.parse(argv)  # a mistyped option is told before minutes of installing
    python = installing.ensure().python
    _become([python, *ISOLATED, str(CHECKOUT / "manage.py"), "up", *argv])
    return 1


_HOST_NEEDS = {
    "AUTOTRAINER_REDIS_URL": "the address of the Redis that the control plane uses",
    "AUTOTRAINER_HOST": "the name under which this machine was joined",
    "AUTOTRAINER_HOST_KEY": "the key of this machine",
}


def host() -> int:
    """Become this machine's agent; returns only where that is not possible."""
    settings = environment.load()
    given = environment.given()
    missing = [name for name in _HOST_NEEDS if not given.get(name) and not given.get(f"{name}_FILE")]
    for name in missing:
        print(f"{name} is missing: it is {_HOST_NEEDS[name]}. `manage.py join NAME` on the control plane prints it.", file=sys.stderr)
    if missing:
        return 1
    environment.host_key(settings)
    python = installing.ensure().python
    os.chdir(CHECKOUT)
    _become([python, *supervisor.agent_argv(settings.host)[1:]], supervisor.service_environ(settings))
    return 1


IN_PARALLEL = ("-n", "2", "--dist", "loadfile")
"""Most tests wait for other processes most of the time. A file stays in one process: its tests share what they start."""


def test(arguments: Sequence[str]) -> int:
    """0 if all is well. Without arguments the linters come first; all of them run, whatever the first one says."""
    python = installing.ensure(tests=True).python
    module = [python, *ISOLATED, "-m"]
    steps = [[*module, "pytest", *arguments]]
    if not arguments:
        steps = [
            [*module, "ruff", "format", "--check", "."],
            [*module, "ruff", "check", "."],
            [python, *ISOLATED, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
            [*module, "mypy"],
            [*module, "pytest", *IN_PARALLEL],
        ]
    with tempfile.TemporaryDirectory(prefix="autotrainer-test-") as home:
        # mypy's Django plugin loads our settings: they must not make keys in the user's own home.
        failed = [step for step in steps if _step(step, {**os.environ, "AUTOTRAINER_HOME": home})]
    if failed and len(steps) > 1:
        say("Failed: " + ", ".join(_name(step) for step in failed))
    return 1 if failed else 0


def _step(argv: Sequence[str], environ: dict[str, str]) -> int:
    say(f"== {_name(argv)}")
    return subprocess.run(argv, cwd=CHECKOUT, env=environ, check=False).returncode


def _name(argv: Sequence[str]) -> str:
    words = argv[len(ISOLATED) + 1 :]
    return "lint-imports" if words[0] == "-c" else " ".join(words[1:])


def _become(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(argv[0], list(argv), environ)  # noqa: S606 - no shell is wanted
