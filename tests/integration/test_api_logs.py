"""Stored logs over REST: raw, in pieces, as text, and a moment before they are complete."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from jobs import logs
from jobs.models import Job
from jobs.states import JobState
from tests.integration.rest import Rest, errors, make_attempt, make_job, person, put_into

pytestmark = pytest.mark.django_db

RAW = bytes(range(256)) * 40


@pytest.fixture
def job() -> Job:
    job = make_job(person("ann"))
    make_attempt(job)
    put_into(job, JobState.RUNNING)
    return job


@pytest.fixture
def api(job: Job) -> Rest:
    return Rest(job.owner)


def whole(answer: Any) -> bytes:
    return b"".join(answer.streaming_content) if answer.streaming else answer.content


def test_log_is_the_bytes_as_they_were_written(api: Rest, job: Job) -> None:
    logs.append(job.pk, 1, 0, RAW)
    answer = api("GET", f"jobs/{job.pk}/log/")
    assert (answer.status_code, answer.content) == (200, RAW)
    assert answer.headers["X-Log-Size"] == str(len(RAW))
    assert answer.headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/octet-stream", "text/html"])
def test_log_comes_whatever_is_accepted(api: Rest, job: Job, accept: str) -> None:
    logs.append(job.pk, 1, 0, RAW)
    assert api("GET", f"jobs/{job.pk}/log/", accept=accept).content == RAW


def test_log_can_be_read_in_pieces(api: Rest, job: Job) -> None:
    logs.append(job.pk, 1, 0, RAW)
    pieces = [api("GET", f"jobs/{job.pk}/log/?offset={at}&limit=1000").content for at in range(0, len(RAW), 1000)]
    assert b"".join(pieces) == RAW
    beyond = api("GET", f"jobs/{job.pk}/log/?offset={len(RAW) + 5}")
    assert (beyond.status_code, beyond.content, beyond.headers["X-Log-Size"]) == (200, b"", str(len(RAW)))


def test_log_has_at_most_8_mib_in_one_answer(api: Rest, job: Job) -> None:
    logs.append(job.pk, 1, 0, b"x" * (9 * 2**20))
    answer = api("GET", f"jobs/{job.pk}/log/?limit=99999999")
    assert (len(answer.content), answer.headers["X-Log-Size"]) == (8 * 2**20, str(9 * 2**20))


def test_log_is_empty_when_there_is_no_attempt_yet(api: Rest, job: Job) -> None:
    fresh = make_job(job.owner)
    answer = api("GET", f"jobs/{fresh.pk}/log/")
    assert (answer.status_code, answer.content, answer.headers["X-Log-Size"]) == (200, b"", "0")
    assert whole(api("GET", f"jobs/{fresh.pk}/log/?format=text")) == b""


def test_log_is_the_latest_attempts_when_none_is_named(api: Rest, job: Job) -> None:
    job.attempts.update(outcome="failed")
    make_attempt(job, 2)
    logs.append(job.pk, 1, 0, b"one")
    logs.append(job.pk, 2, 0, b"two")
    assert api("GET", f"jobs/{job.pk}/log/").content == b"two"
    assert api("GET", f"jobs/{job.pk}/log/?attempt=1").content == b"one"
    assert api("GET", f"jobs/{job.pk}/log/?attempt=3").status_code == 404


@pytest.mark.parametrize("query", ["offset=-1", "offset=x", "limit=1.5", "attempt=0", "attempt=x", "format=pdf", "offset=" + "9" * 30])
def test_log_is_400_with_the_parameter_when_it_makes_no_sense(api: Rest, job: Job, query: str) -> None:
    answer = api("GET", f"jobs/{job.pk}/log/?{query}")
    assert answer.status_code == 400
    assert query.split("=")[0] in errors(answer)


def test_text_is_what_a_terminal_shows_in_the_end(api: Rest, job: Job) -> None:
    logs.append(job.pk, 1, 0, "start\n 10%|█  |\r100%|███|\n\x1b[32mdone\x1b[0m \xff".encode() + b"\xff\n")
    answer = api("GET", f"jobs/{job.pk}/log/?format=text")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert whole(answer).decode() == "start\n100%|███|\ndone ÿ\ufffd\n"


def test_log_waits_for_its_last_bytes_when_the_attempt_has_just_ended(api: Rest, job: Job) -> None:
    logs.append(job.pk, 1, 0, b"almost ")
    job.attempts.update(outcome="completed", ended_at=timezone.now(), log_bytes=10)
    late = threading.Timer(0.4, logs.append, (job.pk, 1, 7, b"all"))
    late.start()
    assert api("GET", f"jobs/{job.pk}/log/").content == b"almost all"
    late.join()


def test_log_does_not_wait_for_bytes_that_will_not_come(api: Rest, job: Job) -> None:
    logs.append(job.pk, 1, 0, b"almost ")
    job.attempts.update(outcome="completed", ended_at=timezone.now() - timedelta(hours=1), log_bytes=10)
    began = timezone.now()
    assert api("GET", f"jobs/{job.pk}/log/").content == b"almost "
    assert timezone.now() - began < timedelta(seconds=3)


# --- over the limit -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cut(job: Job) -> tuple[int, int]:
    """A log of 5000 bytes, the middle of which is gone."""
    logs.append(job.pk, 1, 0, RAW[:1000])
    logs.append(job.pk, 1, 4000, RAW[4000:5000], cut_from=1000)
    return 1000, 4000


def test_log_says_what_was_cut_out_and_an_answer_stops_before_it(api: Rest, job: Job, cut: tuple[int, int]) -> None:
    answer = api("GET", f"jobs/{job.pk}/log/?offset=900")
    assert (answer.content, answer.headers["X-Log-Size"]) == (RAW[900:1000], "5000")
    assert (answer.headers["X-Log-Cut"], answer.headers["X-Log-Offset"]) == ("1000-4000", "900")


@pytest.mark.parametrize("inside", [1000, 1001, 3999, 4000])
def test_log_goes_on_behind_the_cut_when_it_is_asked_from_inside(api: Rest, job: Job, cut: tuple[int, int], inside: int) -> None:
    answer = api("GET", f"jobs/{job.pk}/log/?offset={inside}&limit=10")
    assert (answer.content, answer.headers["X-Log-Offset"], answer.headers["X-Log-Cut"]) == (RAW[4000:4010], "4000", "1000-4000")


def test_text_of_a_log_has_one_line_for_the_cut(api: Rest, job: Job) -> None:
    logs.append(job.pk, 1, 0, b"one\ntw")
    logs.append(job.pk, 1, 2000, b"\r99%\rend\n", cut_from=6)
    said = whole(api("GET", f"jobs/{job.pk}/log/?format=text")).decode().split("\n")
    assert said[:2] + said[3:] == ["one", "tw", "end", ""]
    assert "1,994 bytes of the log were cut out" in said[2]


def test_log_without_a_cut_says_nothing_of_one(api: Rest, job: Job) -> None:
    logs.append(job.pk, 1, 0, RAW)
    answer = api("GET", f"jobs/{job.pk}/log/?offset=7")
    assert "X-Log-Cut" not in answer.headers
    assert answer.headers["X-Log-Offset"] == "7"


# --- removed --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["log/", "log/?format=text", "log/?attempt=1", "log/stream/", "log/stream/?attempt=1"])
def test_log_that_was_removed_is_gone_and_says_when(api: Rest, job: Job, path: str) -> None:
    job.attempts.update(log_removed_at=datetime(2026, 3, 9, 12, tzinfo=UTC))
    answer = api("GET", f"jobs/{job.pk}/{path}")
    assert answer.status_code == 410
    assert answer.json()["errors"][0]["code"] == "log_removed"
    assert "removed on 2026-03-09" in errors(answer)[None]
    assert api("GET", f"jobs/{job.pk}/").json()["attempts"][0]["log_removed_at"] == "2026-03-09T12:00:00Z"


# --- as a file ----------------------------------------------------------------------------------------------------------


def fetched(api: Rest, job: Job, wanted: str = "", **headers: str) -> Any:
    return api("GET", f"jobs/{job.pk}/log/?format=file", **({"range": wanted} if wanted else {}), **headers)


@pytest.fixture
def file(job: Job, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A log of several pieces whose middle was cut out, as a download has it."""
    monkeypatch.setattr(logs, "PIECE_BYTES", 1000)
    logs.append(job.pk, 1, 0, RAW[:4000])
    logs.append(job.pk, 1, 9000, RAW[:2500], cut_from=4000)
    return RAW[:4000] + f"\n{logs.cut_line(5000)}\n".encode() + RAW[:2500]


