"""Chats: whose addresses are taken, what reaches the service, and that nobody gets at the lab's own network through them."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from gpuworker.protocol import Ended, EndReason
from jobs import artifacts, lifecycle
from jobs.models import AuditEntry, ChatAddress, Job, Notification, Preference, User
from jobs.notifications import chat, compose, connecting, deadline
from jobs.notifications.chat import addresses
from jobs.notifications.letter import Letter, NotSent
from jobs.notifications.sending import Postman
from jobs.states import Role
from tests.integration.rest import Rest, make_job, person

SECRET = "s3cr3t-topic"
LETTER = Letter("subject", "text", "<p>text</p>", "text", chat="what happened")


class Service(ThreadingHTTPServer):
    """An HTTP service that answers with `status`; `asked` is what came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.headers_out = 200, {}
        self.asked: list[tuple[str, str]] = []

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.path, body.decode()))
        self.send_response(self.server.status)
        for name, value in {"Content-Type": "application/json", **self.server.headers_out}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"{}")

    do_PUT = do_POST

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    server = Service()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def allowed(service: Service, settings: Any) -> Service:
    settings.AUTOTRAINER = replace(settings.AUTOTRAINER, chat_hosts=frozenset({service.place}))
    return service


def ntfy(service: Service) -> str:
    return f"ntfy://{service.place}/{SECRET}"


def ends(job: Job, exit_code: int = 1) -> None:
    """As a host would report it."""
    attempt = job.attempts.create(number=1, fence=job.pk, host="gpu-a", created_at=timezone.now(), offer_expires_at=timezone.now())
    Job.objects.filter(pk=job.pk).update(state="running")
    now = timezone.now().timestamp()
    told = {"reason": EndReason.EXITED, "exit_code": exit_code, "started_at": now - 1, "ended_at": now}
    assert lifecycle.ended(Ended(job=str(job.uid), attempt=1, fence=attempt.fence, **told), host="gpu-a")


def post() -> None:
    while Postman().turn():
        pass


# --- what reaches the service -------------------------------------------------------------------------------------------


def test_end_of_a_job_is_told_in_its_owners_chat_also_where_no_mail_is_set_up(ann: User, allowed: Service) -> None:
    addresses.add(ann, name="room", url=ntfy(allowed))
    job = make_job(ann, name="resnet", notify=["boss@example.org"])
    ends(job)
    post()
    row = Notification.objects.get()
    assert (row.state, row.channel, row.error) == ("sent", "chat", "")
    ((_path, body),) = allowed.asked
    told = json.loads(body)
    assert told["title"] == f"[AutoTrainer] FAILED #{job.pk} resnet"
    assert "exit code 1" in told["message"]
    assert f"/jobs/{job.pk}/" in told["message"]
    assert row.recipient.startswith("room (ntfy")


