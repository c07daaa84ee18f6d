"""The command line client against a server that does as it is told: broken connections, refusals, logs in pieces."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from jobs.cli import following, reading
from jobs.cli.api import Api
from jobs.cli.main import main
from jobs.cli.servers import Server
from tests.e2e.product import free_port

JOB: dict[str, Any] = {
    "id": 42,
    "name": "x",
    "state": "queued",
    "queue_position": 3,
    "wait_reason": None,
    "host": None,
    "devices": [],
    "progress": None,
    "attempts": [],
}
ATTEMPT: dict[str, Any] = {"number": 1, "outcome": None, "exit_code": None, "signal": None, "oom_detected": False}
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Told

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.asked.append((self.command, self.path, body, dict(self.headers)))
        answers = self.server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    do_GET = do_POST = handle_any

    def say(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


class Told(ThreadingHTTPServer):
    """Answers with what stands in `answers`, one after the other, the last one for ever; `asked` is what came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = []
        self.asked: list[tuple[str, str, Any, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """Clients that hang up are part of these tests."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    told = Told()
    thread = threading.Thread(target=told.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("AUTOTRAINER_URL", told.url)
    monkeypatch.setenv("AUTOTRAINER_TOKEN", "at_x")
    yield told
    told.shutdown()
    thread.join()
    told.server_close()


@pytest.fixture
def api(server: Told) -> Iterator[Api]:
    with Api(Server(server.url, "at_x", mend="")) as api:
        yield api


def parsed(status: int, body: Any) -> Answer:
    return lambda handler: handler.say(status, json.dumps(body).encode(), Content_Type="application/json")


def refused(status: int, detail: str, attr: str | None = None) -> Answer:
    return parsed(status, {"type": "client_error", "errors": [{"code": "x", "detail": detail, "attr": attr}]})


def breaks(handler: Handler) -> None:
    """The request was read, and the connection closes without an answer."""
    handler.close_connection = True
    handler.connection.close()


def log(whole: bytes, *, most: int = 1 << 20) -> Answer:
    """A log that is asked for in pieces of at most `most` bytes."""

    def answer(handler: Handler) -> None:
        query = dict(pair.split("=") for pair in handler.path.partition("?")[2].split("&"))
        offset, limit = int(query.get("offset", 0)), int(query.get("limit", most))
        handler.say(200, whole[offset : offset + min(limit, most)], X_Log_Size=str(len(whole)))

    return answer


def stream(*events: tuple[str, int, Any], end: bool = True) -> Answer:
    """Server-sent events; without `end` the connection breaks after them."""

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for kind, offset, data in events:
            text = f"id: {offset}\nevent: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n: still here\n\n".encode()
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
        if end:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True

    return answer


# --- calls --------------------------------------------------------------------------------------------------------------


def test_submit_over_a_broken_connection_is_sent_again_and_counts_once(server: Told, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers = [breaks, breaks, parsed(201, JOB)]
    assert main(["submit", "--", "true"]) == 0
    assert capsys.readouterr().out == "Submitted job 42 (position 3)\n"
    keys = {headers["Idempotency-Key"] for _, _, _, headers in server.asked}
    bodies = [body for _, _, body, _ in server.asked]
    assert len(keys) == 1
    assert len(bodies) == 3
    assert bodies[0] == bodies[1] == bodies[2]


@pytest.mark.parametrize(
    ("fields", "place"), [({"queue_position": None}, "position 1"), ({"state": "held", "queue_position": None}, "held")]
)
def test_submit_says_where_the_job_stands(server: Told, fields: dict[str, Any], place: str, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers = [parsed(201, JOB | fields)]
    assert main(["submit", "--", "true"]) == 0
    assert capsys.readouterr().out == f"Submitted job 42 ({place})\n"


def test_two_submits_have_different_keys(server: Told) -> None:
    server.answers = [parsed(201, JOB)]
    assert [main(["submit", "--", "true"]) for _ in range(2)] == [0, 0]
    assert len({headers["Idempotency-Key"] for _, _, _, headers in server.asked}) == 2


def test_action_over_a_broken_connection_is_not_sent_twice(server: Told, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers = [breaks]
    assert main(["cancel", "42"]) == 1
    assert "look whether it was done" in capsys.readouterr().err
    assert len(server.asked) == 1


@pytest.mark.parametrize("answer", [breaks, lambda handler: handler.say(502, b"<html>"), lambda handler: handler.say(503, b"")])
def test_reads_are_tried_again_while_a_server_is_started_again(server: Told, answer: Answer) -> None:
    server.answers = [answer, answer, parsed(200, JOB)]
    assert main(["show", "42", "--json"]) == 0


def test_nobody_there_is_told_at_once_with_the_mend(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("AUTOTRAINER_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AUTOTRAINER_TOKEN", "at_x")
    assert main(["list"]) == 1
    said = capsys.readouterr().err
    assert "Nothing answers at http://127.0.0.1:" in said
    assert "python3 AutoTrainer.py" in said


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (refused(400, "No known host has 9 GPUs.", "min_gpus"), 1, "min_gpus (-g): No known host has 9 GPUs."),
        (refused(400, "Too many.", "non_field_errors"), 1, "Too many."),
        (refused(401, "Invalid token."), 4, "Set AUTOTRAINER_TOKEN to one that is valid."),
        (refused(403, "Your role lets you see the queue."), 4, "Your role lets you see the queue."),
        (refused(409, "Job 42 is completed."), 1, "Job 42 is completed."),
        (refused(429, "Request was throttled."), 1, "Request was throttled."),
        (refused(500, "Something went wrong here."), 1, "Something went wrong here."),
        (lambda handler: handler.say(500, b"<html>"), 1, "answers 500"),
        (lambda handler: handler.say(200, b"<html>"), 1, "not as AutoTrainer does"),
        (lambda handler: handler.say(301, b"", Location="https://train.example.org/"), 1, "https://train.example.org/"),
    ],
)
def test_refusals_are_told_in_the_servers_words_with_the_exit_code_of_their_kind(
    server: Told, answer: Answer, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [answer]
    assert main(["submit", "-g", "9", "--", "true"]) == code
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""


def test_job_that_is_not_there_is_named(server: Told, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers = [refused(404, "Not found.")]
    for argv in (["show", "987"], ["logs", "987"], ["logs", "-f", "987"], ["wait", "987"], ["cancel", "987"], ["retry", "987"]):
        assert main(argv) == 3
        assert capsys.readouterr().err == "There is no job 987.\n", argv


def test_actions_go_on_after_one_that_was_refused_and_exit_with_its_code(server: Told, capsys: pytest.CaptureFixture[str]) -> None:
    cancelled = JOB | {"state": "cancelled"}
    server.answers = [parsed(200, cancelled), refused(409, "Job 2 is completed."), refused(404, "Not found."), parsed(200, cancelled)]
    assert main(["cancel", "1,2", "3", "4"]) == 1
    said = capsys.readouterr()
    assert said.out == "Job 1 is cancelled.\nJob 4 is cancelled.\n"
    assert said.err == "Job 2 is completed.\nThere is no job 3.\n"


def test_list_without_a_limit_reads_all_pages(server: Told, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [JOB | {"id": number} for number in (1, 2, 3)]
    server.answers = [
        parsed(200, {"count": 3, "next": "…", "previous": None, "results": jobs[:2]}),
        parsed(200, {"count": 3, "next": None, "previous": "…", "results": jobs[2:]}),
    ]
    assert main(["list", "-n", "0", "--json"]) == 0
    assert [job["id"] for job in json.loads(capsys.readouterr().out)] == [1, 2, 3]
    assert "offset=2" in server.asked[1][1]


def test_list_says_when_it_does_not_show_all(server: Told, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers = [parsed(200, {"count": 300, "next": "…", "previous": None, "results": []})]
    assert main(["list"]) == 0
    assert "0 of 300 jobs" in capsys.readouterr().err


def test_wait_is_0_only_if_all_completed(server: Told, capsys: pytest.CaptureFixture[str]) -> None:
    completed, failed = JOB | {"state": "completed"}, JOB | {"id": 43, "state": "failed", "attempts": [ATTEMPT | {"outcome": "timed_out"}]}
    server.answers = [parsed(200, JOB), parsed(200, failed), parsed(200, completed)]
    assert main(["wait", "42", "43"]) == 1
    assert capsys.readouterr().out == "43\tfailed\ttime limit reached\n42\tcompleted\t-\n"
    server.answers = [parsed(200, completed)]
    assert main(["wait", "42"]) == 0


# --- logs ---------------------------------------------------------------------------------------------------------------


def test_stream_that_breaks_is_taken_up_where_it_broke_and_no_byte_is_lost_or_repeated(server: Told, api: Api) -> None:
    whole = "漢 one\nétwo\nthree\n".encode()
    server.answers = [
        log(b"", most=1),
        stream(("log", 8, "漢 one\n"), end=False),
        breaks,
        stream(("log", 14, "étwo\n")),
        stream(("log", len(whole), "three\n"), ("end", len(whole), {"complete": True})),
    ]
    got: list[bytes] = []
    following.follow_attempt(api, 42, 1, got.append)
    assert b"".join(got) == whole
    assert [path.rpartition("offset=")[2] for _, path, _, _ in server.asked[1:]] == ["0", "8", "8", "14"]


def test_bytes_that_are_no_text_are_fetched_as_they_were_written(server: Told, api: Api) -> None:
    whole = b"a\xff\xfeb\xe2\x82\n"
    server.answers = [
        log(b""),
        stream(("log", 4, "a\ufffd\ufffdb"), ("log", len(whole), "\ufffd\n"), ("end", len(whole), {"complete": True})),
        log(whole),
    ]
    got: list[bytes] = []
    following.follow_attempt(api, 42, 1, got.append)
    assert b"".join(got) == whole


def test_long_log_is_read_in_the_pieces_that_the_server_gives(server: Told, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    whole = bytes(range(256)) * 50
    server.answers = [log(whole, most=1000)]
    assert main(["logs", "42", "--raw"]) == 0
    assert capfdbinary.readouterr().out == whole
    assert len(server.asked) == 13


def test_gap_of_a_log_that_was_over_its_limit_is_told_beside_it(server: Told, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    def cut(handler: Handler) -> None:
        offset = int(handler.path.rpartition("offset=")[2])
        data = {0: b"begin\n", 6: b"end\n"}[offset]
        handler.say(200, data, X_Log_Size="1004", X_Log_Cut="6-1000")

    server.answers = [cut]
    assert main(["logs", "42"]) == 0
    said = capfdbinary.readouterr()
    assert said.out == b"begin\nend\n"
    assert b"6 to 1000" in said.err


@pytest.mark.parametrize("whole", [b"1\n2\n3\n4\n", b"1\n2\n3\n4", b"\n\n\n", b"", b"x" * 500, b"x\n" * 500 + b"last"])
@pytest.mark.parametrize("lines", [0, 1, 2, 400])
def test_last_lines_are_those_that_tail_gives(server: Told, api: Api, monkeypatch: pytest.MonkeyPatch, whole: bytes, lines: int) -> None:
    monkeypatch.setattr(reading, "BACKWARDS_BYTES", 7)
    server.answers = [log(whole)]
    begin = reading._last_lines(api, 42, 1, lines)
    assert whole[begin:] == b"".join(whole.splitlines(keepends=True)[-lines:] if lines else [])


def test_log_on_a_terminal_steers_nothing_and_raw_is_left_alone(
    server: Told, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr("jobs.cli.tables.is_terminal", lambda out=None: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    whole = b"\x1b]0;evil\x07\x1b[31mred\x1b[2J\n"
    server.answers = [log(whole)]
    assert main(["logs", "42"]) == 0
    assert capfdbinary.readouterr().out == b"\x1b[31mred\n\x1b[0m"
    assert main(["logs", "42", "--raw"]) == 0
    assert capfdbinary.readouterr().out == whole


def test_run_follows_every_attempt_and_exits_as_the_last_one_did(server: Told, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    failed = ATTEMPT | {"outcome": "failed", "exit_code": 3}
    first = JOB | {"state": "running", "attempts": [ATTEMPT]}
    again = JOB | {"state": "queued", "attempts": [failed]}
    over = JOB | {"state": "failed", "attempts": [failed, failed | {"number": 2, "exit_code": 7}]}
    server.answers = [
        *(parsed(201, JOB), parsed(200, JOB | {"wait_reason": {"code": "Resources", "message": "needs a GPU"}}), parsed(200, first)),
        *(log(b"one\n"), stream(("end", 4, {"complete": True})), parsed(200, again), parsed(200, over)),
        *(log(b"two\n"), stream(("end", 4, {"complete": True})), parsed(200, over)),
    ]
    assert main(["run", "--", "train"]) == 7
    said = capfdbinary.readouterr()
    assert said.out == b"one\ntwo\n"
    told = said.err.decode().splitlines()
    assert told[:2] == ["Submitted job 42 (position 3)", "Job 42 is queued: needs a GPU"]
    assert told[2:] == ["Attempt 1 ended (exit code 3); the job starts again.", "Job 42 failed: exit code 7"]


def test_template_is_asked_for_by_its_name_and_sent_with_the_options(server: Told, capsys: pytest.CaptureFixture[str]) -> None:
    kept = {"name": "t", "fields": {"command": "python t.py", "min_gpus": 1, "max_gpus": 1, "working_dir": "/data"}}
    server.answers = [parsed(200, {"results": [kept], "next": None, "count": 1}), parsed(201, JOB)]
    assert main(["submit", "--parsable", "--template", "a & b", "-g", "2"]) == 0
    assert server.asked[0][1] == "/api/v1/templates/?name=a+%26+b"
    assert server.asked[1][2] == kept["fields"] | {"min_gpus": 2, "max_gpus": 2}
    assert capsys.readouterr().out == "42\n"


def test_names_of_templates_are_told_when_there_is_none_of_this_one(server: Told, capsys: pytest.CaptureFixture[str]) -> None:
    there = [{"name": "one", "fields": {}}, {"name": "two", "fields": {}}]
    server.answers = [parsed(200, {"results": found, "next": None, "count": len(found)}) for found in ([], there)]
    assert main(["run", "--template", "tow", "--", "true"]) == 3
    assert capsys.readouterr().err == "You have no template 'tow': there is 'one', 'two'.\n"


def test_templates_are_listed_for_programs_and_as_they_came(server: Told, capsys: pytest.CaptureFixture[str]) -> None:
    there = [{"name": "a b", "changed_at": "2026-11-27T05:00:00Z", "fields": {"command": "true"}}]
    there.append({"name": "c", "changed_at": "2026-11-27T05:00:00Z", "fields": {}})
    server.answers = [parsed(200, {"results": there, "next": None, "count": 2})]
    assert main(["templates"]) == 0
    assert capsys.readouterr().out == "a b\t2026-11-27T05:00:00Z\ttrue\nc\t2026-11-27T05:00:00Z\t-\n"
    assert main(["templates", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == there