def test_file_is_the_whole_log_however_long_it_is(api: Rest, job: Job) -> None:
    data = bytes(range(256)) * 36_000
    logs.append(job.pk, 1, 0, data)
    answer = fetched(api, job)
    assert (answer.status_code, whole(answer) == data) == (200, True)
    assert (answer.headers["Content-Length"], answer.headers["Accept-Ranges"]) == (str(len(data)), "bytes")
    assert answer.headers["Content-Disposition"] == f'attachment; filename="job-{job.pk}-attempt-1.log"'


@pytest.mark.parametrize(
    "wanted", ["bytes=0-", "bytes=0-0", "bytes=3990-4150", "bytes=4001-4010", "bytes=5000-", "bytes=-700", "bytes=0-999999"]
)
def test_file_comes_in_the_range_that_is_asked_for(api: Rest, job: Job, file: bytes, wanted: str) -> None:
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    begin = int(first) if first else len(file) - int(last)
    end = min(len(file), int(last) + 1) if first and last else len(file)
    answer = fetched(api, job, wanted)
    assert whole(answer) == file[begin:end]
    told = {} if end - begin == len(file) else {"Content-Range": f"bytes {begin}-{end - 1}/{len(file)}"}
    assert answer.status_code == (206 if told else 200)
    assert {name: value for name, value in answer.headers.items() if name == "Content-Range"} == told
    assert answer.headers["Content-Length"] == str(end - begin)


