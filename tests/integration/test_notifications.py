"""Letters about how jobs went: who is told of what, once, and what becomes of those that could not be sent."""

from __future__ import annotations

import gzip
import io
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import call_command
from django.db import connections, transaction
from django.test import Client
from django.utils import timezone
from PIL import Image

from autotrainer_site import doctor, status
from gpuworker.protocol import EndReason
from jobs import artifacts, dispatch, lifecycle, logs
from jobs.ingest import Ingest
from jobs.models import Job, JobEvent, Notification, User
from jobs.notifications import sending, smtp
from jobs.notifications.compose import fenced, one_line
from jobs.notifications.letter import NotSent
from jobs.notifications.sending import FOLD, GIVE_UP_AFTER, LEASE, Postman, message_id_of, send_again
from jobs.states import Role
from tests.integration.fakehost import FakeHost
from tests.integration.mailboxes import Eminder, Mailbox, eminder, free_port, mailbox, make_certificate
from tests.integration.rest import Rest, person

TRACEBACK = b'Traceback (most recent call last):\n  File "/w/train.py", line 88, in step\n    rate = config["lr"]\nKeyError: \'lr\'\n'
BAR = b"train:  45%|####5     | 450/1000 [00:31<00:40, 13.1it/s]"
End = Callable[..., Job]


@pytest.fixture
def box(settings: Any) -> Iterator[Mailbox]:
    with mailbox() as box:
        settings.AUTOTRAINER = replace(
            settings.AUTOTRAINER, email_url=f"smtp://127.0.0.1:{box.port}/", mail_from="gpu@example.org", url="https://gpus.example.org"
        )
        yield box


@pytest.fixture
def service(settings: Any) -> Iterator[Eminder]:
    with eminder() as service:
        settings.AUTOTRAINER = replace(settings.AUTOTRAINER, eminder_url=service.url)
        yield service


@pytest.fixture
def end(host: FakeHost, submit: End) -> End:
    """Submit a job, let it run and end; its log is what it printed."""
    ingest = Ingest()

    def ended(
        exit_code: int | None = 0, log: bytes = b"Epoch 1 | Loss: 0.3\n", *, report: dict[str, Any] | None = None, **fields: Any
    ) -> Job:
        job = submit(**({"name": "resnet", "notify": ["x@example.org"]} | fields))
        dispatch.run_pass(timezone.now())
        (spec,) = host.offers()
        host.started(spec)
        host.log(spec, log)
        host.ended(spec, exit_code, log_bytes=len(log), **(report or {}))
        while ingest.turn(block_ms=1):
            pass
        job.refresh_from_db()
        return job

    return ended


def post(now: datetime | None = None) -> None:
    postman = Postman()
    while postman.turn(now):
        pass


def rows() -> list[tuple[str, str]]:
    return list(Notification.objects.values_list("recipient", "state"))


def body(mail: EmailMessage, kind: str = "plain") -> str:
    found = mail.get_body((kind,))
    assert found
    return str(found.get_content())


def files(mail: EmailMessage) -> dict[str, bytes]:
    return {str(part.get_filename()): part.get_payload(decode=True) for part in mail.iter_attachments()}  # type: ignore[misc]


# --- who is told --------------------------------------------------------------------------------------------------------


def test_each_address_is_told_once_with_all_that_a_person_wants_to_know(end: End, box: Mailbox, ada: User) -> None:
    log = b"Task\n" + b"\r".join([BAR] * 30) + b"\n\x1b[31mEpoch 1/3\x1b[0m | Loss: 0.3 <b>\n" + TRACEBACK
    job = end(1, log, report={"peak_memory_mib": 5120}, notify=["x@example.org", "y@example.org"], max_retries=0)
    post()
    post()
    assert rows() == [("x@example.org", "sent"), ("y@example.org", "sent")]
    (mail,) = box.to("x@example.org")
    assert mail["Subject"] == f"[AutoTrainer] FAILED #{job.pk} resnet"
    assert mail["From"] == "gpu@example.org"
    assert mail["Message-ID"].strip() == Notification.objects.get(recipient="x@example.org").message_id
    assert mail["Message-ID"] != box.to("y@example.org")[0]["Message-ID"]
    assert mail["References"].strip() == f"<{job.uid}@gpus.example.org>"
    text, html = body(mail), body(mail, "html")
    assert text.startswith("Failed with exit code 1")
    for said in ("Peak GPU memory: 5 GiB", "Ran on: gpu-a, GPU 0", "KeyError: 'lr'", f"https://gpus.example.org/jobs/{job.pk}/"):
        assert said in text
    assert "&lt;b&gt;" in html
    assert "\x1b" not in text + html
    assert text.count("450/1000") == 1
    packed = gzip.decompress(files(mail)[f"job-{job.pk}-attempt-1.log.gz"]).decode()
    assert packed == "Task\nEpoch 1/3 | Loss: 0.3 <b>\n" + TRACEBACK.decode()


