"""Words, options and exit codes of the client, without a server."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from jobs.cli import completion, submitting
from jobs.cli.main import COMMANDS, main, parser_of


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("AUTOTRAINER_URL", "AUTOTRAINER_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AUTOTRAINER_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))


def parsed(*argv: str) -> argparse.Namespace:
    return parser_of("submit")[0].parse_args(argv)


def body(*argv: str) -> dict[str, Any]:
    made: dict[str, Any] = submitting.body(parsed(*argv))
    return made


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        ([], 2),
        (["--help"], 0),
        (["nonsense"], 2),
        (["list", "--nonsense"], 2),
        (["list", "--help"], 0),
        (["list", "--state", "runing"], 2),
        (["list", "--mine", "--user", "ada"], 2),
        (["show"], 2),
        (["show", "x"], 2),
        (["logs", "1", "--attempt", "0"], 2),
        (["submit", "-g", "x", "--", "true"], 2),
        (["submit", "--time", "90", "--", "true"], 2),
        (["completion", "tcsh"], 2),
        (["login", "gpu-a:8000"], 2),
        (["list"], 4),
        (["show", "1"], 4),
    ],
)
def test_exit_codes_without_a_server(argv: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == code
    said = capsys.readouterr()
    assert said.out if code == 0 else said.err
    assert "Traceback" not in said.err


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jobs.cli.looking.connect", interrupted)
    assert main(["list"]) == 130


@pytest.mark.parametrize("word", COMMANDS)
def test_every_word_explains_itself(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word, "--help"]) == 0
    assert COMMANDS[word][1][1:] in " ".join(capsys.readouterr().out.split()) or word == "login"


def test_every_option_fills_its_field(tmp_path: Any) -> None:
    (tmp_path / "new.py").write_text("x = 1\n")
    made = body(
        *("-g", "1-2", "-n", "x", "-C", "/data", "-e", "A=1", "-e", "B=b c", "--retries", "2", "--retry-delay", "1m", "--time", "2h"),
        *("--min-mem", "20G", "--priority", "-7", "--host", "a,b", "--host", "c", "--after", "1,2", "--after", "3", "--hold", "--shared"),
        *("--swap", f"loss.py={tmp_path}/new.py", "--artifact", "*.png", "--notify", "a@example.org", "--begin", "2027-01-31T18:00"),
        *("--environment", "/opt/venv", "--on-host-loss", "requeue", "--", "python", "t.py", "-g", "9"),
    )
    assert made == {
        "command": "python t.py -g 9",
        "min_gpus": 1,
        "max_gpus": 2,
        "name": "x",
        "working_dir": "/data",
        "env": {"A": "1", "B": "b c"},
        "max_retries": 2,
        "retry_delay_s": 60,
        "time_limit_s": 7200,
        "gpu_memory_mib": 20480,
        "priority": -7,
        "hosts": ["a", "b", "c"],
        "after": [1, 2, 3],
        "hold": True,
        "shared": True,
        "swaps": [{"target": "loss.py", "content": "x = 1\n"}],
        "artifacts": ["*.png"],
        "notify": ["a@example.org"],
        "begin_at": "2027-01-31T18:00",
        "environment": "/opt/venv",
        "on_host_loss": "requeue",
    }


def test_what_was_not_given_is_left_to_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert body("--", "true") == {"command": "true", "working_dir": str(tmp_path)}


def test_command_begins_at_the_first_word_also_without_the_dashes() -> None:
    assert body("-n", "x", "python", "t.py", "-n", "y", "--hold")["command"] == "python t.py -n y --hold"


def test_options_and_a_command_go_before_what_the_template_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    kept = {"command": "python t.py", "working_dir": "/data", "min_gpus": 1, "max_gpus": 4, "env": {"A": "1", "B": "2"}, "hold": True}
    assert submitting.body(parsed("--template", "t"), kept) == kept
    made = submitting.body(parsed("--template", "t", "-g", "2", "-e", "B=3", "-C", "/tmp", "--", "true"), kept)
    assert made == kept | {"command": "true", "working_dir": "/tmp", "min_gpus": 2, "max_gpus": 2, "env": {"A": "1", "B": "3"}}
    assert submitting.body(parsed("--template", "t"), {"command": "true"})["working_dir"] == str(tmp_path)


@pytest.mark.parametrize("argv", [["submit"], ["submit", "--"], ["submit", "-g", "1"], ["run", "--", " "]])
def test_missing_command_is_a_usage_error(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTRAINER_TOKEN", "at_x")
    monkeypatch.setenv("AUTOTRAINER_URL", "http://127.0.0.1:9")
    assert main(argv) == 2


def test_active_environment_is_sent_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", "/home/ada/venv")
    assert body("--this-environment", "--", "true")["environment"] == "/home/ada/venv"
    assert "environment" not in body("--", "true")


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_completions_know_every_word_and_every_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for word in COMMANDS:
        assert word in text
        for option in completion.options_of(word):
            for name in option.names:
                assert (name if shell != "fish" else name.lstrip("-")) in text, (word, name)