@pytest.mark.parametrize("wanted", ["bytes=5-3", "bytes=-", "bytes=x-9", "lines=1-2", "bytes=1-2,4-5", "bytes=" + "9" * 40 + "-"])
def test_file_comes_whole_when_the_range_is_none(api: Rest, job: Job, file: bytes, wanted: str) -> None:
    answer = fetched(api, job, wanted)
    assert (answer.status_code, whole(answer)) == (200, file)


@pytest.mark.parametrize("wanted", ["bytes=999999-", "bytes=-0"])
def test_file_has_nothing_in_a_range_behind_its_end(api: Rest, job: Job, file: bytes, wanted: str) -> None:
    answer = fetched(api, job, wanted)
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, f"bytes */{len(file)}")


def test_file_goes_on_only_where_it_is_still_the_same(api: Rest, job: Job, file: bytes) -> None:
    etag = fetched(api, job).headers["ETag"]
    assert fetched(api, job, "bytes=9-", if_range=etag).status_code == 206
    logs.append(job.pk, 1, 11_500, b"more")
    assert fetched(api, job, "bytes=9-", if_range=etag).status_code == 200


def test_file_is_not_read_for_its_head_alone(api: Rest, job: Job, file: bytes) -> None:
    answer = api("HEAD", f"jobs/{job.pk}/log/?format=file")
    assert (answer.status_code, answer.headers["Content-Length"], whole(answer)) == (200, str(len(file)), b"")


def test_file_of_a_job_without_an_attempt_is_empty(api: Rest, job: Job) -> None:
    job.attempts.all().delete()
    answer = fetched(api, job)
    assert (answer.status_code, whole(answer)) == (200, b"")