def test_owner_is_told_where_the_job_names_nobody_and_nobody_without_an_address(end: End, box: Mailbox, ada: User) -> None:
    end(notify=[])
    assert rows() == []
    User.objects.filter(pk=ada.pk).update(email="ada@example.org")
    end(notify=[])
    end(notify=["x@example.org"])
    assert rows() == [("ada@example.org", "pending"), ("x@example.org", "pending")]


def test_nothing_is_promised_where_no_channel_is_set_up(end: End) -> None:
    end()
    assert rows() == []


def test_who_cancels_his_own_job_is_not_told_and_whose_job_others_cancel_is(end: End, box: Mailbox, submit: End, ada: User) -> None:
    lifecycle.cancel(submit(notify=["x@example.org"]), actor=ada)
    assert rows() == []
    job = submit(notify=["x@example.org"])
    lifecycle.cancel(job, actor=person("olga", Role.OPERATOR))
    post()
    (mail,) = box.mails
    assert mail["Subject"] == f"[AutoTrainer] CANCELLED #{job.pk} train"
    assert body(mail).splitlines()[:2] == ["Cancelled before it started.", "olga cancelled it."]


def test_job_that_was_cancelled_with_the_one_it_waited_for_is_told_why(box: Mailbox, submit: End, ada: User) -> None:
    parent = submit(name="prepare", notify=["y@example.org"])
    child = submit(notify=["x@example.org"], after=(parent,))
    lifecycle.cancel(parent, actor=ada)
    parent.refresh_from_db()
    lifecycle.give_up_dependents(child.pk, parent)
    post()
    (mail,) = box.mails
    assert f"Cancelled: #{parent.pk} prepare, which it waits for, was cancelled." in body(mail)


def test_retries_are_not_told_and_the_last_attempt_is(end: End, box: Mailbox) -> None:
    job = end(1, b"CUDA out of memory.\n", report={"oom_detected": True}, max_retries=2)
    assert rows() == []
    Job.objects.filter(pk=job.pk).update(retries_spent=2)
    assert JobEvent.objects.filter(job=job, type="retry_scheduled").exists()


def test_out_of_memory_and_time_limit_are_in_the_subject(end: End, box: Mailbox) -> None:
    oom = end(1, b"torch.OutOfMemoryError: CUDA out of memory.\n", report={"oom_detected": True}, retry_on_oom=False, max_retries=1)
    late = end(None, report={"reason": EndReason.TIMED_OUT}, notify=["y@example.org"], time_limit_s=60)
    post()
    assert box.to("x@example.org")[0]["Subject"] == f"[AutoTrainer] FAILED #{oom.pk} resnet (OOM, attempt 1/2)"
    assert "CUDA out of memory" in body(box.to("x@example.org")[0])
    assert box.to("y@example.org")[0]["Subject"] == f"[AutoTrainer] TIME LIMIT #{late.pk} resnet"


def test_letter_is_promised_with_the_event_or_not_at_all(end: End, box: Mailbox, submit: End, ada: User) -> None:
    job = submit(notify=["x@example.org"])
    with transaction.atomic():
        lifecycle.cancel(job, actor=person("olga", Role.OPERATOR))
        assert rows() == [("x@example.org", "pending")]
        transaction.set_rollback(True)
    assert rows() == []


