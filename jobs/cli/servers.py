"""Which server a command speaks to, and with which token.

On the machine that runs AutoTrainer, `up` leaves two files in AUTOTRAINER_HOME, for the owner of that folder only: `cli_token`,
and `cli_address` (the address on this machine, then the one that people use). Elsewhere `login` keeps tokens in
`~/.config/autotrainer/logins.json` (0600). A token is only ever sent to the server that it came from.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from urllib.parse import urlsplit

from .errors import CliError, NotAllowed, UsageError

TYPE_CHECKING = False  # the real one costs the import of typing
if TYPE_CHECKING:
    from typing import Any

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Server:
    """An address, the token for it, and where that came from: what to do where it is refused depends on it."""

    __slots__ = ("aliases", "mend", "token", "url", "user")

    def __init__(self, url: str, token: str, *, mend: str, user: str = "", aliases: tuple[str, ...] = ()) -> None:
        self.url, self.token, self.mend, self.user, self.aliases = url, token, mend, user, aliases


def find(environ: Mapping[str, str] = os.environ) -> Server:
    """Raises NotAllowed where nobody has signed in, UsageError for an address that is none."""
    wanted = normal(environ["AUTOTRAINER_URL"]) if environ.get("AUTOTRAINER_URL") else ""
    home, logins = _at_home(environ), Logins(environ)
    if token := environ.get("AUTOTRAINER_TOKEN", "").strip():
        url = wanted or (home.url if home else logins.chosen)
        if not url:
            raise UsageError("AUTOTRAINER_TOKEN is set, but not for which server: set AUTOTRAINER_URL too.")
        return Server(url, token, mend="Set AUTOTRAINER_TOKEN to one that is valid.")
    if wanted:
        found = home if home and wanted in home.aliases else logins.get(wanted)
    else:
        found = (home if environ.get("AUTOTRAINER_HOME") else None) or logins.get(logins.chosen) or home
    if found is None:
        raise NotAllowed(_nobody(wanted, environ))
    return found


def _nobody(wanted: str, environ: Mapping[str, str]) -> str:
    from .main import program

    if wanted:
        return f"You are not signed in to {wanted}: run `{program()} login {wanted}`."
    try:
        os.listdir(home_folder(environ))
    except PermissionError:
        return f"{home_folder(environ)} belongs to somebody else: run `{program()} login http://localhost:8000`, with your own name."
    except (OSError, CliError):
        pass
    return (
        f"You are not signed in. On the machine that runs AutoTrainer: no token lies in {_home_or_why(environ)}; set AUTOTRAINER_HOME to "
        "the folder of the one that runs (here or in `.env`), or start it (`python3 AutoTrainer.py`). "
        f"Elsewhere: run `{program()} login http://HOST:8000`."
    )


def _home_or_why(environ: Mapping[str, str]) -> str:
    try:
        return home_folder(environ)
    except CliError:
        return "AUTOTRAINER_HOME, which is not known here"


# --- on the machine that runs AutoTrainer -------------------------------------------------------------------------------


def home_folder(environ: Mapping[str, str]) -> str:
    """AUTOTRAINER_HOME, as the product itself reads it: from the environment, `.env` in the checkout, or its default."""
    path = environ.get("AUTOTRAINER_HOME", "")
    in_checkout = os.path.isfile(os.path.join(CHECKOUT, "AutoTrainer.py"))
    if not path and in_checkout and os.path.isfile(os.path.join(CHECKOUT, ".env")):
        path = _from_dotenv(environ)
    if not path and not in_checkout:
        return ""
    return os.path.join(CHECKOUT, os.path.expanduser(path or "var"))


def _from_dotenv(environ: Mapping[str, str]) -> str:
    from gpuworker import settings  # only here: its import takes as long as everything else of ours

    try:
        return settings.given(environ).get("AUTOTRAINER_HOME", "")
    except settings.BadSetting as exc:
        raise UsageError(str(exc)) from exc


def _at_home(environ: Mapping[str, str]) -> Server | None:
    folder = home_folder(environ)
    if not folder:
        return None
    try:
        with open(os.path.join(folder, "cli_token")) as file:
            token = file.read().strip()
        with open(os.path.join(folder, "cli_address")) as file:
            addresses = file.read().split()
    except OSError:
        return None
    if not token or not addresses:
        return None
    mend = "Start AutoTrainer again: it makes a new token for this machine."
    by_name = addresses[0].replace("//127.0.0.1:", "//localhost:")
    return Server(addresses[0], token, mend=mend, aliases=(*addresses, by_name))


# --- elsewhere ----------------------------------------------------------------------------------------------------------


class Logins:
    """The tokens that `login` has got, and which server was chosen last."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        folder = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".config")
        self.path = os.path.join(folder, "autotrainer", "logins.json")
        self._found: dict[str, Any] | None = None

    @property
    def chosen(self) -> str:
        return str(self._read().get("chosen", ""))

    def get(self, url: str) -> Server | None:
        from .main import program

        login = self._read().get("logins", {}).get(url)
        if not isinstance(login, dict) or not login.get("token"):
            return None
        mend = f"Sign in again: `{program()} login {url}`."
        return Server(url, str(login["token"]), mend=mend, user=str(login.get("user", "")), aliases=(url,))

    def put(self, url: str, token: str, user: str) -> None:
        """Keep this login and choose its server."""
        logins = {**self._read().get("logins", {}), url: {"token": token, "user": user}}
        self._write({"chosen": url, "logins": logins})

    def drop(self, url: str) -> None:
        logins = {each: login for each, login in self._read().get("logins", {}).items() if each != url}
        chosen = self.chosen if self.chosen in logins else next(iter(logins), "")
        self._write({"chosen": chosen, "logins": logins})

    def _read(self) -> dict[str, Any]:
        if self._found is None:
            try:
                with open(self.path) as file:
                    found = json.load(file)
            except FileNotFoundError:
                found = {}
            except (OSError, ValueError) as exc:
                print(f"{self.path} cannot be read ({exc}): sign in again.", file=sys.stderr)
                found = {}
            self._found = found if isinstance(found, dict) and isinstance(found.get("logins", {}), dict) else {}
        return self._found

    def _write(self, found: dict[str, Any]) -> None:
        """Whole or not at all, and never readable by others, not even for a moment."""
        partial = f"{self.path}.{os.getpid()}.partial"
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump(found, file, indent=2)
                file.write("\n")
            os.replace(partial, self.path)
        except OSError as exc:
            raise CliError(f"{self.path} cannot be written ({exc.strerror}), so the sign-in is not kept.") from exc
        self._found = found


def normal(url: str) -> str:
    """An address as it is kept and compared; raises UsageError."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as exc:
        raise UsageError(f"{url!r} is not an address: {exc}.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise UsageError(f"{url!r} is not an address of a server: write it like http://gpu-a:8000 or https://train.example.org.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
