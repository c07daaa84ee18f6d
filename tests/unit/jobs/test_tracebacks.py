"""The last traceback of a log: where it ends, whose code it came from, and what is none."""

from __future__ import annotations

import pytest

from jobs.tracebacks import last_traceback

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
        (LIBRARY, "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. at train.py:9", 0, 6),
        (CHAINED, "RuntimeError: worse at b.py:7", 7, 4),
        (TORCHRUN, "ValueError: bad batch at ddp.py:31", 0, 4),
        (SIMPLE + "\n" + LIBRARY, "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. at train.py:9", 9, 6),
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