def test_message_packs_no_log_and_fetches_no_files(ann: User, allowed: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a chat takes no attachments")

    monkeypatch.setattr(compose, "packed", never)
    monkeypatch.setattr(artifacts, "collect", never)
    addresses.add(ann, name="room", url=ntfy(allowed))
    ends(make_job(ann, artifacts=["*.png"]))
    post()
    assert (Notification.objects.get().state, len(allowed.asked)) == ("sent", 1)


def test_what_somebody_mutes_or_sleeps_through_holds_for_chats_too(ann: User, allowed: Service) -> None:
    addresses.add(ann, name="room", url=ntfy(allowed))
    Preference.objects.create(user=ann, muted=["completed"], language="zh-hans")
    ends(make_job(ann), exit_code=0)
    assert not Notification.objects.exists()
    ends(make_job(ann))
    post()
    assert "退出码 1" in json.loads(allowed.asked[0][1])["message"]
    now = timezone.localtime()
    Preference.objects.update(quiet_from=now.replace(minute=0).time(), quiet_until=now.replace(hour=(now.hour + 2) % 24).time())
    ends(make_job(ann))
    post()
    assert len(allowed.asked) == 1
    assert Notification.objects.get(state="pending").next_at > timezone.now()


def test_who_wants_no_mail_gets_none(ann: User, allowed: Service, settings: Any) -> None:
    settings.AUTOTRAINER = replace(settings.AUTOTRAINER, email_url="smtp://127.0.0.1:1/")
    User.objects.filter(pk=ann.pk).update(email="ann@example.org")
    addresses.add(ann, name="room", url=ntfy(allowed))
    ends(make_job(ann))
    assert sorted(Notification.objects.values_list("channel", flat=True)) == ["chat", "smtp"]
    Preference.objects.create(user=ann, by_mail=False)
    ends(make_job(ann))
    assert Notification.objects.filter(channel="smtp").count() == 1


def test_deleted_chat_gets_nothing_more_and_its_letters_say_so(ann: User, allowed: Service) -> None:
    room = addresses.add(ann, name="room", url=ntfy(allowed))
    ends(make_job(ann))
    assert addresses.delete(ann, room.pk)
    post()
    row = Notification.objects.get()
    assert (row.state, row.error) == ("dead", "Its owner has deleted this chat.")
    assert allowed.asked == []


@pytest.mark.parametrize(
    ("status", "state", "error"),
    [
        (500, "pending", "ntfy answered 500."),
        (429, "pending", "ntfy answered 429."),
        (403, "dead", "ntfy answered 403. Is the address right, and may it still write there?"),
        (404, "dead", "ntfy answered 404. Is the address right, and may it still write there?"),
    ],
)
def test_refusal_says_what_was_answered_and_is_final_where_it_will_not_change(
    ann: User, allowed: Service, status: int, state: str, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    addresses.add(ann, name="room", url=ntfy(allowed))
    allowed.status = status
    ends(make_job(ann))
    with caplog.at_level(logging.DEBUG):
        Postman().turn()
    row = Notification.objects.get()
    assert (row.state, row.error) == (state, error)
    assert SECRET not in row.error + str(row)
    assert SECRET not in "".join(record.getMessage() for record in caplog.records if not record.name.startswith(("urllib3", "apprise")))


def test_service_that_drips_or_is_silent_is_left_in_time(ann: User, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        settings.AUTOTRAINER = replace(settings.AUTOTRAINER, chat_hosts=frozenset({place}))
        with pytest.raises(NotSent, match=r"took longer than 0\.5 s in all.*ntfy did not answer"), deadline.within(0.5):
            chat.send.__wrapped__(LETTER, f"ntfy://{place}/{SECRET}", message_id="", thread_id="")  # type: ignore[attr-defined]


# --- words that do something where they are shown -----------------------------------------------------------------------


def test_names_and_logs_call_nobody_and_hide_no_link(ann: User, allowed: Service) -> None:
    addresses.add(ann, name="room", url=ntfy(allowed))
    ends(make_job(ann, name="@everyone <!channel> <@U1> [look](http://x.example) ```"))
    post()
    body = allowed.asked[0][1]
    told = json.loads(body)
    for trick in ("@everyone", "<!", "<@", "](", "```"):
        assert trick not in told["title"] + told["message"], trick


# --- which addresses are taken ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "Write an address"),
        ("x" * 3000, "Write an address"),
        ("ntfy://h/\x00", "Write an address"),
        ("hello", "must begin with one of these"),
        ("mailto://a:b@example.org", "must begin with one of these"),
        ("syslog://", "must begin with one of these"),
        ("dbus://", "must begin with one of these"),
        ("file:///etc/passwd", "must begin with one of these"),
        ("json://example.org/x", "Only administrators"),
        ("slack://", "not how such an address is written"),
        ("workflows://example.org/a/b?template=/etc/passwd", "Leave out template"),
        ("ntfy://example.org/x?retry=9&wait=600", "Leave out retry, wait"),
        ("ntfy://example.org/" + "/".join("abcdef"), "At most 5 rooms"),
    ],
)
def test_address_that_is_no_chat_is_refused_with_the_mend(ann: User, url: str, why: str) -> None:
    with pytest.raises(addresses.ChatRefused, match=why) as caught:
        addresses.add(ann, name="room", url=url)
    assert caught.value.field == "url"
    assert not ChatAddress.objects.exists()


def test_administrators_may_name_any_webhook(allowed: Service, db: None) -> None:
    root = person("root", Role.ADMIN)
    addresses.add(root, name="hook", url=f"json://{allowed.place}/in")
    chat.send(LETTER, ChatAddress.objects.get().url, message_id="", thread_id="")
    assert json.loads(allowed.asked[0][1])["message"] == "what happened"


def test_every_service_that_is_offered_is_one_that_apprise_has() -> None:
    from apprise.manager_plugins import NotificationManager

    known = NotificationManager()
    known.load_modules()
    assert (addresses.SERVICES | addresses.WEBHOOKS) - set(known.schemas()) == set()


def test_names_are_ones_own_and_not_endless(ann: User) -> None:
    for number in range(addresses.MOST):
        addresses.add(ann, name=f"room {number}", url="ntfy://a.example/x")
    for name, why in (("room 0", "delete one first"), ("", "Give it a name"), ("x" * 61, "Give it a name")):
        with pytest.raises(addresses.ChatRefused, match=why):
            addresses.add(ann, name=name, url="ntfy://a.example/x")
    bob = person("bob")
    room = addresses.add(bob, name="room 0", url="ntfy://a.example/x")
    with pytest.raises(addresses.ChatRefused, match="of this name already"):
        addresses.add(bob, name="room 0", url="ntfy://a.example/x")
    assert not addresses.delete(ann, room.pk)


# --- the lab's own network ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "fe80::1",
        "fc00::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
        "ff02::1",
        "fec0::1",
    ],
)
def test_inner_addresses_are_told_from_public_ones(address: str) -> None:
    assert not connecting._is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_public_addresses_are_public(address: str) -> None:
    assert connecting._is_public(address)


