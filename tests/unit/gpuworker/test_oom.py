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


TORCH = (
    b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 16.00 GiB. GPU 0 has a total capacity of 139.80 GiB of which "
    b"11.28 GiB is free. Including non-PyTorch memory, this process has 128.51 GiB memory in use. Of the allocated memory 128.00 GiB "
    b"is allocated by PyTorch, and 0 bytes is reserved by PyTorch but unallocated."
)


def test_oom_detector_reads_what_the_process_had() -> None:
    assert fed(b"epoch 1\n", TORCH).in_use_mib == round(128.51 * 1024)
    assert fed(b"CUDA out of memory. This process has 812.25 MiB memory in use.").in_use_mib == 812


@pytest.mark.parametrize("size", [1, 7, 100])
def test_oom_detector_reads_what_the_process_had_across_chunks(size: int) -> None:
    assert fed(*(TORCH[i : i + size] for i in range(0, len(TORCH), size))).in_use_mib == round(128.51 * 1024)


@pytest.mark.parametrize(
    "text",
    [
        CUDA,
        b"this process has 5.00 GiB memory in use, CUDA out of memory",
        b"out of memory" + b" " * 2000 + b"this process has 5.00 GiB memory in use",
        b"out of memory: this process has 1e400 GiB memory in use",
    ],
)
def test_oom_detector_does_not_know_what_the_process_had_when_nothing_near_says_it(text: bytes) -> None:
    detector = fed(*(text[i : i + 50] for i in range(0, len(text), 50)))
    assert detector.found
    assert detector.in_use_mib is None
