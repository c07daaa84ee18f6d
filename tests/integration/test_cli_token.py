"""The token that a start leaves for the owner of AUTOTRAINER_HOME, and what a token says about itself."""

from __future__ import annotations

import dataclasses
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.utils import timezone
from knox.models import AuthToken

from autotrainer_site import clitoken
from gpuworker.settings import Settings
from jobs.models import User
from jobs.states import Role
from tests.integration.rest import Rest, person

pytestmark = pytest.mark.django_db


@pytest.fixture
def ours(tmp_path: Path) -> Settings:
    settings: Settings = django_settings.AUTOTRAINER
    return dataclasses.replace(settings, home=tmp_path, bind="0.0.0.0", port=8123, url="https://train.example.org")


@pytest.fixture
def administrator() -> User:
    return person("root", Role.ADMIN)


def left(ours: Settings, administrator: User) -> str:
    clitoken.leave(ours, administrator)
    return (ours.home / "cli_token").read_text().strip()


def test_start_leaves_a_token_that_works_for_the_owner_only(ours: Settings, administrator: User) -> None:
    token = left(ours, administrator)
    assert Rest(token=token)("GET", "auth/me/").json() == {"username": "root", "role": "admin"}
    assert (ours.home / "cli_address").read_text().split() == ["http://127.0.0.1:8123", "https://train.example.org"]
    files = sorted(ours.home.iterdir())
    assert [file.name for file in files] == ["cli_address", "cli_token"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_next_start_keeps_a_token_that_is_good(ours: Settings, administrator: User) -> None:
    assert left(ours, administrator) == left(ours, administrator)
    assert AuthToken.objects.count() == 1


@pytest.mark.parametrize("damage", ["revoked", "expires soon", "unreadable", "of another database", "of another person"])
def test_next_start_replaces_a_token_that_is_not(ours: Settings, administrator: User, damage: str) -> None:
    first = left(ours, administrator)
    if damage == "revoked":
        AuthToken.objects.all().delete()
    elif damage == "expires soon":
        AuthToken.objects.update(expiry=timezone.now() + timedelta(days=20))
    elif damage == "unreadable":
        (ours.home / "cli_token").write_bytes(b"\xff\xfe")
    elif damage == "of another database":
        (ours.home / "cli_token").write_text("at_" + "0" * 64)
    else:
        AuthToken.objects.update(user=person("ex"))
    second = left(ours, administrator)
    assert second != first
    assert Rest(token=second)("GET", "auth/me/").json()["username"] == "root"


@pytest.mark.parametrize(
    ("bind", "address"), [("127.0.0.1", "http://127.0.0.1:8123"), ("::", "http://[::1]:8123"), ("10.0.0.7", "http://10.0.0.7:8123")]
)
def test_address_is_one_where_the_server_listens(ours: Settings, bind: str, address: str) -> None:
    assert clitoken.local_address(dataclasses.replace(ours, bind=bind)) == address
