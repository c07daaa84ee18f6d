"""Asking a real agent: checks before a submission, and what a training left, hostile files among it."""

from __future__ import annotations

import io
import json
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from PIL import Image

from gpuworker import protocol
from gpuworker.protocol import Ended, Kind, Spec
from gpuworker.questions import PIECE_BYTES, Answer, Ask, Question, answer_key, questions_key
from jobs import artifacts, asking, logs, retention
from jobs.models import Attempt, Job, User
from jobs.states import JobState
from tests.integration.host import CLUSTER_KEY, HOST, KEY, Host, running_host
from tests.integration.rest import Rest, make_attempt, make_job, person, put_into

PATTERNS = ["*.png", "plots/**/*.txt", "big.bin", "pipe", "link.png"]


def png(width: int = 640, height: int = 480) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(out, "PNG")
    return out.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A small PNG that says of itself that it is a large one."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png(8, 8)[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + png(8, 8)[33:]


@pytest.fixture
def host(broker: str, settings: Any, tmp_path: Path) -> Iterator[Host]:
    settings.CLUSTER_KEY = CLUSTER_KEY
    with running_host(broker, tmp_path) as host:
        yield host


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    (folder / "plots" / "deep").mkdir(parents=True)
    (folder / "result.png").write_bytes(png())
    (folder / "plots" / "deep" / "a.txt").write_text("text")
    (folder / "plots" / "b.txt").write_text("b")
    (folder / "other.log").write_text("not asked for")
    (folder / ".hidden.png").write_bytes(png())
    (folder / "link.png").symlink_to("/etc/passwd")
    (folder / "folder.png").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture
def left(host: Host, work: Path, ada: User) -> tuple[Job, Attempt]:
    """A job that has run there and has ended."""
    spec: Spec = host.offer(host.spec("true", working_dir=str(work)))
    host.report(Ended, spec)
    job = make_job(ada, artifacts=PATTERNS, uid=spec.job)
    now = timezone.now()
    attempt = make_attempt(job, 1, fence=spec.fence, host=HOST, outcome="completed", started_at=now - timedelta(hours=1), ended_at=now)
    return put_into(job, JobState.COMPLETED, ended_at=now) or job, attempt


# --- the channel --------------------------------------------------------------------------------------------------------


def test_host_says_what_would_keep_a_job_from_starting(host: Host, work: Path) -> None:
    def said(**args: str) -> Any:
        return asking.ask(HOST, Ask.CHECK, {"working_dir": str(work), "command": "true", **args}).told

    assert said() == {"directory": "", "program": "", "environment": ""}
    assert said(working_dir=str(work / "missing"))["directory"] == "does not exist"
    assert said(working_dir=str(work / "other.log"))["directory"] == "is a file"
    assert said(command="no-such-program --x")["program"] == "is not found"
    assert said(command="./other.log")["program"] == "is no program that may be run"
    assert said(command="cd x && python y")["program"] == ""
    assert said(command='"unclosed')["program"] == ""
    assert said(environment=str(work))["environment"] == "has no folder 'bin'"


def test_program_is_looked_for_where_the_job_would(host: Host, work: Path) -> None:
    (work / "bin").mkdir()
    (work / "bin" / "own-program").touch(mode=0o755)

    def said(path: str) -> Any:
        return asking.ask(HOST, Ask.CHECK, {"working_dir": str(work), "command": "own-program", "path": path}).told["program"]

    assert said("") == "is not found"
    assert said(str(work / "bin")) == ""


def test_host_names_its_environments(host: Host, work: Path) -> None:
    for name in (".venv", "env"):
        (work / name / "bin").mkdir(parents=True)
    python = work / ".venv" / "bin" / "python"
    python.touch(mode=0o755)
    assert str(work / ".venv") in asking.ask(HOST, Ask.ENVIRONMENTS, {"working_dir": str(work)}).told
    assert str(work / "env") not in asking.ask(HOST, Ask.ENVIRONMENTS, {"working_dir": str(work)}).told


def test_silence_is_an_answer(broker: str, settings: Any) -> None:
    settings.CLUSTER_KEY = CLUSTER_KEY
    began = time.monotonic()
    asked = asking.ask_all(["gpu-y", "gpu-z"], Ask.CHECK, wait_s=0.3)
    assert {name: one.error for name, one in asked.items()} == {n: f"{n} has not answered in time." for n in ("gpu-y", "gpu-z")}
    assert time.monotonic() - began < 10


def question(**changes: Any) -> Question:
    return replace(Question(id="q1", ask=Ask.CHECK, expires_at=time.time() + 30), **changes)


@pytest.mark.parametrize(
    "sealed",
    [
        b"",
        b"{}",
        protocol.seal(Kind.QUESTION, HOST, question().body(), b"another key"),
        protocol.seal(Kind.QUESTION, "gpu-z", question().body(), KEY),
        protocol.seal(Kind.CANARY, HOST, question().body(), KEY),
        protocol.seal(Kind.QUESTION, HOST, question(expires_at=1.0).body(), KEY),
        protocol.seal(Kind.QUESTION, HOST, question().body() | {"ask": "everything"}, KEY),
    ],
    ids=range(7),
)
def test_forged_redirected_and_old_questions_get_no_answer(host: Host, sealed: Any) -> None:
    host.client.rpush(questions_key(HOST), sealed)
    assert asking.ask(HOST, Ask.CHECK).error == ""  # it was taken, and the next one is answered
    assert not host.client.exists(answer_key(HOST, "q1"))


