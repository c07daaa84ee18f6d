"""The emulator against pyte (a real terminal emulator) and against what progress bars leave on a screen."""

from __future__ import annotations

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.terminal import LOOK_BACK, MAX_COLUMNS, Terminal

WIDE = 600  # columns: more than any generated log reaches


def shown(*chunks: bytes) -> str:
    screen = Terminal()
    return "".join([*(screen.feed(chunk) for chunk in chunks), screen.finish()])


def by_pyte(text: str) -> list[str]:
    screen = pyte.HistoryScreen(WIDE, LOOK_BACK, history=10_000, ratio=0.5)
    screen.set_mode(pyte.modes.LNM)
    pyte.Stream(screen).feed(text)
    above = ["".join(line[x].data for x in range(WIDE)) for line in screen.history.top]
    return rows("\n".join([*above, *screen.display]))


def rows(text: str) -> list[str]:
    return [line.rstrip(" ") for line in text.rstrip("\n ").split("\n")]


words = st.text(alphabet="abcé#█ ", min_size=1, max_size=12)
moves = st.builds(lambda n, final: f"\x1b[{n or ''}{final}", st.integers(0, 5), st.sampled_from("ABCDEFG"))
erases = st.sampled_from(["\x1b[K", "\x1b[0K", "\x1b[1K", "\x1b[2K", "\x1b[J"])
dropped = st.sampled_from(["\x1b[31m", "\x1b[0;1;38;5;200m", "\x1b]0;a title\x07", "\x1b[?25l", "\x1b(B", "\x07", "\x00"])
logs = st.lists(st.one_of(words, words, st.sampled_from(["\n", "\r", "\r\n", "\b", "\t", "\n\n"]), moves, erases, dropped), max_size=45)


@given(logs)
@settings(max_examples=100, deadline=None)
def test_terminal_shows_what_pyte_shows(parts: list[str]) -> None:
    text = "".join(parts)
    assert rows(shown(text.encode())) == by_pyte(text)


@given(logs, st.lists(st.integers(1, 30), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_terminal_shows_the_same_however_the_bytes_are_cut(parts: list[str], sizes: list[int]) -> None:
    data, chunks, at = "".join(parts).encode(), [], 0
    for size in sizes:
        chunks.append(data[at : at + size])
        at += size
    assert shown(*chunks, data[at:]) == shown(data)


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs", "Zs"])), max_size=150))
def test_terminal_leaves_plain_lines_as_they_are(lines: list[str]) -> None:
    text = "\n".join(lines)
    assert shown(text.encode()) == text


def bar(what: str, done: int, of: int) -> str:
    return f"{what}: {100 * done // of:3d}%|{'█' * (10 * done // of):10}| {done}/{of}"


def test_terminal_leaves_one_line_for_a_bar() -> None:
    log = "start\r\n" + "".join(f"\r{bar('one', i, 50)}" for i in range(51)) + "\ndone\n"
    assert shown(log.encode()) == f"start\n{bar('one', 50, 50)}\ndone\n"


def test_terminal_leaves_one_line_for_each_nested_bar() -> None:
    log = ""
    for epoch in range(3):
        log += f"\r{bar('epoch', epoch, 3)}" + "".join(f"\n\r{bar('batch', i, 20)}\x1b[A" for i in range(21))
    log += f"\r{bar('epoch', 3, 3)}\n\ndone\n"
    assert shown(log.encode()) == f"{bar('epoch', 3, 3)}\n{bar('batch', 20, 20)}\ndone\n"


@pytest.mark.parametrize(
    ("log", "text"),
    [
        (b"", ""),
        (b"no newline", "no newline"),
        (b"a\n\n\n", "a\n\n\n"),
        (b"left over\rnew\x1b[K\n", "new\n"),
        (b"50%\b\b\b51%", "51%"),
        (b"\x1b[31mred\x1b[0m and \x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "red and link"),
        (b"a stray \x1b]0;title without an end\nis no reason to lose this", "a stray\nis no reason to lose this"),
        ("進捗 10%\r進捗 99%\n".encode(), "進捗 99%\n"),
        ("進捗\rab\n".encode(), "ab捗\n"),
        ("進捗\ra\n".encode(), "a 捗\n"),
        (b"caf\xc3", "caf\ufffd"),
        (b"\xff\xfe ok\n", "\ufffd\ufffd ok\n"),
        (b"a\x1b[2147483648Ab", "ab"),
    ],
)
def test_terminal_shows_in_the_end(log: bytes, text: str) -> None:
    assert shown(log) == text


def test_terminal_forgets_rows_above_its_look_back() -> None:
    lines = "".join(f"line {i}\n" for i in range(200))
    assert shown(lines.encode(), b"\x1b[500Atop").splitlines()[200 - LOOK_BACK + 1] == f"tope {200 - LOOK_BACK + 1}"


@pytest.mark.parametrize(
    "piece", [b"x" * 65_536, b"\x1b[99999999Cy", b"\x1b[99999999B", b"\x1b]0;" + b"t" * 9_000, b"\xf0\x9f\x98\x80" * 9_000]
)
def test_terminal_stays_small_on_a_line_without_end(piece: bytes) -> None:
    screen = Terminal()
    for _ in range(300):
        screen.feed(piece)
    held = sum(len(row) for row in screen._rows) + len(screen._held)
    assert held <= (LOOK_BACK + 1) * MAX_COLUMNS


def test_terminal_keeps_all_of_a_long_line() -> None:
    assert shown(*[b"x" * 50_000] * 20, b"\nafter\n") == "x" * 1_000_000 + "\nafter\n"
