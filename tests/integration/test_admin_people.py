"""How people come in and are let go: invitations, passwords, groups, tokens; and that nobody writes a state by hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.core.cache import cache
from django.core.management import call_command
from django.test import Client
from django.utils import timezone
from knox.models import AuthToken

from jobs import tokens
from jobs.models import Attempt, AuditEntry, Device, Host, Job, JobEvent, PersonalToken, User
from jobs.states import JobState, Role
from tests.integration.mailboxes import mailbox
from tests.integration.rest import Rest, errors, known_host, make_attempt, make_job, person, put_into, token_of

pytestmark = pytest.mark.django_db

DONE = {"_form_submitted": "True"}
NEW_PASSWORD = {"new_password1": "of the engine", "new_password2": "of the engine"}


@pytest.fixture(autouse=True)
def fresh(settings: Any) -> Iterator[None]:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def chief() -> User:
    return person("chief", Role.ADMIN)


@pytest.fixture
def ann() -> User:
    return User.objects.create_user("ann", email="ann@example.org", password="right-0815")


def browser(user: User | None = None) -> Any:
    client: Any = Client()
    if user:
        client.force_login(user)
    return client


def link_in(text: str) -> str:
    return re.findall(r"http://localhost:8000(/account/password/[\w-]+/[\w-]+/)", unescape(text))[0]


def follow(link: str, fields: dict[str, str] | None = None) -> Any:
    """Open the link as a person would, and send the form that it leads to."""
    client = browser()
    form = client.get(link)
    assert form.status_code == 302
    return client.post(form.url, fields or NEW_PASSWORD, follow=True)


# --- invitations and passwords ------------------------------------------------------------------------------------------


def test_who_is_invited_chooses_a_password_and_signs_in(chief: User) -> None:
    answer = browser(chief).post("/admin/jobs/user/add/", {"username": "new", "role": "submitter", "email": ""}, follow=True)
    new = User.objects.get(username="new")
    assert not new.has_usable_password()
    link = link_in(answer.content.decode())
    assert "Sign in with it" in follow(link).content.decode()
    assert Client().login(username="new", password="of the engine")
    assert browser().get(link, follow=True).context.get("form") is None  # once
    rows = AuditEntry.objects.order_by("id").values_list("actor_name", "act", "about")
    assert list(rows) == [("chief", "link_made", "person"), ("chief", "made", "person"), ("new", "password_changed", "person")]
    assert link not in str(AuditEntry.objects.values_list("detail"))


@pytest.mark.parametrize("fields", [{"password1": "of the engine"}, {"password2": "of the engine"}])
def test_a_password_is_written_twice_or_not_at_all(chief: User, fields: dict[str, str]) -> None:
    answer = browser(chief).post("/admin/jobs/user/add/", {"username": "new", "role": "submitter"} | fields)
    assert answer.context["adminform"].form.errors.keys() == {"password1", "password2"} - fields.keys()
    assert not User.objects.filter(username="new").exists()


def test_a_link_for_who_has_forgotten_it_ends_other_sessions(chief: User, ann: User) -> None:
    old = browser(ann)
    answer = browser(chief).post(f"/admin/jobs/user/{ann.pk}/password-link/", DONE, follow=True)
    link = link_in(answer.content.decode())
    assert old.get("/jobs/").status_code == 200
    follow(link)
    assert old.get("/jobs/").status_code == 302
    assert not Client().login(username="ann", password="right-0815")
    assert Client().login(username="ann", password="of the engine")


@pytest.mark.parametrize(
    "link", ["/account/password/MQ/x-y/", "/account/password/x/y/", "/account/password/%00/y/", f"/account/password/{'9' * 500}/y/"]
)
def test_a_link_that_was_made_up_opens_nothing(ann: User, link: str) -> None:
    page = browser().get(link, follow=True)
    assert page.status_code == 200
    assert "was used before, or is too old" in page.content.decode()
    assert browser().post(link, NEW_PASSWORD).status_code == 200
    assert Client().login(username="ann", password="right-0815")


def test_a_link_of_a_closed_account_opens_nothing(chief: User, ann: User) -> None:
    link = link_in(browser(chief).post(f"/admin/jobs/user/{ann.pk}/password-link/", DONE, follow=True).content.decode())
    User.objects.filter(pk=ann.pk).update(is_active=False)
    assert "was used before" in browser().get(link, follow=True).content.decode()


def test_a_weak_password_is_refused_beside_its_field(chief: User, ann: User) -> None:
    link = link_in(browser(chief).post(f"/admin/jobs/user/{ann.pk}/password-link/", DONE, follow=True).content.decode())
    page = follow(link, {"new_password1": "short", "new_password2": "short"}).content.decode()
    assert "too short" in page
    assert 'aria-invalid="true"' in page


def test_administrators_lift_nobody_above_themselves_by_a_link(chief: User) -> None:
    root = User.objects.create_superuser("root", email="root@example.org")
    for path in ("password-link", "mail-password-link", "end-tokens"):
        assert browser(chief).post(f"/admin/jobs/user/{root.pk}/{path}/", DONE).status_code == 403
    olga, ann = person("olga", Role.OPERATOR), person("ann")
    for path in ("password-link", "mail-password-link", "end-tokens"):
        assert browser(olga).post(f"/admin/jobs/user/{ann.pk}/{path}/", DONE).status_code in (302, 403, 404)
    assert not AuditEntry.objects.filter(act="link_made").exists()


def test_a_link_is_mailed_where_there_is_a_way_and_else_it_is_said_why_not(chief: User, ann: User, settings: Any) -> None:
    path = f"/admin/jobs/user/{ann.pk}/mail-password-link/"
    assert "No way to send mail" in browser(chief).post(path, DONE, follow=True).content.decode()
    with mailbox() as box:
        settings.AUTOTRAINER = replace(settings.AUTOTRAINER, email_url=f"smtp://127.0.0.1:{box.port}/", mail_from="gpu@example.org")
        assert "was mailed to ann@example.org" in browser(chief).post(path, DONE, follow=True).content.decode()
        (mail,) = box.to("ann@example.org")
        assert mail["Subject"] == "[AutoTrainer] Choose a password for ann"
        text, html = (mail.get_body((kind,)) for kind in ("plain", "html"))
        assert text
        assert html
        assert link_in(text.get_content()) == link_in(html.get_content())
        follow(link_in(text.get_content()))
        assert Client().login(username="ann", password="of the engine")
        box.refused["ann@example.org"] = "550 no such user"
        assert "550 no such user" in browser(chief).post(path, DONE, follow=True).content.decode()
        User.objects.filter(pk=ann.pk).update(email="")
        assert "has no mail address" in browser(chief).post(path, DONE, follow=True).content.decode()


def test_a_command_invites_too(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("invite", "new", role="operator")
    follow(link_in(capsys.readouterr().out))
    assert Client().login(username="new", password="of the engine")
    assert User.objects.get(username="new").is_staff
    call_command("invite", "new")
    assert link_in(capsys.readouterr().out)
    for arguments, told in (
        (["a b"], "username"),
        (["new", "--role", "viewer"], "already"),
        (["x", "--email", "y"], "email"),
        (["new", "--mail"], "mail"),
    ):
        with pytest.raises(SystemExit, match=told):
            call_command("invite", *arguments)


def test_people_change_their_own_password_with_the_old_one(ann: User) -> None:
    client, other = browser(ann), browser(ann)
    assert "/account/password/" in client.get("/jobs/").content.decode()
    wrong = client.post("/account/password/", NEW_PASSWORD | {"old_password": "wrong"})
    assert wrong.status_code == 200
    assert "aria-invalid" in wrong.content.decode()
    assert client.post("/account/password/", NEW_PASSWORD | {"old_password": "right-0815"}).url == "/"
    assert client.get("/jobs/").status_code == 200
    assert other.get("/jobs/").status_code == 302
    assert Client().login(username="ann", password="of the engine")
    assert AuditEntry.objects.latest("id").act == "password_changed"


def test_the_old_password_cannot_be_guessed_at_an_open_browser(ann: User) -> None:
    client = browser(ann)
    for _ in range(5):
        client.post("/account/password/", NEW_PASSWORD | {"old_password": "wrong"})
    assert "Too many tries" in client.post("/account/password/", NEW_PASSWORD | {"old_password": "right-0815"}).content.decode()
    assert Client().login(username="ann", password="right-0815")


def test_the_password_page_is_for_who_is_signed_in() -> None:
    assert browser().get("/account/password/").url.startswith("/signin/")


# --- groups -------------------------------------------------------------------------------------------------------------


def test_groups_are_made_and_have_members_that_their_own_pages_show(chief: User, ann: User) -> None:
    client = browser(chief)
    assert client.post("/admin/auth/group/add/", {"name": "vision", "members": [ann.pk]}).status_code == 302
    group = Group.objects.get()
    assert list(group.user_set.all()) == [ann]
    assert "ann" in client.get("/admin/auth/group/").content.decode()
    fields = {"username": "ann", "role": "submitter", "is_active": "on", "email": "ann@example.org"}
    client.post(f"/admin/jobs/user/{ann.pk}/change/", fields)
    assert not group.user_set.exists()
    client.post(f"/admin/jobs/user/{ann.pk}/change/", fields | {"groups": [group.pk]})
    assert group.user_set.get() == ann
    client.post(f"/admin/auth/group/{group.pk}/delete/", {"post": "yes"})
    assert [row.act for row in AuditEntry.objects.filter(about="group")] == ["deleted", "made"]


def test_groups_grant_nothing_and_are_for_administrators(chief: User) -> None:
    olga = person("olga", Role.OPERATOR)
    assert browser(olga).get("/admin/auth/group/").status_code == 403
    page = browser(chief).get("/admin/auth/group/add/").content.decode()
    assert 'name="permissions"' not in page


# --- tokens -------------------------------------------------------------------------------------------------------------


def test_administrators_see_tokens_and_take_them_back(chief: User, ann: User) -> None:
    made, secret = tokens.make(ann, name="laptop", scope="all", days=9)
    client, path = browser(chief), "/admin/jobs/personaltoken/"
    page = client.get(path).content.decode() + client.get(f"{path}{made.pk}/change/").content.decode()
    assert "laptop" in page
    assert secret not in page
    assert made.digest not in page
    assert Rest(token=secret)("GET", "jobs/").status_code == 200
    client.post(f"{path}{made.pk}/take-back/", DONE)
    assert Rest(token=secret)("GET", "jobs/").status_code == 401
    assert not PersonalToken.objects.exists()
    assert (AuditEntry.objects.latest("id").actor_name, AuditEntry.objects.latest("id").detail) == ("chief", "Of ann.")


def test_tokens_of_others_are_not_for_operators_nor_superusers_for_administrators(chief: User, ann: User) -> None:
    made, _ = tokens.make(ann, name="laptop", scope="all", days=9)
    roots, _ = tokens.make(User.objects.create_superuser("root"), name="cron", scope="all", days=9)
    path = "/admin/jobs/personaltoken/"
    olga = browser(person("olga", Role.OPERATOR))
    assert olga.get(path).status_code == 403
    assert olga.post(f"{path}{made.pk}/take-back/", DONE).status_code == 403
    browser(chief).post(path, {"action": "take_back_chosen", "_selected_action": [made.pk, roots.pk], "index": 0})
    assert PersonalToken.objects.get() == roots


def test_all_tokens_of_a_person_are_taken_back_at_once(chief: User, ann: User) -> None:
    tokens.make(ann, name="laptop", scope="all", days=9)
    signed_in = token_of(ann)
    page = browser(chief).post(f"/admin/jobs/user/{ann.pk}/end-tokens/", DONE, follow=True).content.decode()
    assert "taken back: 2." in page
    assert Rest(token=signed_in)("GET", "jobs/").status_code == 401
    assert not AuthToken.objects.filter(user=ann).exists()


# --- no state by hand ---------------------------------------------------------------------------------------------------


def test_nobody_writes_a_state_by_hand(ann: User) -> None:
    """Not even a superuser, through any form, list or call, whatever is sent along."""
    root, host = User.objects.create_superuser("root"), known_host("gpu-a", 24)
    job, over = make_job(ann), make_job(ann)
    attempt = make_attempt(over, outcome="failed", exit_code=1, ended_at=timezone.now() - timedelta(hours=1))
    put_into(over, JobState.FAILED)
    device, before = host.devices.get(), _rows()
    client, api = browser(root), Rest(root)
    sent = {
        "state": "completed",
        "exit_code": "0",
        "owner": root.pk,
        "outcome": "completed",
        "drain": "on",
        "next_attempt": "7",
        "name": "x",
    }
    inline = {
        f"attempts-{name}": value
        for name, value in (("TOTAL_FORMS", "1"), ("INITIAL_FORMS", "1"), ("0-id", attempt.pk), ("0-outcome", "completed"))
    }
    for model, pk in (("job", over.pk), ("host", host.pk), ("device", device.pk)):
        client.post(f"/admin/jobs/{model}/{pk}/change/", sent | inline)
        client.post(f"/admin/jobs/{model}/{pk}/delete/", {"post": "yes"})
        client.post(f"/admin/jobs/{model}/", {"action": "delete_selected", "_selected_action": [pk], "post": "yes", "index": 0})
        client.post(
            f"/admin/jobs/{model}/",
            {"form-TOTAL_FORMS": "1", "form-INITIAL_FORMS": "1", "form-0-id": pk, "form-0-state": "completed", "_save": "Save"},
        )
    for field in ("state", "exit_code", "owner", "attempts", "wait_reason", "next_attempt", "hold"):
        assert field in errors(api("PATCH", f"jobs/{job.pk}/", {field: "completed"}))
    assert _rows() == before
    client.post(f"/admin/jobs/job/{job.pk}/change/", sent | {"command": "true", "min_gpus": "1", "max_gpus": "1"})
    job.refresh_from_db()
    assert (job.name, job.state, job.owner, job.next_attempt) == ("x", JobState.QUEUED, ann, 1)
    for model in ("attempt", "jobevent", "dispatch", "leader", "share", "content"):
        assert client.get(f"/admin/jobs/{model}/").status_code == 404


def _rows() -> list[Any]:
    return [list(model.objects.order_by("pk").values()) for model in (Job, Attempt, JobEvent, Host, Device)]
