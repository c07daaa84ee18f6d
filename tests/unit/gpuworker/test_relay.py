"""Reading a log: what is new, what is out of memory, where a truncation begins a new segment. Sending: tests/integration."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuworker import disks
from gpuworker.logcap import LOG_NAME, LogCap
from gpuworker.tail import Tail

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


# --- a log whose middle was cut out ---------------------------------------------------------------------------------------

LIMIT = 256 * 1024
NUMBERED = b"".join(b"%07d\n" % i for i in range(100_000))


@pytest.fixture
def cap(log: Path) -> Iterator[LogCap]:
    folder = os.open(log.parent, os.O_RDONLY)
    yield LogCap(folder, LIMIT)
    os.close(folder)


def chunks_of(tail: Tail) -> list[tuple[int, int | None, bytes]]:
    """What would be sent, neighbours together: offset, `cut_from`, bytes."""
    found: list[tuple[int, int | None, bytes]] = []
    for chunk in tail._next_chunks(2**30, most=10**6):
        if found and chunk.cut_from is None and chunk.offset == found[-1][0] + len(found[-1][2]):
            found[-1] = (found[-1][0], found[-1][1], found[-1][2] + chunk.data)
        else:
            found.append((chunk.offset, chunk.cut_from, chunk.data))
    return found


def test_tail_sends_head_and_end_and_says_what_lay_between(log: Path, cap: LogCap) -> None:
    append(log, NUMBERED)
    cap.look()
    cut = disks.due_cut(len(NUMBERED), LIMIT, None)
    assert cut
    assert chunks_of(tail_of(log)) == [(0, None, NUMBERED[: cut.begin]), (cut.end, cut.begin, NUMBERED[cut.end :])]


@pytest.mark.parametrize("sent", [LIMIT // 4, LIMIT // 2, 3 * LIMIT // 4])
def test_tail_goes_on_behind_a_cut_that_overtook_it(log: Path, cap: LogCap, sent: int) -> None:
    tail = tail_of(log)
    append(log, NUMBERED[:LIMIT])
    pretend_sent(tail, sent)
    append(log, NUMBERED[LIMIT:])
    cap.look()
    cut = disks.due_cut(len(NUMBERED), LIMIT, None)
    assert cut
    assert chunks_of(tail) == [(cut.end, sent, NUMBERED[cut.end :])]
    assert tail.cut_bytes == cut.end - cut.begin


def test_tail_never_takes_a_hole_for_bytes_when_it_is_punched_meanwhile(log: Path, cap: LogCap, monkeypatch: pytest.MonkeyPatch) -> None:
    append(log, NUMBERED)
    tail, pread, calls = tail_of(log), os.pread, [0]

    def slow(fd: int, size: int, offset: int) -> bytes:
        calls[0] += 1
        if calls[0] == 3:
            cap.look()
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", slow)
    chunks = chunks_of(tail)
    assert all(data == NUMBERED[offset : offset + len(data)] for offset, _, data in chunks)
    assert len(chunks) == 2


def test_tail_takes_a_cut_for_no_truncation_and_looks_on_behind_it(log: Path, cap: LogCap) -> None:
    tail = tail_of(log)
    append(log, NUMBERED[:100_000])
    tail.scan(ALL)
    append(log, NUMBERED[100_000:] + b"CUDA out of memory")
    cap.look()
    tail.scan(ALL)
    assert (tail.truncated, tail.oom.found, tail.log_bytes) == (False, True, len(NUMBERED) + 18)


def test_tail_joins_no_words_across_a_cut(log: Path, cap: LogCap) -> None:
    cut = disks.due_cut(len(NUMBERED), LIMIT, None)
    assert cut
    words = bytearray(NUMBERED)
    words[cut.begin - 7 : cut.begin] = b"out of "
    words[cut.end : cut.end + 6] = b"memory"
    append(log, bytes(words))
    cap.look()
    tail = tail_of(log)
    tail.scan(ALL)
    assert not tail.oom.found


def test_tail_sees_a_truncation_after_a_cut(log: Path, cap: LogCap) -> None:
    append(log, NUMBERED)
    cap.look()
    tail = tail_of(log)
    tail.scan(ALL)
    pretend_sent(tail, len(NUMBERED))
    log.write_bytes(b"anew\n")
    tail.scan(ALL)
    assert chunks_of(tail) == [(len(NUMBERED), None, b"anew\n")]
    assert (tail.truncated, tail.cut_bytes) == (True, 0)


def test_tail_tells_a_cut_at_the_very_end_where_files_have_no_holes(log: Path, cap: LogCap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "punch", lambda fd, cut: False)
    append(log, NUMBERED)
    tail = tail_of(log)
    tail.scan(ALL)
    cap.look()
    tail.scan(ALL)
    assert not tail.truncated
    assert chunks_of(tail)[1:] == [(len(NUMBERED), LIMIT // 4, b"")]


def test_next_agent_sees_that_the_log_was_truncated_while_there_was_none(log: Path) -> None:
    append(log, b"one\ntwo\n")
    first = tail_of(log)
    first.scan(ALL)
    first._note(at_once=True)
    log.write_bytes(b"three, which is longer\n")
    again = Tail(log.parent, job="job-a", attempt=1, fence=10, adopted=True)
    assert chunks_of(again) == [(0, None, b"")]  # asks what is stored
    again.acknowledged(8)
    assert chunks_of(again) == [(8, None, b"three, which is longer\n")]
    assert (again.truncated, again.log_bytes) == (True, 31)


def test_next_agent_takes_a_log_that_grew_for_the_same(log: Path) -> None:
    append(log, b"one\n")
    first = tail_of(log)
    first.scan(ALL)
    first._note(at_once=True)
    append(log, b"two\n")
    again = Tail(log.parent, job="job-a", attempt=1, fence=10, adopted=True)
    again.acknowledged(4)
    assert (chunks_of(again), again.truncated) == ([(4, None, b"two\n")], False)


def test_tail_tells_progress_in_whole_and_cut_lines(log: Path) -> None:
    tail = tail_of(log)
    assert tail.progress is None
    for piece in (b"loading\n", b"Epoch 1/", b"10 | loss: 0.5\n"):
        append(log, piece)
        tail.scan(ALL)
    assert tail.progress == 0.1


def test_tail_that_was_taken_over_tells_no_progress_before_it_has_caught_up(log: Path) -> None:
    append(log, b"Epoch 1/10 | loss: 0.5\n" + b"x" * 600_000 + b"\nEpoch 7/10 | loss: 0.2\n")
    tail = Tail(log.parent, job="job-a", attempt=1, fence=10, adopted=True)
    tail.scan(1)
    assert tail.progress is None
    tail.scan(ALL)
    assert tail.progress == 0.7
