"""Numbers that trainings print: what is read of real formats, and what is not taken for a curve."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest

from jobs import curves, logs
from jobs.curves import MOST_CURVES, MOST_POINTS, Curve, found_in

FORMATS: dict[str, dict[str, float | None]] = {
    "Epoch 3/10 | Loss: 0.3521": {"loss": 0.3521},
    "loss: 0.31": {"loss": 0.31},
    "val_loss=0.2 lr=1e-4": {"val_loss": 0.2, "lr": 1e-4},
    "{'loss': 0.1284, 'grad_norm': 2.5, 'learning_rate': 4.2e-05, 'epoch': 1.2}": {
        "loss": 0.1284,
        "grad_norm": 2.5,
        "learning_rate": 4.2e-05,
    },
    "{'eval_loss': 1.25, 'eval_accuracy': 0.91, 'eval_runtime': 3.2}": {"eval_loss": 1.25, "eval_accuracy": 0.91},
    " 40%|████      | 4/10 [00:01<00:02,  2.9it/s, loss=0.82, v_num=3]": {"loss": 0.82},
    "Epoch 1:  17%|██  | 100/600 [00:10<00:50, 9.9it/s, v_num=0, train_loss=0.34, val_loss=.5]": {"train_loss": 0.34, "val_loss": 0.5},
    "100/100 [====] - 1s 5ms/step - loss: 0.4113 - accuracy: 0.8820 - val_loss: 0.3911": {
        "loss": 0.4113,
        "accuracy": 0.882,
        "val_loss": 0.3911,
    },
    "[INFO] iter 100, train/loss = 1.5e+00, train/top-1 acc: 71.25": {"train/loss": 1.5, "train/top-1 acc": 71.25},
    "2026-11-26 10:00:01 step 200: Training Loss 0.5": {},
    "Test set: Average loss: 0.0489, Accuracy: 9842/10000 (98%)": {"average loss": 0.0489, "accuracy": 9842.0},
    "\x1b[32mloss\x1b[0m: \x1b[1m0.25\x1b[0m": {"loss": 0.25},
    "loss: nan": {"loss": None},
    "loss: inf, reward: -12.5": {"loss": None, "reward": -12.5},
    "| epoch 1 | loss 2.1 | ppl 8.17 |": {},
    "Epoch 4 - train loss: 0.2": {"train loss": 0.2},
    "the final accuracy is 0.93": {"accuracy": 0.93},
    "mAP@50: 0.61 mAP_50-95: 0.4": {"map@50": 0.61, "map_50-95": 0.4},
}
NOTHING = [
    "glossary: 3",
    "lossless=1",
    "lr",
    "http://host/loss:8080",
    "error: file 3 is missing in /tmp/loss: 5x",
    "loss: 0.5.1",
    "loss: version 2",
    "--lr=0.1 --loss=mse",
    "epoch: 3",
    "",
    "loss:" + "9" * 400,
]


@pytest.mark.parametrize(("line", "said"), FORMATS.items(), ids=range(len(FORMATS)))
def test_numbers_are_found_in_what_trainings_print(line: str, said: dict[str, float | None]) -> None:
    assert dict(found_in(line.encode())) == said
    assert curves.worth_it(line.encode()) >= bool(said)


@pytest.mark.parametrize("line", NOTHING, ids=range(len(NOTHING)))
def test_what_is_no_measure_is_no_curve(line: str) -> None:
    assert found_in(line.encode()) == []


def test_curve_stays_small_and_keeps_its_shape() -> None:
    curve = Curve("loss")
    for number in range(100_000):
        curve.add(float(number))
    assert len(curve.points) < 2 * MOST_POINTS
    assert len(curve.points) * curve.every + len(curve.waiting) == 100_000
    assert (curve.least, curve.most, curve.last) == (0.0, 99_999.0, 99_999.0)
    points = [point for point in curve.points if point is not None]
    assert points == sorted(points)
    assert points[0] == (curve.every - 1) / 2


# --- a stored log -------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def home(settings: Any, tmp_path: Path) -> None:
    settings.LOGS_HOME = tmp_path


def printed(data: bytes) -> None:
    logs.append(1, 1, logs.size(1, 1), data)


def read(**how: Any) -> dict[str, list[float | None]]:
    reading = curves.read(1, 1, **how)
    return {curve.name: curve.points for curve in reading.curves}


def test_log_is_read_on_from_where_the_last_reader_was() -> None:
    assert read() == {}
    printed(b"loss: 1\nlo")
    assert read() == {"loss": [1.0]}
    printed(b"ss: 2\n")
    assert read() == {"loss": [1.0, 2.0]}
    assert read() == {"loss": [1.0, 2.0]}
    printed(b"\rloss=3\rloss=4")
    assert read() == {"loss": [1.0, 2.0, 3.0]}  # the last line may go on


def test_long_log_is_read_in_several_goes() -> None:
    for number in range(3):
        printed(b"x" * logs.PIECE_BYTES + b"\nloss: %d\n" % number)
    ticks = count()
    first = curves.read(1, 1, most_s=0.5, clock=lambda: next(ticks))
    assert not first.whole
    while not (reading := curves.read(1, 1, most_s=0.5, clock=lambda: next(ticks))).whole:
        pass
    assert [curve.points for curve in reading.curves] == [[0.0, 1.0, 2.0]]


def test_file_that_is_not_ours_or_of_another_log_is_read_anew(tmp_path: Path) -> None:
    printed(b"loss: 1\n")
    kept = tmp_path / "1" / "1.curves.json"
    for text in ("", "{}", '{"version": 1, "offset": 10000, "curves": []}', '{"version": 0, "offset": 0, "curves": []}', "[1]"):
        kept.write_text(text)
        assert read() == {"loss": [1.0]}
    assert [path.name for path in tmp_path.rglob("*.new")] == []


def test_no_more_curves_than_a_page_can_show() -> None:
    printed(b"".join(b"loss/%s: 1\n" % bytes([97 + number]) for number in range(MOST_CURVES + 5)))
    assert len(read()) == MOST_CURVES
