"""Mail by SMTP, through Django: EMAIL_URL and AUTOTRAINER_MAIL_FROM."""

from __future__ import annotations

import contextlib
import smtplib
import socket
from email import encoders
from email.mime.base import MIMEBase
from email.utils import parseaddr
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.core.mail.backends.smtp import EmailBackend

from jobs.notifications.deadline import watch, within
from jobs.notifications.letter import Attachment, Letter, NotSent

TIMEOUT_S, CHECK_TIMEOUT_S = 30, 5
"""For each answer."""
CHECK_LONGEST_S = 15.0
NAME = "SMTP"


def configured() -> bool:
    return bool(settings.AUTOTRAINER.email_url)


def address() -> str:
    """The server, without what signs us in."""
    url = urlsplit(settings.AUTOTRAINER.email_url)
    return f"{url.hostname}:{url.port or _DEFAULT_PORTS.get(url.scheme, 25)}"


class _Watched(smtplib.SMTP):
    def _get_socket(self, *args: Any) -> socket.socket:
        return watch(super()._get_socket(*args))  # type: ignore[misc] # typeshed knows it not


class _WatchedTls(smtplib.SMTP_SSL, _Watched):
    """TLS goes around the socket of the other one."""


class _Backend(EmailBackend):
    @property
    def connection_class(self) -> type[smtplib.SMTP]:
        return _WatchedTls if self.use_ssl else _Watched


@within()
def send(letter: Letter, recipient: str, *, message_id: str, thread_id: str) -> None:
    """Raises NotSent."""
    mail = EmailMultiAlternatives(
        subject=letter.subject,
        body=letter.text,
        from_email=sender(),
        to=[recipient],
        headers={"Message-ID": message_id, "References": thread_id, "In-Reply-To": thread_id, "Auto-Submitted": "auto-generated"},
    )
    mail.attach_alternative(letter.html, "text/html")
    for one in letter.attachments:
        mail.attach(_part(one))
    connection, open_ = _connection(), False
    try:
        open_ = bool(connection.open())
        connection.send_messages([mail])
    except smtplib.SMTPRecipientsRefused as exc:
        code, why = next(iter(exc.recipients.values()), (550, b""))
        raise NotSent(f"{address()} refuses {recipient}: {_said(code, why)}", for_good=500 <= code < 600) from exc
    except smtplib.SMTPAuthenticationError as exc:
        raise NotSent(f"{address()} does not take our name and password: {_said(exc.smtp_code, exc.smtp_error)}") from exc
    except smtplib.SMTPResponseException as exc:
        raise NotSent(f"{address()} did not take the mail: {_said(exc.smtp_code, exc.smtp_error)}") from exc
    except (OSError, smtplib.SMTPException) as exc:
        raise NotSent(f"{address()} cannot be reached, or broke off: {exc}", unsure=open_) from exc
    finally:
        with contextlib.suppress(OSError, smtplib.SMTPException):
            connection.close()  # Django leaves it open where the server refuses our name.


@within(CHECK_LONGEST_S)
def check() -> str:
    """Signs in and sends nothing; what is there, as a phrase. Raises NotSent."""
    connection = _connection()
    connection.timeout = CHECK_TIMEOUT_S
    try:
        connection.open()
    except smtplib.SMTPAuthenticationError as exc:
        raise NotSent(f"{address()} does not take our name and password: {_said(exc.smtp_code, exc.smtp_error)}") from exc
    except (OSError, smtplib.SMTPException) as exc:
        raise NotSent(f"{address()} cannot be reached, or broke off: {exc}") from exc
    finally:
        with contextlib.suppress(OSError, smtplib.SMTPException):
            connection.close()
    return f"{address()} lets us in"


def sender() -> str:
    """Who the mails are from."""
    given = settings.AUTOTRAINER.mail_from
    if given and "@" in parseaddr(given)[1]:
        return str(given)
    user = unquote(urlsplit(settings.AUTOTRAINER.email_url).username or "")
    return f"AutoTrainer <{user}>" if "@" in user else f"AutoTrainer <autotrainer@{urlsplit(settings.AUTOTRAINER.url).hostname}>"


_DEFAULT_PORTS = {"smtp": 25, "smtp+tls": 587, "smtps": 465, "smtp+ssl": 465}


def _connection() -> _Backend:
    url = urlsplit(settings.AUTOTRAINER.email_url)
    asked = {name: values[-1].lower() in ("true", "1", "yes", "on") for name, values in parse_qs(url.query).items()}
    ssl = url.scheme in ("smtps", "smtp+ssl") or asked.get("ssl", False)
    tls = not ssl and (url.scheme == "smtp+tls" or asked.get("tls", False) or asked.get("starttls", False))
    return _Backend(
        host=url.hostname or "localhost",
        port=url.port or (587 if tls else _DEFAULT_PORTS.get(url.scheme, 25)) if not ssl else url.port or 465,
        username=unquote(url.username or ""),
        password=unquote(url.password or ""),
        use_tls=tls,
        use_ssl=ssl,
        timeout=TIMEOUT_S,
    )


def _part(one: Attachment) -> MIMEBase:
    part = MIMEBase(*one.content_type.split("/", 1))
    part.set_payload(one.data)
    encoders.encode_base64(part)
    part.add_header("Content-Disposition", "inline" if one.inline_id else "attachment", filename=one.name)
    if one.inline_id:
        part.add_header("Content-ID", f"<{one.inline_id}>")
    return part


def _said(code: int, why: bytes | str) -> str:
    text = why.decode(errors="replace") if isinstance(why, bytes) else why
    return f"{code} {' '.join(text.split())[:300]}"
