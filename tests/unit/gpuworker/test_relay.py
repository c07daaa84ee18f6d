"""Reading a log: what is new, what is out of memory, where a truncation begins a new segment. Sending: tests/integration."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuworker.relay import LOG_NAME, Tail

ALL = float("inf")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / LOG_NAME


def tail_of(log: Path) -> Tail:
    return Tail(log.parent, job="job-a", attempt=1, fence=10, adopted=False)


def append(log: Path, data: bytes) -> None:
    with log.open("ab") as file:
        file.write(data)


def unsent(tail: Tail) -> tuple[int, bytes]:
    """Where the relay is, and what it would send from there."""
    chunks = tail._next_chunks(2**30, most=10**6)
    return tail._sent, b"".join(chunk.data for chunk in chunks)


def pretend_sent(tail: Tail, size: int) -> None:
    tail._sent = size


def test_tail_of_a_log_that_is_not_there_yet_is_empty(log: Path) -> None:
    tail = tail_of(log)
    assert (tail.scan(ALL), tail.log_bytes, unsent(tail)) == (False, 0, (0, b""))


def test_tail_finds_out_of_memory_however_far_the_relay_lags(log: Path) -> None:
    tail = tail_of(log)
    for piece in (b"x" * 300_000, b"CUDA out of", b" memory\n", b"y" * 300_000):
        append(log, piece)
        tail.scan(ALL)
    assert tail.oom.found
    assert tail._sent == 0


def test_tail_reads_no_more_than_it_may_at_once(log: Path) -> None:
    append(log, b"x" * 2_000_000)
    tail = tail_of(log)
    assert tail.scan(500_000)
    assert tail._scanned < 1_000_000
    assert tail.scan(ALL)
    assert not tail.scan(ALL)


def test_tail_begins_a_segment_when_the_log_shrinks(log: Path) -> None:
    append(log, b"one\ntwo\n")
    tail = tail_of(log)
    tail.scan(ALL)
    pretend_sent(tail, 8)
    log.write_bytes(b"three\n")
    tail.scan(ALL)
    assert unsent(tail) == (8, b"three\n")
    assert (tail.log_bytes, tail.truncated) == (14, True)


def test_tail_begins_a_segment_when_the_log_shrank_and_grew_past_its_place(log: Path) -> None:
    append(log, b"one\ntwo\n")
    tail = tail_of(log)
    tail.scan(ALL)
    pretend_sent(tail, 8)
    log.write_bytes(b"three, which is longer\n")
    tail.scan(ALL)
    assert unsent(tail) == (8, b"three, which is longer\n")


def test_tail_remembers_its_segment_when_the_agent_starts_anew(log: Path) -> None:
    append(log, b"12345678")
    tail = tail_of(log)
    tail.scan(ALL)
    pretend_sent(tail, 8)
    log.write_bytes(b"abc")
    tail.scan(ALL)
    again = tail_of(log)
    assert unsent(again) == (8, b"abc")


def test_tail_does_not_join_words_across_a_truncation(log: Path) -> None:
    append(log, b"...out of ")
    tail = tail_of(log)
    tail.scan(ALL)
    log.write_bytes(b"memory")
    tail.scan(ALL)
    assert not tail.oom.found


@pytest.mark.parametrize(("stored", "goes_on_at"), [(5, 8), (8, 8), (20, 20)])
def test_acknowledgement_moves_on_and_skips_what_is_stored_already(log: Path, stored: int, goes_on_at: int) -> None:
    append(log, b"x" * 30)
    tail = tail_of(log)
    pretend_sent(tail, 8)
    tail.acknowledged(stored)
    assert (tail._acked, tail._sent) == (stored, goes_on_at)


def test_acknowledgement_below_an_earlier_one_sends_again_from_there(log: Path) -> None:
    append(log, b"x" * 30)
    tail = tail_of(log)
    pretend_sent(tail, 30)
    tail.acknowledged(20)
    tail.acknowledged(10)
    assert unsent(tail) == (10, b"x" * 20)


def test_acknowledgement_below_a_segment_moves_the_segment_there(log: Path) -> None:
    append(log, b"one\ntwo\n")
    tail = tail_of(log)
    tail.scan(ALL)
    pretend_sent(tail, 8)
    log.write_bytes(b"abc")
    tail.scan(ALL)
    pretend_sent(tail, 11)
    tail._acked = 8
    tail.acknowledged(4)
    assert unsent(tail) == (4, b"abc")


def test_log_is_handed_over_when_the_attempt_is_over_and_all_is_acknowledged(log: Path) -> None:
    append(log, b"12345678")
    tail = tail_of(log)
    pretend_sent(tail, 8)
    tail.acknowledged(8)
    assert not tail.handed_over
    tail.ended = True
    assert tail.handed_over
