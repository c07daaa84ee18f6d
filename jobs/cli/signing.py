"""`login`, `logout` and `whoami`."""

from __future__ import annotations

import argparse
import os
import sys

from . import servers, tables
from .connect import connect
from .errors import CliError, NotAllowed, UsageError
from .servers import Logins, Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .main import Run

_LOCAL = ("localhost", "127.0.0.1", "[::1]")


def _login(parser: argparse.ArgumentParser) -> Run:
    parser.description = (
        "Sign in to a server, and use it from now on. Asks for user and password; a script gives them as "
        "AUTOTRAINER_USER and AUTOTRAINER_PASSWORD, or the password as a line on stdin."
    )
    parser.add_argument("url", metavar="URL", help="such as http://gpu-a:8000")
    parser.add_argument("-u", "--user", help="your name there")
    parser.add_argument("--token", action="store_true", help="ask for a token that you have instead of a password")
    return _do_login


def _do_login(options: argparse.Namespace) -> int:
    url = servers.normal(options.url)
    if url.startswith("http://") and not url.removeprefix("http://").startswith(_LOCAL):
        print(f"{url} is not https: whoever is on the way can read what is sent.", file=sys.stderr)
    if options.token:
        user, token = _check(url, _secret("Token", "AUTOTRAINER_TOKEN"))
    else:
        user = options.user or os.environ.get("AUTOTRAINER_USER") or _asked_name()
        password = _secret("Password", "AUTOTRAINER_PASSWORD")
        with connect(Server(url, "", mend="")) as api:
            token = api.sign_in(user, password)
    logins = Logins()
    logins.put(url, token, user)
    print(f"Signed in to {url} as {user}. The token is in {logins.path}.")
    return 0


def _check(url: str, token: str) -> tuple[str, str]:
    """Whose token it is; raises NotAllowed."""
    with connect(Server(url, token, mend="Make a new one there.")) as api:
        return str(api.whoami()["username"]), token


def _asked_name() -> str:
    if not sys.stdin.isatty():
        raise UsageError("Who signs in? Give --user NAME or AUTOTRAINER_USER.")
    print("User: ", end="", file=sys.stderr, flush=True)
    name = sys.stdin.readline().strip()
    if not name:
        raise UsageError("A user name is needed.")
    return name


def _secret(what: str, variable: str) -> str:
    """From the environment, a line of stdin, or the keyboard without an echo."""
    if value := os.environ.get(variable):
        return value
    if sys.stdin.isatty():
        import getpass

        value = getpass.getpass(f"{what}: ", sys.stderr)
    else:
        value = sys.stdin.readline().rstrip("\r\n")
    if not value:
        raise UsageError(f"The {what.lower()} is missing: type it, give it as a line on stdin, or set {variable}.")
    return value


def _logout(parser: argparse.ArgumentParser) -> Run:
    parser.add_argument("url", nargs="?", metavar="URL", help="the server (the one in use)")
    return _do_logout


def _do_logout(options: argparse.Namespace) -> int:
    logins = Logins()
    url = servers.normal(options.url) if options.url else logins.chosen
    login = logins.get(url)
    if login is None:
        raise CliError(f"You are not signed in to {url}." if url else "You are not signed in anywhere.")
    try:
        with connect(login) as api:
            api.post("auth/logout/")
    except NotAllowed:
        pass  # it is useless already
    except CliError as exc:
        print(f"{exc}\nThe token is forgotten here, and valid there until it expires.", file=sys.stderr)
    logins.drop(url)
    print(f"Signed out of {url}.")
    return 0


def _whoami(parser: argparse.ArgumentParser) -> Run:
    parser.add_argument("--json", action="store_true", help="the API's own object")
    return _do_whoami


def _do_whoami(options: argparse.Namespace) -> int:
    with connect() as api:
        found = api.whoami()
        if options.json:
            tables.print_json(found)
        else:
            print(
                f"{found['username']}\t{found['role']}\t{api.server.url}" if not tables.is_terminal() else _sentence(found, api.server.url)
            )
        return 0


def _sentence(found: dict[str, str], url: str) -> str:
    return f"{found['username']} ({found['role']}) at {url}"


PARSERS = {"login": _login, "logout": _logout, "whoami": _whoami}
