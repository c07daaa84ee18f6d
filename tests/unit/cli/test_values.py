"""What people write after the options."""

from __future__ import annotations

import subprocess
from argparse import ArgumentTypeError
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.cli import values


@pytest.mark.parametrize(("text", "read"), [("0", (0, 0)), ("2", (2, 2)), ("1-4", (1, 4)), ("3-3", (3, 3))])
def test_gpus_are_a_number_or_a_range(text: str, read: tuple[int, int]) -> None:
    assert values.gpus(text) == read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("30min", 1800),
        ("2h", 7200),
        ("1d", 86400),
        ("1d12h", 129600),
        ("1h30m5s", 5405),
        ("2:00:00", 7200),
        ("1-00:00:01", 86401),
    ],
)
def test_durations_are_read_with_their_units(text: str, read: int) -> None:
    assert values.seconds(text) == read


@pytest.mark.parametrize(("text", "read"), [("20G", 20480), ("20GiB", 20480), ("20GB", 20480), ("500m", 500), ("1.5g", 1536), ("1k", 1)])
def test_sizes_count_in_1024_and_round_up(text: str, read: int) -> None:
    assert values.mib(text) == read


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        *((values.gpus, text) for text in ("", "two", "-1", "4-1", "1-", "1-2-3", "1.5", "٣", "9999999")),
        *((values.seconds, text) for text in ("", "90", "2:30", "0s", "2x", "h", "-5m", "1h 30m", "1m1h")),
        *((values.mib, text) for text in ("", "20", "G", "20X", "-1G", "1e3G")),
        *((values.variable, text) for text in ("", "=x", "1A=x", "a b=x", "NOT_SET_ANYWHERE_HERE")),
        *((values.job_id, text) for text in ("", "0", "-1", "x", "1.0", "9" * 30)),
        *((values.whole, text) for text in ("-1", "x", "1.5", "")),
        *((values.positive, text) for text in ("0", "-1")),
        *((values.swap, text) for text in ("loss.py", "=x", "x=", "x=/nowhere/at/all")),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(reader: Any, text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=r"\w"):
        reader(text)


def test_variable_without_a_value_is_taken_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_KEY", "a=b")
    assert values.variable("WANDB_KEY") == ("WANDB_KEY", "a=b")
    assert values.variable("X=") == ("X", "")
    assert values.variable("X=a=b") == ("X", "a=b")


def test_jobs_are_named_with_commas_and_number_signs() -> None:
    assert values.job_ids("41,#42,") == [41, 42]


def test_moment_from_now_on_is_reckoned_here_and_others_are_left_to_the_server() -> None:
    assert values.moment("+2h", datetime(2027, 1, 31, 23, tzinfo=UTC)) == "2027-02-01T01:00:00+00:00"
    assert values.moment("2027-01-31T18:00") == "2027-01-31T18:00"


def test_one_word_is_a_shell_string_as_it_stands() -> None:
    assert values.command(["--", "cd a && python t.py | tee x"]) == "cd a && python t.py | tee x"
    assert values.command([]) == ""


@given(st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=12), min_size=2, max_size=5))
def test_several_words_are_quoted_so_that_the_shell_gives_them_back(words: list[str]) -> None:
    import shlex

    if words[0] != "--":
        assert shlex.split(values.command(words)) == words


def test_quoted_words_arrive_through_a_real_shell() -> None:
    text = values.command(["--", "printf", "%s|", "a b", "$HOME", "it's", '"q"', "*", "", "\\", "é漢", "a\nb"])
    assert subprocess.check_output(["sh", "-c", text], text=True) == 'a b|$HOME|it\'s|"q"|*||\\|é漢|a\nb|'


def test_words_after_the_first_double_dash_are_the_commands_own() -> None:
    assert values.command(["--", "python", "t.py", "--", "-g", "9"]) == "python t.py -- -g 9"


def test_here_is_called_as_its_user_calls_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "link")
    assert values.here({"PWD": str(tmp_path / "link")}) == str(tmp_path / "link")
    assert values.here({"PWD": str(tmp_path)}) == str(tmp_path / "real")
    assert values.here({}) == str(tmp_path / "real")


def test_directory_is_absolute_and_a_relative_one_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    monkeypatch.setenv("PWD", str(tmp_path / "a"))
    assert [values.directory(text) for text in ("b", ".", "../a/b")] == [str(tmp_path / each) for each in ("a/b", "a", "a/b")]
    assert values.directory("/only/on/the/hosts") == "/only/on/the/hosts"
    with pytest.raises(ArgumentTypeError, match="no directory 'c'"):
        values.directory("c")


def test_directory_above_a_symbolic_link_is_the_one_that_the_shell_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far" / "deep")
    monkeypatch.chdir(tmp_path / "near")
    monkeypatch.setenv("PWD", str(tmp_path / "near"))
    assert values.directory("link/..") == str(tmp_path / "far")


def test_swap_sends_the_file_here_as_text(tmp_path: Path) -> None:
    (tmp_path / "new=1.py").write_text("é\n")
    assert values.swap(f"src/loss.py={tmp_path}/new=1.py") == {"target": "src/loss.py", "content": "é\n"}


@pytest.mark.parametrize(("content", "words"), [(b"\xff\xfe", "not text"), (b"x" * (2**20 + 1), "larger than 1 MiB")])
def test_swap_refuses_what_it_cannot_send(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "new").write_bytes(content)
    with pytest.raises(ArgumentTypeError, match=words):
        values.swap(f"x={tmp_path}/new")


def test_swap_of_exactly_one_mebibyte_is_sent(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"x" * 2**20)
    assert len(values.swap(f"x={tmp_path}/new")["content"]) == 2**20