def test_replayed_question_is_answered_once(host: Host) -> None:
    sealed = protocol.seal(Kind.QUESTION, HOST, question().body(), KEY)
    host.client.rpush(questions_key(HOST), sealed, sealed)
    assert host.client.blpop([answer_key(HOST, "q1")], timeout=5)
    assert asking.ask(HOST, Ask.CHECK).error == ""
    assert not host.client.exists(answer_key(HOST, "q1"))


@pytest.mark.parametrize("how", ["forged", "to another question", "no json"])
def test_answer_that_is_not_the_hosts_own_is_dropped(broker: str, settings: Any, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    settings.CLUSTER_KEY = CLUSTER_KEY
    monkeypatch.setattr(asking.secrets, "token_hex", lambda _: "q2")
    answer = Answer(id="q1" if how == "to another question" else "q2", told="{" if how == "no json" else "1")
    sealed = protocol.seal(Kind.ANSWER, HOST, answer.body(), b"another key" if how == "forged" else KEY)
    asking.hostlink.client().rpush(answer_key(HOST, "q2"), sealed)
    assert asking.ask(HOST, Ask.CHECK).error == "gpu-a has given no answer that can be read."


# --- what a training left -----------------------------------------------------------------------------------------------


def test_files_that_match_are_listed_and_read_and_no_others(left: tuple[Job, Attempt], work: Path) -> None:
    job, attempt = left
    assert [file.name for file in artifacts.left_by(job, attempt).files] == ["plots/b.txt", "plots/deep/a.txt", "result.png"]
    (work / "big.bin").write_bytes(os.urandom(2 * PIECE_BYTES + 17))
    assert artifacts.content(job, attempt, "plots/deep/a.txt") == b"text"
    assert artifacts.content(job, attempt, "big.bin") == (work / "big.bin").read_bytes()
    for name in ("other.log", "link.png", "pipe", "../work/result.png", "/etc/passwd", "folder.png/result.png", "", "result.png/x", "\0"):
        with pytest.raises(artifacts.NotToBeHad):
            artifacts.content(job, attempt, name)


def test_file_of_before_the_attempt_is_not_what_it_left(left: tuple[Job, Attempt], work: Path) -> None:
    os.utime(work / "result.png", (0, time.time() - 4000))
    assert [file.name for file in artifacts.left_by(*left).files] == ["plots/b.txt", "plots/deep/a.txt"]


def test_file_that_is_too_large_stays_where_it_is(left: tuple[Job, Attempt], work: Path) -> None:
    with (work / "big.bin").open("wb") as sparse:
        sparse.truncate(10 * 2**30)
    with pytest.raises(artifacts.NotToBeHad, match="larger than 64 MiB"):
        artifacts.content(*left, "big.bin")


def test_host_that_takes_too_long_holds_no_letter_up(left: tuple[Job, Attempt], monkeypatch: pytest.MonkeyPatch) -> None:
    job, attempt = left
    monkeypatch.setattr(artifacts, "FETCH_S", -1.0)
    with pytest.raises(artifacts.NotToBeHad, match="takes too long to give"):
        artifacts.content(job, attempt, "result.png")
    monkeypatch.undo()
    monkeypatch.setattr(artifacts, "COLLECT_S", -1.0)
    assert [file.name for file in artifacts.collect(job, attempt).files] == ["plots/b.txt", "plots/deep/a.txt", "result.png"]
    assert not list(logs.log_path(job.pk, 1).parent.glob("1.artifact-*"))
    assert artifacts.content(job, attempt, "result.png")  # whoever wants it still gets it


def test_file_that_grows_comes_with_what_it_had(left: tuple[Job, Attempt], work: Path) -> None:
    begun, stop = threading.Event(), threading.Event()

    def grow() -> None:
        with (work / "big.bin").open("ab", buffering=0) as file:
            while not stop.is_set() and file.tell() < 8 * 2**20:
                file.write(bytes(range(256)) * 256)
                begun.set()

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        assert begun.wait(20)
        data = artifacts.content(*left, "big.bin")
    finally:
        stop.set()
        writer.join()
    assert data
    assert (work / "big.bin").read_bytes().startswith(data)


def test_file_that_became_something_else_since_it_was_listed_is_not_read(left: tuple[Job, Attempt], work: Path) -> None:
    job, attempt = left
    assert len(artifacts.left_by(job, attempt).files) == 3
    (work / "result.png").unlink()
    (work / "result.png").symlink_to("/etc/passwd")
    (work / "plots" / "b.txt").unlink()
    os.mkfifo(work / "plots" / "b.txt")
    (work / "plots" / "deep").rename(work / "deep")
    (work / "plots" / "deep").symlink_to(work / "deep")
    for name in ("result.png", "plots/b.txt", "plots/deep/a.txt"):
        with pytest.raises(artifacts.NotToBeHad):
            artifacts.content(job, attempt, name)
    assert artifacts.collect(job, attempt).files == ()


def test_letter_gets_the_first_five_pictures_and_none_that_is_none(left: tuple[Job, Attempt], work: Path) -> None:
    (work / "a_bomb.png").write_bytes(bomb(60_000, 60_000))
    (work / "a_page.png").write_text("<svg/>")
    (work / "a_pipe.png").symlink_to(work / "pipe")
    for number in range(7):
        (work / f"b{number}.png").write_bytes(png(3000, 30))
    found = artifacts.pictures(*left, most=5)
    assert [name for name, _ in found] == [f"b{number}.png" for number in range(5)]
    assert all(Image.open(io.BytesIO(data)).size == (1000, 10) for _, data in found)


def test_what_an_attempt_left_is_kept_when_the_next_one_writes_over_it(left: tuple[Job, Attempt], work: Path, host: Host) -> None:
    job, attempt = left
    assert list(artifacts.to_collect(timezone.now())) == [attempt]
    assert artifacts.collect(job, attempt).error == ""
    assert list(artifacts.to_collect(timezone.now())) == []
    before = (work / "result.png").read_bytes()
    (work / "result.png").write_bytes(b"another")
    host.kill()
    assert artifacts.content(job, attempt, "result.png") == before
    assert len(artifacts.left_by(job, attempt).files) == 3
    with pytest.raises(artifacts.NotToBeHad, match="none of the files"):
        artifacts.content(job, attempt, "other.log")
    Job.objects.filter(pk=job.pk).update(ended_at=timezone.now() - timedelta(days=100))
    retention.prune(days=90, now=timezone.now())
    assert artifacts._kept_list(attempt) is None


def test_files_are_told_and_served_as_nothing_but_files(left: tuple[Job, Attempt], work: Path) -> None:
    job, _ = left
    (work / "page.png").write_text("<script>alert(1)</script>")
    api = Rest(job.owner)
    told = api("GET", f"jobs/{job.pk}/artifacts/").json()
    assert (told["attempt"], told["error"]) == (1, "")
    assert [one["name"] for one in told["results"] if one["picture"]] == ["page.png", "result.png"]
    answer = api("GET", f"jobs/{job.pk}/artifacts/file/?name=page.png")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/octet-stream")
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert api("GET", f"jobs/{job.pk}/artifacts/file/?name=page.png&size=thumb").status_code == 404
    shown = api("GET", f"jobs/{job.pk}/artifacts/file/?name=result.png&size=thumb")
    assert shown.headers["Content-Type"] == "image/png"
    assert Image.open(io.BytesIO(shown.content)).size == (320, 240)
    assert api("GET", f"jobs/{job.pk}/artifacts/file/").status_code == 400
    assert api("GET", f"jobs/{job.pk}/artifacts/file/?name=result.png&size=huge").status_code == 400
    other = Rest(person("somebody"))
    assert other("GET", f"jobs/{job.pk}/artifacts/").status_code == 403
    assert other("GET", f"jobs/{job.pk}/artifacts/file/?name=result.png").status_code == 403


def test_page_shows_what_was_left(left: tuple[Job, Attempt], client: Any) -> None:
    job, _ = left
    client.force_login(job.owner)
    page = client.get(f"/jobs/{job.pk}/").content.decode()
    assert "What it left" in page
    assert "name=plots%2Fdeep%2Fa.txt" in page
    assert page.count("<img") == 1


# --- pictures -----------------------------------------------------------------------------------------------------------


def test_picture_is_encoded_anew() -> None:
    with_words = png(100, 50) + b"<script>"
    data, kind = artifacts.picture(with_words, longest=1000)
    assert (kind, Image.open(io.BytesIO(data)).size) == ("image/png", (100, 50))
    assert b"<script>" not in data


@pytest.mark.parametrize("data", [b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>", png()[:200], b"GIF89a" + b"\0" * 20], ids=range(4))
def test_what_is_no_picture_is_not_shown(data: bytes) -> None:
    with pytest.raises(artifacts.NotToBeHad):
        artifacts.picture(data, longest=100)


def test_picture_that_would_fill_the_memory_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "MOST_PIXELS", 100)
    with pytest.raises(artifacts.NotToBeHad, match="too large"):
        artifacts.picture(png(20, 20), longest=100)


@pytest.mark.parametrize("size", [(60_000, 60_000), (10_000, 9_000), (8_000, 7_000), (2**31 - 1, 2**31 - 1)])
def test_bomb_is_not_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(artifacts.NotToBeHad):
        artifacts.picture(bomb(*size), longest=100)


def test_kept_list_that_is_none_is_asked_for_again(ada: User) -> None:
    job = make_job(ada)
    attempt = make_attempt(job)
    path = artifacts._list_path(attempt)
    path.parent.mkdir(parents=True)
    for text in ("", "{", json.dumps([{"name": 1}]), "[1]"):
        path.write_text(text)
        assert artifacts._kept_list(attempt) is None
