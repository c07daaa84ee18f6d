"""What a training wrote about itself, read: taken whole, or not at all and with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpuworker.ownmail import MailFault
from jobs.models import Job
from jobs.notifications import ownmail
from jobs.notifications.occasions import Occasion
from jobs.notifications.ownmail import OwnMail

JOB = Job(pk=7, working_dir="/w")


@pytest.fixture(autouse=True)
def logs_home(settings: Any, tmp_path: Path) -> None:
    settings.LOGS_HOME = tmp_path


def read(text: str, fault: str = "") -> OwnMail:
    path = ownmail._path(7, 1)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"text": text, "fault": fault}))
    return ownmail.of(JOB, 1, Occasion.COMPLETED)


def test_all_that_it_may_say() -> None:
    told = {"subject": " 92 % ", "text": "two\nlines", "attachments": ["a.png", "/w/b/c.csv", "./d", "a.png"], "skip": True}
    assert read(json.dumps(told)) == OwnMail("92 %", "two\nlines", ("a.png", "b/c.csv", "d"), skip=True)


def test_nothing_said_changes_nothing() -> None:
    assert read("{}") == OwnMail()


@pytest.mark.parametrize("text", ["", "{", "[]", "1"])
def test_record_that_is_none_changes_nothing(text: str) -> None:
    path = ownmail._path(7, 1)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert ownmail.of(JOB, 1, Occasion.COMPLETED) == OwnMail()


@pytest.mark.parametrize(
    ("mail", "said"),
    [
        ("{", "it is not JSON"),
        ("[" * 60_000, "it is not JSON"),
        ("1" * 5000, "it is not JSON"),
        ("[]", "it is not a JSON object"),
        ({"sbuject": "x"}, "it has a field “sbuject”, which means nothing here"),
        ({"x\n\u202ey": 1}, "it has a field “x\ufffd\ufffdy”, which means nothing here"),
        ({"subject": 1}, "“subject” is not text"),
        ({"subject": "x" * 201}, "“subject” is longer than 200 characters"),
        ({"subject": "x\r\nBcc: y@example.org"}, "“subject” has more than one line"),
        ({"subject": "x\u2028Bcc: y@example.org"}, "“subject” has more than one line"),
        ({"text": ["x"]}, "“text” is not text"),
        ({"text": "x" * 20_001}, "“text” is longer than 20000 characters"),
        ({"skip": "yes"}, "“skip” is not true or false"),
        ({"skip": True, "text": 1}, "“text” is not text"),
        ({"attachments": "a.png"}, "“attachments” is not a list of paths"),
        ({"attachments": [1]}, "“attachments” is not a list of paths"),
        ({"attachments": [f"{n}.png" for n in range(11)]}, "“attachments” names more than 10 files"),
        ({"attachments": ["../x"]}, "the attachment “../x” does not lie beneath the working directory"),
        ({"attachments": ["/etc/passwd"]}, "the attachment “/etc/passwd” does not lie beneath the working directory"),
        ({"attachments": ["/w/../etc/passwd"]}, "the attachment “/w/../etc/passwd” does not lie beneath the working directory"),
        ({"attachments": [""]}, "the attachment “” does not lie beneath the working directory"),
        ({"attachments": ["a\0b"]}, "the attachment “a\ufffdb” does not lie beneath the working directory"),
    ],
    ids=range(22),
)
def test_with_anything_wrong_it_says_what_and_nothing_else(mail: object, said: str) -> None:
    assert read(mail if isinstance(mail, str) else json.dumps(mail)) == OwnMail(fault=said)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (MailFault.NO_FILE, "it is no regular file"),
        (MailFault.TOO_LARGE, "it is larger than 64 KiB"),
        (MailFault.NO_TEXT, "it is not UTF-8"),
        (MailFault.UNREADABLE, "the host could not read it"),
        ("of a later version", "the host could not read it"),
    ],
)
def test_what_the_host_could_not_read_is_said(fault: str, said: str) -> None:
    assert read("", fault) == OwnMail(fault=said)
