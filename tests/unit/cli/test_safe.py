"""What a job prints cannot steer the terminal of who reads it."""

from __future__ import annotations

import re
import time

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.cli.safe import LONGEST_SEQUENCE, Safe, visible


def shown(*pieces: bytes | str, colours: bool = True) -> str:
    safe = Safe(colours=colours)
    made = [safe.feed(piece.encode() if isinstance(piece, str) else piece) for piece in pieces]
    return "".join([*made, safe.end()])


@pytest.mark.parametrize(
    "text",
    ["plain é漢 █\n", "a\tb\r\n", "\r 50%|██   | 1/2\x1b[K", "back\b\bspace", "1\n2\n\x1b[2Aup\x1b[1B\n", "\x1b[10G\x1b[3C\x1b[2D"],
)
def test_text_and_progress_bars_stay_as_they_are(text: str) -> None:
    assert shown(text) == text


def test_colours_stay_and_are_put_back_at_the_end() -> None:
    assert shown("\x1b[1;31mred") == "\x1b[1;31mred\x1b[0m"
    assert shown("\x1b[1;31mred\x1b[0m", colours=False) == "red"


@pytest.mark.parametrize(
    ("hostile", "left"),
    [
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]52;c;ZXZpbA==\x1b\\x", "x"),
        ("\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP+q544e\x1b\\x", "x"),
        ("\x1b[2Jx", "x"),
        ("\x1b[Hx", "x"),
        ("\x1b[6nx", "x"),
        ("\x1b[?1049hx", "x"),
        ("\x1b[>4;2mx", "x"),
        ("\x1bcx", "x"),
        ("\x1b(0x", "x"),
        ("a\x07b\x00c", "abc"),
        ("\x0e\x9b2J", "^N<9B>2J"),
        ("\u202eexe.txt\u2066", "<202E>exe.txt<2066>"),
        ("\x1b", "^["),
        ("\x1b]never ended", "^[]never ended"),
    ],
)
def test_sequences_that_steer_the_terminal_go(hostile: str, left: str) -> None:
    assert shown(hostile) == left
    assert shown(*(byte.to_bytes(1, "big") for byte in hostile.encode())) == left


def test_cursor_goes_up_only_within_what_was_printed() -> None:
    assert shown("\x1b[5Agone") == "gone"
    assert shown("a\nb\n\x1b[5Ac") == "a\nb\n\x1b[2Ac"
    assert shown("a\nb\n\x1b[2A\x1b[1Ac\x1b[9Bd") == "a\nb\n\x1b[2Ac\x1b[2Bd"


def test_bytes_that_are_no_characters_are_replaced_and_split_ones_are_joined() -> None:
    assert shown(b"a\xffb\xe6\xbc", b"\xa2") == "a\ufffdb漢"


def test_sequence_without_an_end_is_not_held_back_for_ever() -> None:
    safe = Safe()
    assert len(safe.feed(b"\x1b]" + b"x" * LONGEST_SEQUENCE)) > LONGEST_SEQUENCE


def test_flood_of_unfinished_sequences_takes_time_that_grows_with_its_length_only() -> None:
    def took_s(length: int) -> float:
        safe, began = Safe(), time.process_time()
        safe.feed(b"\x1b]" * length)
        safe.feed(b"\x1b[1" * length)
        return time.process_time() - began

    took_s(1000)
    assert took_s(100_000) < 60  # a quadratic search would take hours


_PIECES = st.lists(
    st.one_of(st.text(max_size=20), st.sampled_from(["\x1b[", "\x1b]", "\x1b\\", "\x07", "\x1b[2A", "31m", "\n", "\x1b[2J"]))
)


@given(_PIECES)
def test_nothing_passes_but_what_is_allowed(pieces: list[str]) -> None:
    made = shown(*(piece.encode("utf-8", "surrogatepass") for piece in pieces))
    rest = re.sub(r"\x1b\[[0-9;:]*[mABKCDGP@X]", "", made)
    assert not re.search("[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", rest)


@given(_PIECES)
def test_pieces_give_the_same_as_the_whole(pieces: list[str]) -> None:
    data = "".join(pieces).encode("utf-8", "surrogatepass")
    assert shown(data) == shown(*(byte.to_bytes(1, "big") for byte in data))


def test_lines_above_ours_stay_on_a_real_screen() -> None:
    screen = pyte.Screen(40, 12)
    stream = pyte.Stream(screen)
    stream.feed("the user's own line\r\n")
    stream.feed(shown("one\r\ntwo\r\n\x1b[9Achanged\x1b[K\x1b[2J\x1b[H!"))
    assert [line.rstrip() for line in screen.display][:3] == ["the user's own line", "changed!", "two"]


def test_visible_is_one_line_that_steers_nothing() -> None:
    assert visible("a\nb\tc\x1b[2J\u202e\x85") == "a b c^[[2J<202E><85>"
