from __future__ import annotations

import pytest

from gpuworker.oom import WORDS, OomDetector

CUDA = b"torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB"


def fed(*pieces: bytes) -> OomDetector:
    detector = OomDetector()
    for piece in pieces:
        detector.feed(piece)
    return detector


@pytest.mark.parametrize("text", [CUDA, b"RuntimeError: CUDA error: OUT OF MEMORY", b"Out of Memory", b"\x00\xff out of memory\r"])
def test_oom_detector_finds_the_words_in_any_case(text: bytes) -> None:
    assert fed(b"epoch 1\n", text).found


@pytest.mark.parametrize("cut", range(1, len(WORDS)))
def test_oom_detector_finds_the_words_when_a_chunk_ends_inside(cut: int) -> None:
    assert fed(b"x" * 100 + WORDS[:cut], WORDS[cut:] + b"y").found


def test_oom_detector_finds_the_words_when_they_come_byte_by_byte() -> None:
    assert fed(*(bytes([b]) for b in CUDA)).found


@pytest.mark.parametrize("text", [b"", b"out of memories", b"OutOfMemoryError", b"out  of memory", b"out of\nmemory"])
def test_oom_detector_finds_nothing_where_the_words_are_not(text: bytes) -> None:
    assert not fed(text).found


def test_oom_detector_does_not_join_what_a_truncation_parted() -> None:
    detector = fed(b"out of ")
    detector.cut()
    detector.feed(b"memory")
    assert not detector.found


def test_oom_detector_keeps_little_when_fed_much() -> None:
    detector = fed(b"a" * 10_000_000)
    assert len(detector._tail) < len(WORDS)
