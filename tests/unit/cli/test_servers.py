"""Which server is used, and that a token goes only to the one it came from."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from jobs.cli import servers
from jobs.cli.errors import NotAllowed, UsageError
from jobs.cli.servers import Logins

LOCAL, PUBLIC, ELSEWHERE = "http://127.0.0.1:8123", "https://train.example.org", "https://other.example.org"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "cli_token").write_text("at_home\n")
    (folder / "cli_address").write_text(f"{LOCAL}\n{PUBLIC}\n")
    return folder


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Nobody has signed in, and the checkout has no home of its own."""
    monkeypatch.setattr(servers, "CHECKOUT", str(tmp_path / "checkout"))
    return {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HOME": str(tmp_path)}


def found(environ: dict[str, str]) -> tuple[str, str]:
    server = servers.find(environ)
    return server.url, server.token


def test_nobody_is_told_how_to_sign_in(environ: dict[str, str]) -> None:
    with pytest.raises(NotAllowed, match="login http://HOST:8000"):
        servers.find(environ)


def test_owner_of_the_home_needs_no_login(environ: dict[str, str], home: Path) -> None:
    assert found(environ | {"AUTOTRAINER_HOME": str(home)}) == (LOCAL, "at_home")


def test_home_is_the_checkouts_own_where_none_is_set(environ: dict[str, str], home: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "AutoTrainer.py").touch()
    home.rename(checkout / "var")
    assert found(environ) == (LOCAL, "at_home")


@pytest.mark.parametrize("url", [LOCAL, "http://localhost:8123", PUBLIC + "/"])
def test_address_that_people_use_means_the_home_too(environ: dict[str, str], home: Path, url: str) -> None:
    assert found(environ | {"AUTOTRAINER_HOME": str(home), "AUTOTRAINER_URL": url}) == (LOCAL, "at_home")


def test_token_of_the_home_goes_to_no_other_server(environ: dict[str, str], home: Path) -> None:
    with pytest.raises(NotAllowed, match=f"login {ELSEWHERE}"):
        servers.find(environ | {"AUTOTRAINER_HOME": str(home), "AUTOTRAINER_URL": ELSEWHERE})


def test_login_is_kept_for_its_owner_only_and_chosen(environ: dict[str, str]) -> None:
    logins = Logins(environ)
    logins.put(PUBLIC, "at_1", "ada")
    logins.put(ELSEWHERE, "at_2", "ada")
    path = Path(logins.path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert found(environ) == (ELSEWHERE, "at_2")
    assert found(environ | {"AUTOTRAINER_URL": PUBLIC}) == (PUBLIC, "at_1")
    Logins(environ).drop(ELSEWHERE)
    assert found(environ) == (PUBLIC, "at_1")
    assert [each.name for each in path.parent.iterdir()] == ["logins.json"]


def test_home_that_is_named_comes_before_a_login(environ: dict[str, str], home: Path) -> None:
    Logins(environ).put(ELSEWHERE, "at_2", "ada")
    assert found(environ | {"AUTOTRAINER_HOME": str(home)}) == (LOCAL, "at_home")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"logins": 3}', '{"logins": {"https://other.example.org": 3}}', "\0"])
def test_broken_file_of_logins_is_as_none(environ: dict[str, str], text: str) -> None:
    path = Path(Logins(environ).path)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(NotAllowed):
        servers.find(environ | {"AUTOTRAINER_URL": ELSEWHERE})
    Logins(environ).put(ELSEWHERE, "at_2", "ada")
    assert json.loads(path.read_text())["chosen"] == ELSEWHERE


def test_token_in_the_environment_goes_to_the_server_that_is_named(environ: dict[str, str], home: Path) -> None:
    assert found(environ | {"AUTOTRAINER_TOKEN": "at_ci", "AUTOTRAINER_URL": ELSEWHERE}) == (ELSEWHERE, "at_ci")
    assert found(environ | {"AUTOTRAINER_TOKEN": "at_ci", "AUTOTRAINER_HOME": str(home)}) == (LOCAL, "at_ci")
    with pytest.raises(UsageError, match="AUTOTRAINER_URL"):
        servers.find(environ | {"AUTOTRAINER_TOKEN": "at_ci"})


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("http://gpu-a:8000/", "http://gpu-a:8000"),
        (" HTTPS://Train.Example.org/x/ ", "https://train.example.org/x"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_addresses_are_kept_in_one_form(text: str, kept: str) -> None:
    assert servers.normal(text) == kept


@pytest.mark.parametrize(
    "text", ["", "gpu-a:8000", "ftp://gpu-a", "http://", "http://gpu-a:port", "http://ada:secret@gpu-a", "http://[::1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not an address"):
        servers.normal(text)
