"""The last traceback of a log: where it ends, whose code it came from, and what is none."""

from __future__ import annotations

import traceback

import pytest

from jobs.tracebacks import LONGEST_LINES, last_traceback

SIMPLE = """epoch 1
Traceback (most recent call last):
  File "/w/train.py", line 120, in <module>
    main()
  File "/w/train.py", line 88, in main
    rate = config["lr"]
           ~~~~~~^^^^^^
KeyError: 'lr'
bye"""
LIBRARY = """Traceback (most recent call last):
  File "/w/train.py", line 9, in step
    loss.backward()
  File "/opt/venv/lib/python3.11/site-packages/torch/_tensor.py", line 522, in backward
    torch.autograd.backward(
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."""
CHAINED = """Traceback (most recent call last):
  File "a.py", line 1, in f
    1/0
ZeroDivisionError: division by zero

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "b.py", line 7, in g
    raise RuntimeError("worse")
RuntimeError: worse"""
TORCHRUN = """[rank1]: Traceback (most recent call last):
[rank1]:   File "/w/ddp.py", line 31, in <module>
[rank1]:     train()
[rank1]: ValueError: bad batch"""


@pytest.mark.parametrize(
    ("text", "headline", "first_line", "lines"),
    [
        (SIMPLE, "KeyError: 'lr' at train.py:88", 1, 7),
        (LIBRARY, "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB at train.py:9", 0, 6),
        (CHAINED, "RuntimeError: worse at b.py:7", 0, 11),
        (TORCHRUN, "ValueError: bad batch at ddp.py:31", 0, 4),
        (SIMPLE + "\n" + LIBRARY, "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB at train.py:9", 9, 6),
        ('Traceback (most recent call last):\n  File "x.py", line 1, in <module>\nKeyboardInterrupt', "KeyboardInterrupt at x.py:1", 0, 3),
    ],
)
def test_last_traceback_is_found_with_where_it_came_from(text: str, headline: str, first_line: int, lines: int) -> None:
    found = last_traceback(text)
    assert found
    assert (found.headline, found.first_line, len(found.lines)) == (headline, first_line, lines)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no trace",
        "Traceback (most recent call last):",
        'Traceback (most recent call last):\n  File "x.py", line 1\n',
        "Traceback (most recent call last):\n" + "  line\n" * 1000 + "ValueError: too far",
        "a Traceback (most recent call last):\nValueError: x",
    ],
    ids=range(6),
)
def test_what_is_not_whole_is_no_traceback(text: str) -> None:
    assert last_traceback(text) is None


def test_traceback_that_was_cut_off_gives_way_to_the_one_before() -> None:
    found = last_traceback(SIMPLE + "\nTraceback (most recent call last):\n  File")
    assert found
    assert found.exception == "KeyError"


# --- what Python prints -------------------------------------------------------------------------------------------------


def printed(code: str) -> str:
    """What this Python prints of an exception that nothing catches, in a file `train.py`."""
    try:
        exec(compile(code, "/w/train.py", "exec"), {})
    except BaseException:
        return traceback.format_exc()
    raise AssertionError("nothing was raised")


def test_direct_causes_are_among_its_lines() -> None:
    code = """
try:
  try:
    1/0
  except ZeroDivisionError as e:
    raise ValueError('a') from e
except ValueError as e:
  raise KeyError('lr') from e
"""
    text = "before\n" + printed(code) + "after"
    found = last_traceback(text)
    assert found
    assert (found.headline, found.first_line) == ("KeyError: 'lr' at train.py:8", 1)
    assert "\n".join(found.lines) == text.removeprefix("before\n").removesuffix("\nafter")
    assert sum(line.startswith("The above exception") for line in found.lines) == 2


def test_traceback_that_was_caught_and_printed_before_is_no_cause() -> None:
    found = last_traceback(SIMPLE + "\n" + CHAINED)
    assert found
    assert (found.first_line, found.lines[1]) == (9, '  File "a.py", line 1, in f')


