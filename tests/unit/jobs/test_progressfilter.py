"""The filter of progress bars: what programs really draw goes, what only looks like it stays."""

from __future__ import annotations

import pytest

from jobs.progressfilter import LONGEST_LINE, news_of, without_progress

BARS = [
    " 45%|████▌     | 450/1000 [00:31<00:40, 13.10it/s]",
    "train:  45%|####5     | 450/1000 [00:31<00:40, 13.1it/s, loss=0.352, lr=1e-4]",
    "Epoch 3/10:  17%|████                    | [00:00, loss=2.1297]",
    "train:   0%|                    | 0/60 [00:00<?, ?it/s]",
    "100%|##########| 60/60 [00:06<00:00, 9.7it/s]",
    "Epoch 1:  17%|█▋        | 100/600 [00:10<00:50,  9.9it/s, v_num=0, train_loss=0.34]",
    "Validation DataLoader 0: 100%|██████████| 79/79 [00:01<00:00, 62.02it/s]",
    "Downloading (…)model.bin:  45%|████▌     | 200M/440M [00:05<00:06, 38.1MB/s]",
    "Map (num_proc=8):  33%|███▎      | 3333/10000 [00:02<00:04, 1500.12 examples/s]",
    "450it [00:31, 13.10it/s]",
    "tokens: 1200tok [00:02, 600.5tok/s]",
    "100/600 [====>.........................] - ETA: 5s - loss: 0.4113 - accuracy: 0.8820",
    " 32/313 ━━━━━━━━━━━━━━━━━━━━ 0s 2ms/step - accuracy: 0.91 - loss: 0.28",
    "Working... ━━━━━━━━━━━━━━━━╸━━━━━━━━━━━━━━━━━━━━━━━  40% 0:00:05",
    "   ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 1.2/3.4 MB 5.6 MB/s eta 0:00:01",
    "     50K .......... .......... .......... .......... ..........  1% 1.23M 80s",
    " 45  100M   45 45.0M    0     0  1200k      0  0:01:25  0:00:38  0:00:47 1300k",
    "45%",
    "Progress: 45.3 %",
    "Downloading... 12%",
    "[#####     ] 50%",
    "copy [=====>     ]  55%  1.2 MB/s",
    " 10%|#         | 1/10 [00:01<00:09",
]
NEWS = [
    "",
    "Epoch 3/10 | Loss: 0.3",
    "Epoch 1/3 | Loss: 0.83",
    "saved 50% of the checkpoints, 12% faster than before <b>&amp;</b> 模型",
    "accuracy 93.1%",
    "GPU memory 45% used",
    "Test set: Accuracy: 9842/10000 (98%)",
    "100/600 steps without improvement",
    "{'loss': 0.1284, 'epoch': 1.2}",
    "2026-11-26 10:00:01 INFO 12:30 start",
    "600/600 [==============================] - 3s 5ms/step - loss: 0.4113 - val_loss: 0.39",
    "| epoch | loss | 45% | 10 |",
    "dropout 10% | layers 12 | heads 8",
    "warning: 3% of the images could not be read",
    "Traceback (most recent call last):",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
]


@pytest.mark.parametrize("line", BARS, ids=range(len(BARS)))
def test_bar_says_nothing(line: str) -> None:
    assert news_of(line) is None


@pytest.mark.parametrize("line", NEWS, ids=range(len(NEWS)))
def test_what_only_looks_like_a_bar_stays_as_it_is(line: str) -> None:
    assert news_of(line) == line


@pytest.mark.parametrize(
    ("line", "news"),
    [
        (" 45%|████▌     | 450/1000 [00:31<00:40, 13.10it/s]ERROR: worker 3 died", "ERROR: worker 3 died"),
        ("train:  45%|####5   | 450/1000 [00:31<00:40, 13.1it/s] saved checkpoint 450", "saved checkpoint 450"),
        ("450it [00:31, 13.10it/s]Traceback (most recent call last):", "Traceback (most recent call last):"),
    ],
)
def test_message_behind_a_bar_is_kept(line: str, news: str) -> None:
    assert news_of(line) == news


def filtered(*pieces: bytes) -> str:
    return "".join(without_progress(pieces))


BAR = b"train:  45%|####5     | 450/1000 [00:31<00:40, 13.1it/s]"
LOG = b"begin\r\n" + b"\r" + b"\r".join([BAR] * 50) + b"\n" + b"\n\x1b[32mEpoch 1/3\x1b[0m | Loss: 0.8\n" + BAR + b"\r" + BAR + b"\nend"


def test_bars_that_are_drawn_over_go_and_the_rest_stays_in_order() -> None:
    assert filtered(LOG) == "begin\n\nEpoch 1/3 | Loss: 0.8\nend\n"


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_pieces_may_end_anywhere(size: int) -> None:
    assert filtered(*(LOG[i : i + size] for i in range(0, len(LOG), size))) == filtered(LOG)


def test_invalid_bytes_and_endless_lines_are_passed_on() -> None:
    assert filtered(b"\xff\xfe ok\n") == "\ufffd\ufffd ok\n"
    assert len(filtered(b"x" * (3 * LONGEST_LINE + 5)).replace("\n", "")) == 3 * LONGEST_LINE + 5
