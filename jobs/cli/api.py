"""The REST interface as the client uses it: one kept connection, refusals as exceptions, broken connections tried again."""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from collections.abc import Generator, Iterator
from urllib.parse import urlencode, urlsplit

from .errors import CliError, NotAllowed, NotFound, Unreachable
from .servers import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ANSWER_S = 30.0
STREAM_S = 45.0
"""A stream says something every 15 s; one that says nothing for so long is dead."""
QUICK_S = 3.0
"""How long a call is tried again after its connection broke."""
PATIENT_S = 900.0
"""The same for whoever waits for a job anyway: an upgrade of the server may take a while."""
IDLE_S = 3.0
"""A connection that lay idle for longer is not used again: the server closes it after 5 s."""
LARGEST_PAGE = 1000
AWAY = (502, 503, 504)
"""What a proxy answers while the server behind it is started again."""

Broken = (OSError, http.client.HTTPException)


class Piece:
    """Bytes of a log: where they begin and end, the size of the whole so far, and the gap before them, where one was met."""

    __slots__ = ("begin", "cut", "data", "size")

    def __init__(self, begin: int, data: bytes, size: int, cut: tuple[int, int] | None) -> None:
        self.begin, self.data, self.size, self.cut = begin, data, size, cut

    @property
    def end(self) -> int:
        return self.begin + len(self.data)


class Patience:
    """Pauses between tries, up to a limit; a success starts it anew."""

    def __init__(self, url: str, limit_s: float) -> None:
        self._url, self._limit_s = url, limit_s
        self.reset()

    def reset(self) -> None:
        self._since, self._pause_s, self._told = 0.0, 0.1, False

    def again(self, why: BaseException) -> None:
        """Sleep before the next try; raises Unreachable where there shall be none."""
        now = time.monotonic()
        patient = self._limit_s > QUICK_S
        broke_off = isinstance(why, http.client.HTTPException | ConnectionResetError | BrokenPipeError)
        never_there = not (self._since or patient or broke_off)
        self._since = self._since or now
        if never_there or now - self._since >= self._limit_s:
            raise unreachable(self._url, why) from why
        if patient and not self._told and now - self._since > QUICK_S:
            self._told = True
            print(f"{self._url} does not answer; trying again.", file=sys.stderr)
        time.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, 2.0)


