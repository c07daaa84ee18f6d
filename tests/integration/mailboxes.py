"""Servers that take mail in tests: SMTP by aiosmtpd, and EMinder's interface as its documentation has it. Both with scripted faults."""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


# --- SMTP ---------------------------------------------------------------------------------------------------------------


@dataclass
class Mailbox:
    """`faults` are used up one by one: an answer such as `451 later`, or `hang`, or `cut` (no answer after the data were taken)."""

    port: int
    mails: list[EmailMessage] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    """Recipient -> the answer to it."""
    signed_in: list[str] = field(default_factory=list)

    def to(self, address: str) -> list[EmailMessage]:
        return [mail for mail in self.mails if mail["To"] == address]

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        fault = self.faults.pop(0) if self.faults else ""
        if fault in ("", "cut"):
            self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))  # type: ignore[arg-type]
        if fault == "cut":
            server.transport.abort()
        if fault == "hang":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), 3)
        return fault if fault[:1].isdigit() else "250 OK"


@contextmanager
def mailbox(*, certificate: Path | None = None) -> Iterator[Mailbox]:
    box = Mailbox(free_port())

    def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        box.signed_in.append(data.login.decode())
        return AuthResult(success=data.password == b"right", handled=False)

    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, certificate.with_name("key.pem"))

    class Server(Controller):
        def factory(self) -> SMTP:
            return SMTP(
                self.handler,
                hostname="sink.example.org",
                authenticator=authenticate,
                auth_required=context is not None,
                tls_context=context,
                require_starttls=context is not None,
                data_size_limit=100 << 20,
            )

    controller = Server(box, hostname="127.0.0.1", port=box.port)
    controller.start()
    try:
        yield box
    finally:
        controller.stop()


def make_certificate(folder: Path) -> Path:
    """Self-signed, for 127.0.0.1; the path of the certificate, its key lies beside it."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "cert.pem"


# --- EMinder ------------------------------------------------------------------------------------------------------------


@dataclass
class Accepted:
    fields: dict[str, str]
    files: dict[str, bytes]

    @property
    def data(self) -> Any:
        return json.loads(self.fields["template_data_str"])


@dataclass
class Eminder:
    url: str = ""
    templates: tuple[str, ...] = ("daily_summary", "quick_message")
    accepted: list[Accepted] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)
    """Used up one by one by send-now: status and body; status 0: it hangs."""
    info: bytes | None = None
    """Said instead of the templates."""


@contextmanager
def eminder() -> Iterator[Eminder]:
    service = Eminder()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = {name: {"display_name": name, "description": "", "fields": []} for name in service.templates}
            self._say(200 if self.path == "/api/templates/info" else 404, service.info or json.dumps(told).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if service.faults:
                status, text = service.faults.pop(0)
                if status == 0:
                    threading.Event().wait(2)
                    return
                self._say(status, text.encode())
                return
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            parts: Any = email.message_from_bytes(head + body, policy=email.policy.HTTP).iter_parts()  # type: ignore[arg-type,attr-defined]
            found = Accepted({}, {})
            for part in parts:
                name, file = part.get_param("name", header="content-disposition"), part.get_filename()
                if file:
                    found.files[file] = part.get_payload(decode=True)
                else:
                    found.fields[name] = part.get_payload(decode=True).decode()
            if found.fields["template_type"] not in service.templates:
                self._say(404, b'{"detail":"Template not found"}')
                return
            service.accepted.append(found)
            self._say(200, b'{"status":"success","message":"queued"}')

        def _say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
