"""What frameworks print, and how far that says a training is."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuworker.progress import ProgressReader

TQDM = "  {percent}%|{bar}| {n}/{total} [{elapsed}<{left}, 3.21it/s]"


def read(*pieces: str) -> float | None:
    reader = ProgressReader()
    for piece in pieces:
        reader.feed(piece.encode())
    return reader.fraction


@pytest.mark.parametrize(
    ("log", "fraction"),
    [
        ("Epoch 3/10\n", 0.2),
        ("Epoch 3/10 | Loss: 0.8663\n", 0.3),
        ("Epoch: 3/10, loss=0.5\n", 0.3),
        ("epoch 3 of 10 done, loss = 1e-3\n", 0.3),
        ("Epoch [3/10], Step [50/200], Loss: 0.3\n", 0.225),
        ("Epoch 3/10: step 50/200 loss=0.3\n", 0.225),
        ("Train Epoch: 3/10 [25600/102400 (25%)]\tLoss: 0.3\n", 0.225),
        ("Epoch 0/4 loss: 1\nEpoch 1/4 loss: 1\n", 0.5),
        ("Epoch 6/10:  73%|#######   | [00:06, loss=0.3973]", 0.573),
        ("Epoch 6/10:  73%|#######   | 73/100 [00:06<00:02, 11it/s]\r", 0.573),
        ("\x1b[32mEpoch 3/10\x1b[0m\n", 0.2),
        ("Epoch 1/10\n 50%|#####     | 5/10 [00:01<00:01]\r", 0.05),
        ("      3/100      4.71G      1.19      640:  50%|#####     | 40/80 [00:02<00:02]\r", 0.025),
        (" 42%|####2     | 42/100 [00:10<00:14,  4.1it/s]\r", 0.42),
        (" 42%|####2     | 42/100 [00:10<00:14]\r  7%|7         | 7/100 [00:02<00:20]\r", 0.42),
        ("100%|##########| 9/9 [00:03<00:00]\n  5%|5         | 5/100 [00:01<00:20]\r", 0.05),
        (" 42%|####2     | 42/100 [1:10:02<1:30:14]\r  9%|9         | 9/100 [59:59<01:00]\r", 0.42),
        ("step 250/1000 loss 0.2\n", 0.25),
        ("iteration 250 / 1000\n", 0.25),
    ],
)
def test_progress_is_read_from_what_frameworks_print(log: str, fraction: float) -> None:
    assert read(log) == pytest.approx(fraction)


@pytest.mark.parametrize(
    "log",
    [
        "",
        "Epoch 3\n",
        "Epoch 3:  45%|####5     | 450/1000 [00:10<00:12]\r",  # one epoch of an unknown number
        "accuracy 97% on 2026/11/25\n",
        "loaded 3/10 shards\n",
        "Epoch 12/10\n",
        "Epoch 1/0\n",
        "Epoch 1",  # perhaps 10
        "\x00\xff\xfe" * 10,
    ],
)
def test_progress_is_unknown_where_the_log_does_not_tell(log: str) -> None:
    assert read(log) is None


def test_progress_takes_nothing_back_when_an_epoch_validates() -> None:
    log = "Epoch 2/4\n100%|#####| 9/9 [00:09<00:00]\n", " 10%|#    | 1/10 [00:01<00:09]\r"
    assert read(*log) == pytest.approx(0.5)


def test_progress_begins_again_when_a_second_run_does() -> None:
    assert read("Epoch 10/10 loss: 1\n", "Epoch 1/5\n") == 0.0


def test_progress_keeps_the_epoch_when_steps_flood() -> None:
    flood = "".join(f"step {n}/5000 loss 0.1\n" for n in range(1, 2501))
    assert read("Epoch 3/10\n" + flood) == pytest.approx(0.25)


@given(st.text(alphabet="Epoch stp%|[]<:/0123456789\r\n of", max_size=200), st.lists(st.integers(0, 200)))
def test_progress_stays_within_its_bounds_whatever_is_printed(log: str, cuts: list[int]) -> None:
    places = sorted({0, *cuts, len(log)})
    fraction = read(*(log[a:b] for a, b in itertools.pairwise(places)))
    assert fraction is None or 0.0 <= fraction <= 1.0


@given(st.integers(1, 60))
def test_progress_is_the_same_however_the_log_is_cut(size: int) -> None:
    log = "Epoch 1/4\n" + " 50%|##   | 5/10 [00:05<00:05]\r" * 3 + "\nEpoch 3/4 loss: 0.5\n"
    assert read(*(log[i : i + size] for i in range(0, len(log), size))) == pytest.approx(0.75)


def test_progress_keeps_little_when_fed_much() -> None:
    reader = ProgressReader()
    reader.feed(b"a" * 10_000_000)
    assert len(reader._rest) <= 2048
