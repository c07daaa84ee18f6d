"""The letter that a training writes about itself (AUTOTRAINER_MAIL): what comes of it, and what of one that is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from gpuworker.ownmail import LARGEST_BYTES, MailFault
from gpuworker.protocol import Ended
from jobs import artifacts, dispatch, wholefile
from jobs.ingest import Ingest
from jobs.models import Attempt, Job, Notification, User
from jobs.notifications import ownmail
from jobs.notifications.occasions import Occasion
from jobs.notifications.sending import Postman
from jobs.states import JobState
from tests.integration.fakehost import FakeHost
from tests.integration.host import CLUSTER_KEY, HOST, Host, running_host
from tests.integration.mailboxes import Mailbox, mailbox
from tests.integration.rest import make_attempt, make_job, put_into

End = Callable[..., Job]


@pytest.fixture
def box(settings: Any) -> Iterator[Mailbox]:
    with mailbox() as box:
        settings.AUTOTRAINER = replace(settings.AUTOTRAINER, email_url=f"smtp://127.0.0.1:{box.port}/", mail_from="gpu@example.org")
        yield box


@pytest.fixture
def end(host: FakeHost, submit: End, box: Mailbox) -> End:
    """A job that has ended and written this into AUTOTRAINER_MAIL; its letter, where there is one, has been sent."""
    ingest = Ingest()

    def ended(mail: object, exit_code: int = 0, *, fault: str = "", **fields: Any) -> Job:
        job = submit(**({"name": "resnet", "notify": ["x@example.org"], "working_dir": "/w"} | fields))
        dispatch.run_pass(timezone.now())
        (spec,) = host.offers()
        host.started(spec)
        host.ended(spec, exit_code, mail=mail if isinstance(mail, str) else json.dumps(mail), mail_fault=fault)
        while ingest.turn(block_ms=1):
            pass
        while Postman().turn():
            pass
        job.refresh_from_db()
        return job

    return ended


def body(mail: EmailMessage, kind: str = "plain") -> str:
    found = mail.get_body((kind,))
    assert found
    return str(found.get_content())


# --- what it says -------------------------------------------------------------------------------------------------------


def test_training_says_its_own_subject_and_text(end: End, box: Mailbox) -> None:
    job = end({"subject": "92.4 % 准确率", "text": "Best epoch: 17\n<b>next</b>: lr 0.1"})
    (mail,) = box.mails
    assert mail["Subject"].strip() == f"[AutoTrainer] COMPLETED #{job.pk} 92.4 % 准确率"
    assert "Best epoch: 17\n<b>next</b>: lr 0.1" in body(mail).replace("\r\n", "\n")
    assert "&lt;b&gt;next" in body(mail, "html")
    assert "could not be used" not in body(mail)


def test_training_that_failed_says_so_whatever_it_wrote(end: End, box: Mailbox) -> None:
    job = end({"subject": "all is well"}, 1)
    assert box.mails[0]["Subject"] == f"[AutoTrainer] FAILED #{job.pk} all is well"
    assert body(box.mails[0]).startswith("Failed with exit code 1")


def test_training_that_wants_no_letter_gets_none(end: End, box: Mailbox) -> None:
    job = end({"skip": True})
    assert job.state == JobState.COMPLETED
    assert not Notification.objects.exists()
    end({"skip": False})
    assert len(box.mails) == 1


def test_what_an_attempt_wrote_is_not_said_of_the_next_one(end: End, box: Mailbox) -> None:
    job = end({"skip": True})
    assert ownmail.of(job, 1, Occasion.COMPLETED).skip
    assert not ownmail.of(job, 2, Occasion.COMPLETED).skip
    assert not ownmail.of(job, 1, Occasion.HOST_LOST).skip


def test_full_disk_costs_the_letter_and_not_the_end(end: End, box: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wholefile.os, "replace", full)
    job = end({"subject": "mine"})
    assert job.state == JobState.COMPLETED
    assert box.mails[0]["Subject"].endswith("resnet")


# --- what is wrong ------------------------------------------------------------------------------------------------------


def test_ordinary_letter_goes_out_and_says_what_was_wrong(end: End, box: Mailbox) -> None:
    job = end({"subject": "x\r\nBcc: y@example.org", "text": "mine"})
    (letter,) = box.mails
    assert letter["Subject"] == f"[AutoTrainer] COMPLETED #{job.pk} resnet"
    assert letter["Bcc"] is None
    for kind in ("plain", "html"):
        assert "could not be used: “subject” has more than one line." in body(letter, kind)
        assert "mine" not in body(letter, kind)


def test_what_the_host_could_not_read_is_said(end: End, box: Mailbox) -> None:
    end("", fault=MailFault.NO_FILE)
    assert "could not be used: it is no regular file." in body(box.mails[0])


def test_host_that_sends_more_than_it_may_is_not_believed(end: End, box: Mailbox) -> None:
    end(json.dumps({"text": "x" * LARGEST_BYTES}))
    assert "it is larger than 64 KiB" in body(box.mails[0])


# --- with a real agent --------------------------------------------------------------------------------------------------


@pytest.fixture
def agent(broker: str, settings: Any, tmp_path: Path, box: Mailbox) -> Iterator[Host]:
    settings.CLUSTER_KEY = CLUSTER_KEY
    with running_host(broker, tmp_path) as host:
        yield host


def job_of(owner: User, told: Ended, work: Path) -> tuple[Job, Attempt]:
    """The job that such an attempt belongs to, as the control plane sees it after its end."""
    job = make_job(owner, uid=told.job, working_dir=str(work))
    now = timezone.now()
    began = now - timedelta(hours=1)
    attempt = make_attempt(job, 1, fence=told.fence, host=HOST, outcome="completed", started_at=began, ended_at=now)
    ownmail.keep(attempt, told)
    return put_into(job, JobState.COMPLETED, ended_at=now) or job, attempt


def test_host_reads_the_letter_and_gives_no_file_but_those_beneath(agent: Host, tmp_path: Path, ada: User) -> None:
    work = tmp_path / "work"
    (work / "plots").mkdir(parents=True)
    (work / "plots" / "[1] loss*.txt").write_text("0.3")
    (work / "secret.txt").symlink_to("/etc/passwd")
    (work / "away").symlink_to("/etc")
    os.mkfifo(work / "pipe")
    with (work / "huge.bin").open("wb") as huge:
        huge.truncate(10 * 2**30)
    (work / "growing.bin").write_bytes(os.urandom(3 * 2**20))
    names = [str(work / "plots" / "[1] loss*.txt"), "secret.txt", "away/passwd", "pipe", "huge.bin", "none.txt", "plots", "growing.bin"]
    (work / "letter.json").write_text(json.dumps({"subject": "done", "attachments": names}))
    spec = agent.offer(agent.spec('cat letter.json > "$AUTOTRAINER_MAIL"', working_dir=str(work)))
    told: Ended = agent.report(Ended, spec)
    assert (json.loads(told.mail)["subject"], told.mail_fault) == ("done", "")
    job, attempt = job_of(ada, told, work)
    own = ownmail.of(job, 1, Occasion.COMPLETED)
    found = {one.name: one for one in ownmail.attached(job, attempt, own.attachments)}
    assert {name for name, one in found.items() if not one.error} == {"plots/[1] loss*.txt", "growing.bin"}
    assert found["plots/[1] loss*.txt"].data == b"0.3"
    assert "larger than 8 MiB" in found["huge.bin"].error
    assert "is no regular file" in found["pipe"].error
    (work / "growing.bin").write_bytes(b"the next job's")
    kept = list(ownmail.attached(job, attempt, ("growing.bin",)))
    assert len(kept[0].data) == 3 * 2**20


def test_letter_that_is_a_link_is_not_followed(agent: Host) -> None:
    spec = agent.offer(agent.spec('ln -s /etc/passwd "$AUTOTRAINER_MAIL"'))
    told: Ended = agent.report(Ended, spec)
    assert (told.exit_code, told.mail, told.mail_fault) == (0, "", "no_file")


def test_all_attachments_together_have_a_limit(monkeypatch: pytest.MonkeyPatch, ada: User) -> None:
    monkeypatch.setattr(artifacts, "_fetched", lambda _j, _a, _n, *, patterns, most: bytes(5 * 2**20))
    job = make_job(ada)
    attempt = make_attempt(job)
    list(ownmail.attached(job, attempt, ("a",)))
    list(ownmail.attached(job, attempt, ("b",)))  # both are kept now
    first, second = ownmail.attached(job, attempt, ("a", "b"))
    assert (len(first.data), first.error) == (5 * 2**20, "")
    assert "larger than 3 MiB" in second.error