def test_name_that_leads_into_the_inner_network_is_not_connected_to(ann: User, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it resolves, and whatever it resolved to a moment before."""
    url = f"ntfy://chat.example.org:{service.server_address[1]}/{SECRET}"
    inner = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", service.server_address[1]))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: inner)
    with pytest.raises(NotSent, match=r"chat\.example\.org is 127\.0\.0\.1, an address of an inner network") as caught:
        chat.send(LETTER, url, message_id="", thread_id="")
    assert caught.value.for_good
    assert "AUTOTRAINER_CHAT_HOSTS=chat.example.org" in str(caught.value)
    assert service.asked == []


def test_service_that_leads_on_into_the_inner_network_is_not_followed(ann: User, allowed: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.2)
        allowed.status, allowed.headers_out = 307, {"Location": f"http://127.0.0.1:{other.getsockname()[1]}/"}
        with pytest.raises(NotSent, match="an address of an inner network"):
            chat.send(LETTER, ntfy(allowed), message_id="", thread_id="")
        with pytest.raises(TimeoutError):
            other.accept()


def test_connections_of_others_are_left_alone(service: Service) -> None:
    import requests

    assert requests.post(f"http://{service.place}/", timeout=5).status_code == 200


# --- the page -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(ann: User) -> Client:
    client = Client()
    client.force_login(ann)
    return client


def test_address_is_added_tried_and_deleted_and_shown_to_nobody(page: Client, allowed: Service, ann: User) -> None:
    url = ntfy(allowed)
    assert page.post("/account/chat/", {"name": "room", "url": url}).status_code == 302
    room = ChatAddress.objects.get()
    shown: Callable[[], str] = lambda: page.get("/account/chat/").content.decode()  # noqa: E731
    assert "room" in shown()
    answer = page.post("/account/chat/", {"test": room.pk}, follow=True).content.decode()
    assert "took the message" in answer
    ends(make_job(ann, name="resnet"))
    seen = [shown(), page.get("/account/notifications/").content.decode(), page.get("/jobs/1/").content.decode()]
    api = Rest(ann)
    job = Job.objects.get()
    seen.append(api("GET", f"jobs/{job.pk}/notifications/").content.decode())
    seen += [f"{entry} {entry.detail}" for entry in AuditEntry.objects.all()]
    assert "room (ntfy" in seen[3]
    assert not [text for text in seen if SECRET in text]
    page.post("/account/chat/", {"delete": room.pk})
    assert not ChatAddress.objects.exists()
    assert "You have no chats." in shown()


def test_refused_address_stays_in_the_form_with_the_reason_beside_it(page: Client) -> None:
    answer = page.post("/account/chat/", {"name": "room", "url": "mailto://a"})
    assert answer.status_code == 400
    text = answer.content.decode()
    assert 'value="mailto://a"' in text
    assert 'id="error_url"' in text


def test_tests_are_not_endless(page: Client, allowed: Service, ann: User, broker: str) -> None:
    room = addresses.add(ann, name="room", url=ntfy(allowed))
    for _ in range(8):
        answer = page.post("/account/chat/", {"test": room.pk}, follow=True).content.decode()
    assert "Too many tests" in answer
    assert len(allowed.asked) == 6