def test_endless_chain_is_cut() -> None:
    text = SIMPLE + ("\n\n" + CHAINED.splitlines()[5] + "\n\n" + SIMPLE.removeprefix("epoch 1\n").removesuffix("\nbye")) * 60
    found = last_traceback(text)
    assert found
    assert LONGEST_LINES - 10 <= len(found.lines) <= LONGEST_LINES + 10


def test_notes_and_further_lines_of_a_message_are_not_mistaken_for_anything() -> None:
    found = last_traceback(printed("e = ValueError('bad\\nTraceback of nothing')\ne.add_note('see the docs')\nraise e") + "epoch 2")
    assert found
    assert (found.headline, found.lines[-1]) == ("ValueError: bad at train.py:3", "ValueError: bad")


@pytest.mark.parametrize("prefix", ["", "[rank3]: "])
def test_exception_group_is_told_with_all_that_lies_in_it(prefix: str) -> None:
    code = "def g():\n  raise ExceptionGroup('two', [ValueError('a'), ExceptionGroup('more', [KeyError('lr')])])\ng()"
    text = "".join(prefix + line + "\n" for line in ("epoch 1\n" + printed(code)).splitlines()) + "bye"
    found = last_traceback(text)
    assert found
    assert (found.headline, found.first_line) == ("ExceptionGroup: two (2 sub-exceptions) at train.py:2", 1)
    assert "\n".join(found.lines) == "\n".join(text.splitlines()[1:-1])


def test_exception_group_that_was_cut_off_gives_way_to_the_one_before() -> None:
    found = last_traceback(SIMPLE + '\n  + Exception Group Traceback (most recent call last):\n  |   File "x.py", line 1, in g\n')
    assert found
    assert found.exception == "KeyError"


@pytest.mark.parametrize(
    ("code", "headline"),
    [
        ("def f():\n  class Own(Exception): pass\n  raise Own('inside')\nf()", "Own: inside at train.py:3"),
        ("exec('def f(:')", "SyntaxError: invalid syntax at <string>:1"),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded at train.py:1"),
        ("assert 1 == 2", "AssertionError at train.py:1"),
        ("raise SystemExit(3)", "SystemExit: 3 at train.py:1"),
        ("raise ValueError('x: y')", "ValueError: x: y at train.py:1"),
    ],
)
def test_headline_is_what_python_says(code: str, headline: str) -> None:
    found = last_traceback(printed(code))
    assert found
    assert found.headline == headline


# --- what stands around it ----------------------------------------------------------------------------------------------


def test_ranks_that_speak_at_once_are_told_apart() -> None:
    mine = TORCHRUN.splitlines()
    others = [line.replace("rank1", "rank0").replace("bad batch", "bad rank") for line in mine]
    text = "\n".join(line for pair in zip(mine, others, strict=True) for line in pair)
    found = last_traceback(text)
    assert found
    assert (found.headline, found.lines) == ("ValueError: bad rank at ddp.py:31", tuple(others))


@pytest.mark.parametrize("prefix", ["[rank0]: ", "[rank0]:", "[default0]: ", "[1,0]:"])
def test_chain_behind_a_launcher_is_whole(prefix: str) -> None:
    found = last_traceback("\n".join(f"{prefix}{line}" for line in CHAINED.splitlines()))
    assert found
    assert (found.headline, len(found.lines)) == ("RuntimeError: worse at b.py:7", 11)


@pytest.mark.parametrize(
    "bar", ["  0%|          | 0/625 [00:00<?, ?it/s]", "train:  45%|████▌     | 45/100 [00:31<00:40, 13.1it/s, loss=0.3]"]
)
def test_traceback_on_the_line_of_a_bar_is_found(bar: str) -> None:
    found = last_traceback("epoch 1\n" + bar + SIMPLE.removeprefix("epoch 1\n"))
    assert found
    assert (found.headline, found.first_line, found.lines[0]) == ("KeyError: 'lr' at train.py:88", 1, "Traceback (most recent call last):")


@pytest.mark.parametrize("junk", ["|[" * 100_000, "]" * 100_000, "| " * 100_000 + "[]", "[a" * 100_000])
def test_hostile_line_keeps_nobody_busy(junk: str) -> None:
    assert last_traceback(junk + "Traceback (most recent call last):\n" + junk) is None