class Api:
    def __init__(self, server: Server, *, patience_s: float = QUICK_S) -> None:
        self.server, self.patience_s = server, patience_s
        self._parts = urlsplit(server.url)
        self._kept: http.client.HTTPConnection | None = None
        self._used_at = 0.0

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- calls ---

    def get(self, path: str, **query: Any) -> Any:
        return self._parsed(*self._call("GET", _path(path, query), repeat=True))

    def post(self, path: str, body: Any = None, *, repeat: bool = False) -> Any:
        """`repeat` marks the call with a key, so that it can be sent again after a broken connection and still counts once."""
        headers = {"Idempotency-Key": os.urandom(16).hex()} if repeat else {}
        return self._parsed(*self._call("POST", _path(path, {}), {} if body is None else body, headers, repeat=repeat))

    def pages(self, path: str, limit: int = 0, **query: Any) -> tuple[list[dict[str, Any]], int]:
        """At most `limit` objects of a list (0: all), and how many there are."""
        found: list[dict[str, Any]] = []
        while True:
            size = min(limit - len(found), LARGEST_PAGE) if limit else LARGEST_PAGE
            answer = self.get(path, **query, limit=size, offset=len(found) or None)
            found += answer["results"]
            if not answer["next"] or not answer["results"] or len(found) == limit:
                return found, answer["count"]

    def log(self, job_id: int, attempt: int, offset: int, limit: int = 0) -> Piece:
        """`attempt` 0 is the latest; `limit` 0 is as much as one answer holds."""
        path = _path(f"jobs/{job_id}/log/", {"attempt": attempt or None, "offset": offset, "limit": limit or None})
        response, data = self._call("GET", path, repeat=True)
        cut = _range(response.headers.get("X-Log-Cut", ""))
        met = cut if cut and cut[0] <= offset < cut[1] else None
        begin = met[1] if met else offset
        return Piece(begin, data, int(response.headers.get("X-Log-Size") or begin + len(data)), met)

    def stream(self, job_id: int, attempt: int, offset: int) -> Generator[tuple[str, int, Any]]:
        """Events (kind, byte offset after it, data) until the server closes. Raises one of Broken where the connection breaks."""
        connection = self._connection(STREAM_S)
        try:
            path = _path(f"jobs/{job_id}/log/stream/", {"attempt": attempt, "offset": offset})
            connection.request("GET", self._parts.path + path, headers=self._headers({"Accept": "text/event-stream"}))
            response = connection.getresponse()
            if response.status in AWAY:
                raise http.client.HTTPException(f"answer {response.status}")
            if response.status != 200:
                raise self._refusal(response, response.read())
            yield from _events(response)
        finally:
            connection.close()

    def sign_in(self, user: str, password: str) -> str:
        """A fresh token."""
        return str(self.post("auth/login/", {"username": user, "password": password})["token"])

    def whoami(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.get("auth/me/")
        return answer

    # --- the wire ---

    def _call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, *, repeat: bool
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Answer and its body; raises CliError for a refusal. Only what may be repeated is."""
        patience = Patience(self.server.url, self.patience_s)
        while True:
            try:
                response, data = self._once(method, path, body, headers or {})
                if response.status not in AWAY or not repeat:
                    break
                raise http.client.HTTPException(f"answer {response.status}")
            except Broken as exc:
                self.close()
                if not repeat:
                    raise _unknown(self.server.url, exc) from exc
                patience.again(exc)
        if response.status >= 300:
            raise self._refusal(response, data)
        return response, data

    def _once(self, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[http.client.HTTPResponse, bytes]:
        if self._kept is None or time.monotonic() - self._used_at > IDLE_S:
            self.close()
            self._kept = self._connection(ANSWER_S)
        given = {"Content-Type": "application/json"} if body is not None else {}
        text = None if body is None else json.dumps(body).encode()
        self._kept.request(method, self._parts.path + path, text, self._headers(given | headers))
        response = self._kept.getresponse()
        data = response.read()
        self._used_at = time.monotonic()
        return response, data

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        return http.client.HTTPSConnection(host, port, timeout=timeout_s)

    def _headers(self, more: dict[str, str]) -> dict[str, str]:
        token = {"Authorization": f"Bearer {self.server.token}"} if self.server.token else {}
        return {"Accept": "*/*", "User-Agent": "autotrainer"} | token | more

    # --- answers ---

    def _parsed(self, response: http.client.HTTPResponse, data: bytes) -> Any:
        try:
            return json.loads(data) if data else None
        except ValueError:
            raise Unreachable(f"{self.server.url} answers, but not as AutoTrainer does: is the address right?") from None

    def _refusal(self, response: http.client.HTTPResponse, data: bytes) -> CliError:
        status = response.status
        if 300 <= status < 400:
            return Unreachable(f"{self.server.url} sends us on to {response.headers.get('Location')}: use that address.")
        told = _sentences(data)
        if status == 401 and self.server.token:
            return NotAllowed(f"{self.server.url} does not take this token ({told or status}). {self.server.mend}")
        kind = {401: NotAllowed, 403: NotAllowed, 404: NotFound}.get(status, CliError)
        return kind(told or f"{self.server.url} answers {status}{': its log says why' if status >= 500 else ''}.")


def unreachable(url: str, why: BaseException) -> Unreachable:
    text = getattr(why, "strerror", None) or str(why) or type(why).__name__
    if "CERTIFICATE" in text:
        return Unreachable(f"The certificate of {url} is not trusted ({text}). Set SSL_CERT_FILE to a file that has its issuer's.")
    if urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1"):
        return Unreachable(f"Nothing answers at {url} ({text}). Is AutoTrainer running? `python3 AutoTrainer.py` starts it.")
    return Unreachable(f"{url} cannot be reached ({text}): look whether it runs, and whether this machine has a way to it.")


def _unknown(url: str, why: BaseException) -> Unreachable:
    """For a call that is not sent twice."""
    if isinstance(why, http.client.HTTPException | ConnectionResetError | BrokenPipeError | TimeoutError):
        return Unreachable(f"The connection to {url} broke ({why or type(why).__name__}): look whether it was done before you try again.")
    return unreachable(url, why)


def _path(path: str, query: dict[str, Any]) -> str:
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return f"/api/v1/{path}" + (f"?{urlencode(given)}" if given else "")


def _sentences(data: bytes) -> str:
    """The texts of a refusal, each after the name of the field that it is about; empty where it is none of ours."""
    try:
        errors = json.loads(data)["errors"]
        return "\n".join(f"{_field(each.get('attr'))}{_in_flags(each['detail'])}" for each in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


FLAGS = {
    "min_gpus": "-g",
    "max_gpus": "-g",
    "name": "-n",
    "working_dir": "-C",
    "env": "-e",
    "max_retries": "--retries",
    "time_limit_s": "--time",
    "gpu_memory_mib": "--min-mem",
    "hosts": "--host",
    "swaps": "--swap",
    "begin_at": "--begin",
    "retry_delay_s": "--retry-delay",
    "retry_on_oom": "--no-retry-on-oom",
    "artifacts": "--artifact",
    "on_host_loss": "--on-host-loss",
    **{name: f"--{name}" for name in ("priority", "after", "notify", "hold", "shared", "environment")},
}
"""Field of the API -> the option that fills it."""


def _field(attr: object) -> str:
    name = str(attr or "")
    flag = FLAGS.get(name.partition(".")[0])
    return f"{name} ({flag}): " if flag else f"{name}: " if name and name != "non_field_errors" else ""


def _in_flags(sentence: str) -> str:
    """What it calls a field, as the option that fills it."""
    for name in sorted((name for name in FLAGS if "_" in name), key=len, reverse=True):
        sentence = sentence.replace(name, FLAGS[name])
    return sentence


def _range(text: str) -> tuple[int, int] | None:
    begin, dash, end = text.partition("-")
    return (int(begin), int(end)) if dash and begin.isdecimal() and end.isdecimal() else None


def _events(response: http.client.HTTPResponse) -> Iterator[tuple[str, int, Any]]:
    kind, ident, data = "", 0, list[str]()
    while line := response.readline():
        name, _, value = line.decode(errors="replace").rstrip("\r\n").partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "id" and value.isdecimal():
            ident = int(value)
        elif name == "data":
            data.append(value)
        elif not line.strip() and kind:
            yield kind, ident, json.loads("\n".join(data) or "null")
            kind, data = "", []