def test_pictures_that_it_left_are_in_the_letter(end: End, box: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    Image.new("RGB", (3000, 2000), "teal").save(out, "PNG")
    left = artifacts.Left((artifacts.File("result_1.png", 1, 1.0), artifacts.File("notes.txt", 1, 1.0)))
    monkeypatch.setattr(artifacts, "left_by", lambda *_, **__: left)
    monkeypatch.setattr(artifacts, "collect", lambda *_: left)
    monkeypatch.setattr(artifacts, "content", lambda *_: out.getvalue())
    end(artifacts=["*.png"])
    post()
    (mail,) = box.mails
    assert Image.open(io.BytesIO(files(mail)["result_1-1.png"])).size == (1000, 667)
    assert "cid:picture-1@autotrainer" in body(mail, "html")


@pytest.mark.parametrize("name", ["a\u202eb", "a\r\nBcc: y@example.org", "a\n\n<p>b", "模型_训练 v2", "x" * 200, "<b>bold</b>", "a\u2028b"])
def test_name_stands_in_one_safe_line(end: End, box: Mailbox, name: str) -> None:
    end(name=name)
    post()
    subject = box.mails[0]["Subject"]
    assert one_line(name) in subject
    assert "<b>bold" not in body(box.mails[0], "html")
    assert (box.mails[0]["Bcc"], box.mails[0]["To"]) == (None, "x@example.org")
    assert not any(char in subject for char in "\r\n\u202e\u2028")


def test_job_that_printed_nothing_is_told_too(end: End, box: Mailbox) -> None:
    end(0, b"")
    post()
    assert "The last lines" not in body(box.mails[0])
    assert gzip.decompress(next(iter(files(box.mails[0]).values()))) == b""


def test_letter_waits_for_the_end_of_its_log(end: End, box: Mailbox) -> None:
    job = end(0, b"first\n")
    job.attempts.update(log_bytes=12)
    now = timezone.now()
    Postman().turn(now)
    assert (box.mails, rows()) == ([], [("x@example.org", "pending")])
    logs.append(job.pk, 1, 6, b"second")
    post(now + timedelta(seconds=2))
    assert "second" in body(box.mails[0])


# --- what goes wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["451 later", "554 no", "hang", "away"])
def test_letter_that_could_not_be_sent_is_tried_later_and_later(
    end: End, box: Mailbox, settings: Any, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(smtp, "TIMEOUT_S", 0.5)
    end()
    good = settings.AUTOTRAINER
    if fault == "away":
        settings.AUTOTRAINER = replace(good, email_url="smtp://127.0.0.1:1/")
    else:
        box.faults += [fault] * 2
    now, waits = timezone.now(), []
    for _ in range(2):
        post(now)
        row = Notification.objects.get()
        assert (row.state, bool(row.error)) == ("pending", True)
        waits.append((row.next_at - now).total_seconds())
        now = row.next_at + timedelta(seconds=1)
    assert 3 < waits[0] < 7 < waits[1] < 13
    settings.AUTOTRAINER = good
    post(now)
    assert (rows(), len(box.mails)) == ([("x@example.org", "sent")], 1)
    assert Notification.objects.get().error == ""


def test_sender_that_comes_too_late_leaves_the_row_to_whoever_has_taken_over(
    end: End, box: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    end()
    taken_over = timezone.now() + timedelta(hours=1)

    def late(*args: Any, **kwargs: Any) -> None:
        Notification.objects.update(lease_until=taken_over)
        raise NotSent("too late")

    monkeypatch.setattr(smtp, "send", late)
    post()
    row = Notification.objects.get()
    assert (row.state, row.lease_until, row.error) == ("sending", taken_over, "")


def test_address_that_is_refused_for_good_is_dead_at_once_and_can_be_tried_again(end: End, box: Mailbox) -> None:
    box.refused["x@example.org"] = "550 no such user"
    job = end(notify=["x@example.org", "y@example.org"])
    post()
    assert rows() == [("x@example.org", "dead"), ("y@example.org", "sent")]
    told = Rest(job.owner)("GET", f"jobs/{job.pk}/notifications/").json()["results"]
    assert [(one["recipient"], one["state"], one["channel"], one["occasion"]) for one in told] == [
        ("x@example.org", "dead", "smtp", "completed"),
        ("y@example.org", "sent", "smtp", "completed"),
    ]
    assert "550 no such user" in told[0]["error"]
    box.refused.clear()
    dead, sent = Notification.objects.order_by("id")
    assert (send_again(dead, actor=job.owner), send_again(sent, actor=job.owner)) == (True, False)
    post()
    assert rows() == [("x@example.org", "sent"), ("y@example.org", "sent")]


def test_letter_is_dead_after_a_week(end: End, box: Mailbox, settings: Any) -> None:
    end()
    settings.AUTOTRAINER = replace(settings.AUTOTRAINER, email_url="smtp://127.0.0.1:1/")
    post(timezone.now() + GIVE_UP_AFTER - timedelta(minutes=1))
    assert rows() == [("x@example.org", "pending")]
    post(timezone.now() + 2 * GIVE_UP_AFTER)
    assert rows() == [("x@example.org", "dead")]


def test_letter_that_cannot_be_made_keeps_no_other(end: End, box: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    end(name="broken")
    end(name="whole")
    compose = sending.compose.compose

    def broken(occasion: Any, event: JobEvent, attempt: Any, **how: Any) -> Any:
        if event.job.name == "broken":
            raise ZeroDivisionError
        return compose(occasion, event, attempt, **how)

    monkeypatch.setattr(sending.compose, "compose", broken)
    post()
    assert [row.state for row in Notification.objects.order_by("id")] == ["pending", "sent"]
    assert "ZeroDivisionError" in Notification.objects.earliest("id").error


def test_whoever_dies_while_sending_is_replaced_when_his_lease_is_over(end: End, box: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    end()
    post_and_die(monkeypatch)
    assert rows() == [("x@example.org", "sending")]
    post()
    assert len(box.mails) == 1
    post(timezone.now() + LEASE + timedelta(seconds=1))
    first, second = box.mails  # the server had said yes, and nobody knew
    assert first["Message-ID"].strip() == second["Message-ID"].strip() == message_id_of(Notification.objects.get())
    assert rows() == [("x@example.org", "sent")]


def test_two_postmen_send_each_letter_once(database: str, end: End, box: Mailbox) -> None:
    for number in range(6):
        end(notify=[f"{number}@example.org"])

    def work() -> None:
        try:
            post()
        finally:
            connections.close_all()

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    post()
    assert sorted(str(mail["To"]) for mail in box.mails) == [f"{number}@example.org" for number in range(6)]


# --- storms -------------------------------------------------------------------------------------------------------------


def test_first_failure_is_told_at_once_and_the_next_ones_as_one(end: End, box: Mailbox) -> None:
    end(1, TRACEBACK)
    post()
    now = timezone.now()
    for _ in range(3):
        end(1, TRACEBACK)
    end(0)
    post(now + timedelta(minutes=1))
    assert [str(mail["Subject"]).split()[1] for mail in box.mails] == ["FAILED", "COMPLETED"]
    post(now + FOLD + timedelta(minutes=1))
    (digest,) = box.mails[2:]
    assert digest["Subject"] == "[AutoTrainer] 3 of 4 jobs failed: KeyError: 'lr' at train.py:88"
    assert body(digest).count("KeyError: 'lr' at train.py:88") == 4
    assert {state for _, state in rows()} == {"sent"}


class Killed(BaseException):
    """As SIGKILL: nothing is tidied up."""


def post_and_die(patch: pytest.MonkeyPatch, now: datetime | None = None) -> None:
    """The server says yes, and nobody is left to note it down."""
    send = smtp.send

    def killed(*args: Any, **how: Any) -> None:
        send(*args, **how)
        raise Killed

    with patch.context() as dying:
        dying.setattr(smtp, "send", killed)
        with pytest.raises(Killed):
            post(now)


@pytest.mark.parametrize("already", [0, 2])
def test_letter_that_may_have_come_is_about_the_same_failures_when_it_comes_again(
    end: End, box: Mailbox, monkeypatch: pytest.MonkeyPatch, already: int
) -> None:
    """Else a mail program, which shows each Message-ID once, would hide those that came later, or show others twice."""
    for _ in range(already + 1):
        end(1, TRACEBACK)
    post_and_die(monkeypatch)
    for _ in range(2):
        end(1, TRACEBACK)
    now = timezone.now() + LEASE + timedelta(seconds=1)
    box.faults += ["451 later", "cut"]
    for minutes in range(0, 60, 5):
        post(now + timedelta(minutes=minutes))
    told = {(str(mail["Message-ID"]).strip(), frozenset(re.findall(r"/jobs/(\d+)/", body(mail)))) for mail in box.mails}
    assert len(told) == 2, "one Message-ID, one set of jobs"
    assert sorted(len(jobs) for _, jobs in told) == sorted([already + 1, 2])
    assert {state for _, state in rows()} == {"sent"}


def test_letter_whose_second_sender_dies_too_is_not_torn_apart(end: End, box: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    end(1, TRACEBACK)
    post()
    for _ in range(3):
        end(1, TRACEBACK)
    now = timezone.now() + FOLD + timedelta(minutes=1)
    post_and_die(monkeypatch, now)
    now += LEASE + timedelta(seconds=1)
    with monkeypatch.context() as dying:
        dying.setattr(Postman, "_send", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            post(now)
    for minutes in (1, 20):
        post(now + timedelta(minutes=minutes))
    told = [(str(mail["Message-ID"]).strip(), body(mail)) for mail in box.mails[1:]]
    assert len(told) == 2
    assert told[0] == told[1]
    assert {state for _, state in rows()} == {"sent"}


def test_failures_that_say_nothing_of_themselves_are_told_by_their_number(end: End, box: Mailbox) -> None:
    """And where as many have a traceback as have none, by that."""
    end(1, TRACEBACK)
    post()
    for log, count in ((TRACEBACK, 1), (b"oops", 2)):
        for _ in range(count):
            end(1, log)
    now = timezone.now() + FOLD + timedelta(minutes=1)
    post(now)
    for log in (b"oops", TRACEBACK):
        end(1, log)
    post(now + FOLD + timedelta(minutes=1))
    subjects = [str(mail["Subject"]) for mail in box.mails[1:]]
    assert subjects == ["[AutoTrainer] 3 of 3 jobs failed", "[AutoTrainer] 2 of 2 jobs failed: KeyError: 'lr' at train.py:88"]
    assert ['class="bad"' in body(mail, "html") for mail in box.mails[1:]] == [False, True]


def test_storm_that_could_not_be_told_waits_as_a_whole(end: End, box: Mailbox) -> None:
    end(1, TRACEBACK)
    post()
    for _ in range(2):
        end(1, TRACEBACK)
    box.faults.append("451 later")
    later = timezone.now() + FOLD + timedelta(minutes=1)
    Postman().turn(later)
    assert [row.state for row in Notification.objects.order_by("id")] == ["sent", "pending", "pending"]
    assert len(set(Notification.objects.filter(state="pending").values_list("next_at", flat=True))) == 1
    post(later + timedelta(minutes=1))
    assert len(box.mails) == 2
    assert {state for _, state in rows()} == {"sent"}


# --- SMTP ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("password", "state"), [("right", "sent"), ("wrong", "pending")])
def test_server_that_wants_encryption_and_a_password_gets_them(
    end: End, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str, state: str
) -> None:
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with mailbox(certificate=certificate) as box:
        url = f"smtp://gpu%40example.org:{password}@127.0.0.1:{box.port}/?tls=true"
        settings.AUTOTRAINER = replace(settings.AUTOTRAINER, email_url=url, mail_from="")
        end()
        post()
        row = Notification.objects.get()
        assert (row.state, box.signed_in[0]) == (state, "gpu@example.org")
        assert password not in row.error
        if state == "sent":
            assert box.mails[0]["From"] == "AutoTrainer <gpu@example.org>"


# --- EMinder ------------------------------------------------------------------------------------------------------------


def test_eminder_gets_what_it_takes(end: End, service: Eminder) -> None:
    job = end(1, b"```\n<script>alert(1)</script>\n" + TRACEBACK, notify=["x@example.org", "y@example.org"])
    post()
    first, second = service.accepted
    assert [first.fields["receiver_email"], second.fields["receiver_email"]] == ["x@example.org", "y@example.org"]
    assert first.fields["template_type"] == "quick_message"
    assert first.fields["custom_subject"] == f"[AutoTrainer] FAILED #{job.pk} resnet"
    message = first.data["message"]
    assert "````\n" in message
    assert message.index("````") < message.index("<script>")
    assert f"/jobs/{job.pk}/" in message
    assert list(first.files) == [f"job-{job.pk}-attempt-1.log.gz"]
    assert b"KeyError" in gzip.decompress(next(iter(first.files.values())))


def test_eminder_gets_one_line_for_a_subject_whatever_a_job_is_called(end: End, service: Eminder) -> None:
    """It loses a mail silently whose subject has a line break."""
    job = end(name="a\r\nBcc: y@example.org\u2028b")
    post()
    (mail,) = service.accepted
    assert mail.fields["custom_subject"] == f"[AutoTrainer] COMPLETED #{job.pk} a Bcc: y@example.org b"


def test_eminder_that_forgot_the_template_since_it_was_asked_is_asked_again(
    end: End, service: Eminder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.notifications.eminder.templates", lambda: ["quick_message", "training_report"])
    service.templates = ("quick_message",)
    end()
    post()
    row = Notification.objects.get()
    assert (row.state, "Template not found" in row.error) == ("pending", True)
    monkeypatch.undo()
    Notification.objects.update(next_at=timezone.now())
    post()
    assert [one.fields["template_type"] for one in service.accepted] == ["quick_message"]


def test_eminder_with_a_template_of_its_own_for_trainings_gets_its_fields(end: End, service: Eminder) -> None:
    service.templates = ("quick_message", "training_report")
    end(0)
    post()
    assert service.accepted[0].fields["template_type"] == "training_report"
    assert set(service.accepted[0].data) == {"run_name", "dataset", "status", "raw_log"}


@pytest.mark.parametrize(
    ("fault", "state", "said"),
    [
        ((500, "Internal Server Error"), "pending", "answered 500"),
        ((404, '{"detail":"Template not found"}'), "pending", "Template not found"),
        ((422, '{"detail":[{"loc":["body"]}]}'), "dead", "answered 422"),
        ((400, '{"detail":"bad JSON"}'), "dead", "bad JSON"),
        ((200, "<html>"), "pending", "EMinder does not"),
        ((302, ""), "pending", "answered 302"),
        ((0, ""), "pending", "cannot be reached, or broke off"),
    ],
)
def test_eminder_that_does_not_take_it_is_told_so(
    end: End, service: Eminder, monkeypatch: pytest.MonkeyPatch, fault: tuple[int, str], state: str, said: str
) -> None:
    monkeypatch.setattr("jobs.notifications.eminder.TIMEOUT_S", (1, 1))
    end()
    service.faults.append(fault)
    post()
    row = Notification.objects.get()
    assert row.state == state
    assert said in row.error


@pytest.mark.parametrize(
    ("info", "said"),
    [(b"<html>", "is no EMinder"), (b"[]", "is no EMinder"), (b'{"daily_summary":{}}', "knows neither the template")],
)
def test_service_that_is_no_eminder_is_told_so(end: End, service: Eminder, info: bytes, said: str) -> None:
    service.info = info
    end()
    post()
    assert said in Notification.objects.get().error


def test_fence_is_longer_than_any_in_the_text() -> None:
    assert fenced("a ``` b ````` c") == "``````\na ``` b ````` c\n``````"


# --- who sees it --------------------------------------------------------------------------------------------------------


def test_letters_of_a_job_are_for_its_owner_and_operators(end: End, box: Mailbox) -> None:
    job = end()
    assert Rest(person("somebody"))("GET", f"jobs/{job.pk}/notifications/").status_code == 403
    assert Rest(person("olga", Role.OPERATOR))("GET", f"jobs/{job.pk}/notifications/").json()["count"] == 1


# --- for who runs it ----------------------------------------------------------------------------------------------------


def test_doctor_says_that_the_mail_server_lets_us_in(box: Mailbox) -> None:
    assert list(doctor._mail(django_settings.AUTOTRAINER)) == [(doctor.Level.OK, f"127.0.0.1:{box.port} lets us in")]


def test_doctor_says_which_template_of_eminder_is_used(service: Eminder) -> None:
    ((level, text),) = doctor._mail(django_settings.AUTOTRAINER)
    assert level is doctor.Level.OK
    assert "template that is used" in text


def test_doctor_names_the_setting_where_nothing_answers(settings: Any) -> None:
    settings.AUTOTRAINER = replace(settings.AUTOTRAINER, email_url=f"smtp://ada:secret@127.0.0.1:{free_port()}/")
    ((level, text),) = doctor._mail(settings.AUTOTRAINER)
    assert level is doctor.Level.WRONG
    assert "EMAIL_URL" in text
    assert "secret" not in text


def test_status_counts_mails(box: Mailbox, end: End) -> None:
    end()
    lines: list[str] = []
    status.notifications(lines.append)
    assert lines == ["Mail: 1 pending"]


def test_status_says_that_no_mail_is_set_up(transactional_db: None) -> None:
    lines: list[str] = []
    status.notifications(lines.append)
    assert lines == ["Mail: none is set up (EMAIL_URL or AUTOTRAINER_EMINDER_URL)"]


def test_operator_sends_a_dead_letter_again_and_nobody_else_does(box: Mailbox, end: End) -> None:
    end()
    row = Notification.objects.get()
    Notification.objects.update(state=Notification.DEAD, error="550 no such user")
    path, client = f"/admin/jobs/notification/{row.pk}/", Client()
    client.force_login(User.objects.create_user("bob"))
    client.post(f"{path}again/", {"_form_submitted": "True"})
    assert Notification.objects.get().state == Notification.DEAD
    client.force_login(User.objects.create_user("olga", role=Role.OPERATOR))
    assert "550 no such user" in client.get(f"{path}change/").content.decode()
    client.post(client_path(client, path), {"_form_submitted": "True"})
    assert Notification.objects.get().state == Notification.PENDING


def client_path(client: Client, path: str) -> str:
    """The address of the button, from the page."""
    return next(part for part in client.get(f"{path}change/").content.decode().split('"') if "/again" in part)


# --- a test -------------------------------------------------------------------------------------------------------------


def test_mailtest_sends_a_letter_and_says_who_took_it(box: Mailbox, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("mailtest", "x@example.org")
    assert capsys.readouterr().out == f"127.0.0.1:{box.port} took the mail to x@example.org.\n"
    (mail,) = box.to("x@example.org")
    assert mail["Subject"] == "[AutoTrainer] A test: AutoTrainer can reach you"
    assert "https://gpus.example.org" in body(mail)
    assert "https://gpus.example.org" in body(mail, "html")


def test_mailtest_by_eminder_says_that_it_was_only_accepted(service: Eminder, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("mailtest", "x@example.org")
    assert "accepted the mail to x@example.org. Whether it arrives" in capsys.readouterr().out
    assert service.accepted[0].fields["receiver_email"] == "x@example.org"


@pytest.mark.parametrize("address", ["ada", "", "a@example.org\nBcc: b@example.org", "ada@", "x" * 300 + "@example.org"])
def test_mailtest_to_what_is_no_address_sends_nothing(box: Mailbox, address: str) -> None:
    with pytest.raises(SystemExit, match="is not a mail address"):
        call_command("mailtest", address)
    assert box.mails == []


def test_mailtest_says_what_the_server_answered(box: Mailbox) -> None:
    box.faults.append("550 go away")
    with pytest.raises(SystemExit, match=r"Not sent\. 127.0.0.1:\d+ did not take the mail: 550 go away"):
        call_command("mailtest", "x@example.org")


def test_mailtest_names_the_settings_where_no_mail_is_set_up(settings: Any) -> None:
    settings.AUTOTRAINER = replace(settings.AUTOTRAINER, email_url="", eminder_url="")
    with pytest.raises(SystemExit, match="set EMAIL_URL or AUTOTRAINER_EMINDER_URL"):
        call_command("mailtest", "x@example.org")


def pressed(user: User, address: str) -> list[str]:
    """What the admin says after its button for a test."""
    client = Client()
    client.force_login(user)
    page = client.get("/admin/jobs/notification/").content.decode()
    path = next(part for part in page.split('"') if part.endswith("/try/"))
    answer = client.post(path, {"_form_submitted": "True", "address": address}, follow=True)
    return [str(message) for message in answer.context["messages"]]


def test_operator_sends_a_test_to_an_address_or_to_his_own(transactional_db: None, box: Mailbox) -> None:
    olga = User.objects.create_user("olga", email="olga@example.org", role=Role.OPERATOR)
    assert pressed(olga, "") == [f"127.0.0.1:{box.port} took the mail to olga@example.org."]
    assert pressed(olga, "x@example.org") == [f"127.0.0.1:{box.port} took the mail to x@example.org."]
    assert pressed(olga, "nobody")[0].startswith("Not sent. 'nobody' is not a mail address")
    assert pressed(person("otto", Role.OPERATOR), "") == ["Your account has no mail address: type one."]
    assert [mail["To"] for mail in box.mails] == ["olga@example.org", "x@example.org"]


def test_test_button_is_for_operators(transactional_db: None, box: Mailbox) -> None:
    client = Client()
    client.force_login(person("bob"))
    client.post("/admin/jobs/notification/try/", {"_form_submitted": "True", "address": "x@example.org"})
    assert box.mails == []
