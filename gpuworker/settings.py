"""Settings, read from the environment (and `.env` beside the checkout) and from nowhere else. Standard library only.

One table for both halves: a name that is not in it, or a value that cannot be read, is refused at start with the reason.
A secret may also come as `NAME_FILE`, the path of a file that holds it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit, urlunsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gpuworker import disks, failpoints, protocol

CHECKOUT = Path(__file__).resolve().parent.parent
LONGEST_SOCKET_PATH = 100  # bytes; the kernel's limit is 108 with the terminator, and Redis appends nothing

JOB_VARIABLES = (
    "AUTOTRAINER_JOB_ID",
    "AUTOTRAINER_JOB_NAME",
    "AUTOTRAINER_ATTEMPT",
    "AUTOTRAINER_GPU_UUIDS",
    "AUTOTRAINER_MAIL",
    "AUTOTRAINER_MARK",
)
"""What a command gets to see; known names, so that AutoTrainer can be started from inside a job."""
INTERNAL_VARIABLES = ("AUTOTRAINER_SERVICE", "AUTOTRAINER_SIM_DIR", "AUTOTRAINER_SWAP_WAY", failpoints.FLAG, failpoints.VARIABLE)
"""Set by ourselves: the service's name (how orphans are found), the simulated devices' load files; and by tests: how files are
swapped, what goes wrong."""

CLIENT_VARIABLES = ("AUTOTRAINER_TOKEN", "AUTOTRAINER_USER", "AUTOTRAINER_PASSWORD")
"""For the command line client only; known names, so that AutoTrainer can be started from a shell that has them."""


class BadSetting(Exception):
    """A setting that cannot be used: names the setting and the mend."""


@dataclass(frozen=True, slots=True)
class SimulatedDevices:
    count: int
    memory_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, parsed. Durations in seconds, sizes in bytes."""

    home: Path
    bind: str
    port: int
    flower_port: int
    redis_url: str = field(repr=False)
    """`redis://`, `rediss://` or `unix://`; the embedded server's socket where none was given."""
    redis_embedded: bool
    redis_open: bool
    """Whether a Redis that lets everybody in is worked with all the same."""
    database_url: str = field(repr=False)
    host: str
    devices: str | SimulatedDevices
    admin_user: str
    admin_password: str = field(repr=False)
    cluster_key: str = field(repr=False)
    host_key: str = field(repr=False)
    cluster_key_previous: str = field(repr=False)
    host_key_previous: str = field(repr=False)
    eminder_url: str
    email_url: str = field(repr=False)
    mail_from: str
    chat_hosts: frozenset[str]
    """Hosts, or host:port, of inner networks that chats may be on."""
    heartbeat_s: float
    host_lost_s: float
    requeue_after_s: float
    kill_grace_s: float
    url: str
    time_zone: str
    shell: str
    log_limit_bytes: int
    idle_s: float
    """0: nobody is told of trainings that may hang."""
    retention_days: int
    open_lab: bool
    secret_key: str = field(repr=False)

    @property
    def host_home(self) -> Path:
        """What belongs to this host's agent; the control plane writes nothing here but the host's key."""
        return self.home / "hosts" / self.host

    @property
    def keys_home(self) -> Path:
        return self.home / "keys"


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment over `.env`; raises BadSetting for an unknown name or a value that cannot be used."""
    found = given(environ)
    _refuse_unknown(found)
    _refuse_unknown_failpoint(found)
    values = {key: _read(name, found) for key, name in _NAMES.items()}
    if not found.get("AUTOTRAINER_REQUEUE_AFTER_S"):  # a long grace alone must not keep anybody from starting
        values["requeue_after_s"] = max(values["requeue_after_s"], 2 * values["kill_grace_s"])
    if values["requeue_after_s"] <= values["kill_grace_s"]:
        raise BadSetting(
            "AUTOTRAINER_REQUEUE_AFTER_S must be more than AUTOTRAINER_KILL_GRACE_S: a training is asked to end before it is over."
        )
    home = values["home"]
    if not found.get("AUTOTRAINER_URL"):
        values["url"] = f"http://localhost:{values['port']}"
    values["redis_embedded"] = not values["redis_url"]
    values["redis_url"] = values["redis_url"] or f"unix://{embedded_socket(home)}"
    return Settings(**values)


def given(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment over `.env`, as text; raises BadSetting for a line in `.env` that is none."""
    return _with_dotenv(dict(os.environ if environ is None else environ))


def load_or_exit() -> Settings:
    """For modules that are a program's entry (`celery -A …`): a bad setting is one sentence on stderr and exit status 1."""
    try:
        return load()
    except BadSetting as exc:
        sys.exit(str(exc))


def host_key(settings: Settings) -> bytes:
    """This host's key: from AUTOTRAINER_HOST_KEY, else the file that `up` leaves on the control plane's own machine."""
    key = _key(settings.host_key or _left_by_up(settings.host_home / "host_key"))
    if key is None:
        raise BadSetting(
            "AUTOTRAINER_HOST_KEY is missing or is not 64 hexadecimal digits. "
            f"Run `manage.py join {settings.host}` on the control plane and set the three lines that it prints."
        )
    return key


def previous_host_key(settings: Settings) -> bytes | None:
    """The key that this host had before, where one is given: what was sealed with it is still read."""
    text = settings.host_key_previous or _left_by_up(settings.host_home / "host_key_previous")
    key = _key(text)
    if text and key is None:
        raise BadSetting("AUTOTRAINER_HOST_KEY_PREVIOUS is not 64 hexadecimal digits: give the host's last key, or unset it.")
    return key


def _left_by_up(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def _key(text: str) -> bytes | None:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        return None
    return key if len(key) == 32 else None


def embedded_socket(home: Path) -> Path:
    """The embedded Redis server's unix socket: below home, or at a short private place where that path is too long."""
    path = home / "redis" / "redis.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return Path(f"/tmp/autotrainer-{os.getuid()}-{name}/redis.sock")  # noqa: S108 - its folder is made 0700


def celery_url(redis_url: str) -> str:
    """The same Redis as Celery spells it (kombu calls a unix socket `redis+socket://`, and has TLS told beside the address)."""
    if redis_url.startswith("unix://"):
        return "redis+socket://" + quote(redis_url.removeprefix("unix://"), safe="/?=&")
    if redis_url.startswith("rediss://"):
        return urlunsplit(urlsplit(redis_url)._replace(query=""))
    return redis_url


def _tls(redis_url: str) -> dict[str, Any] | None:
    """The options of `rediss://…?ssl_ca_certs=/path` for Celery; redis-py reads them by itself. The server's name is checked."""
    parts = urlsplit(redis_url)
    if parts.scheme != "rediss":
        return None
    return {"ssl_cert_reqs": "required", "ssl_check_hostname": True, **dict(parse_qsl(parts.query))}


def _check_tls(parts: SplitResult) -> None:
    options = dict(parse_qsl(parts.query))
    unknown = sorted(set(options) - set(TLS_FILES))
    if unknown or (options and parts.scheme != "rediss"):
        raise ValueError(f"may say {', '.join(TLS_FILES)} with rediss://, and nothing else after the question mark")
    for name, path in options.items():
        if not os.access(path, os.R_OK):
            raise ValueError(f"names {path} ({name}), which cannot be read")


TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


def without_ours(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment that a training may inherit: none of our settings and secrets, nothing of Celery, Django or Flower."""
    return {k: v for k, v in environ.items() if not _OURS.match(k)}


_OURS = re.compile(r"AUTOTRAINER_|DATABASE_URL|EMAIL_URL|DJANGO_|CELERY_|FLOWER_|SUPERVISOR_|C_FORCE_ROOT$")


# --- the table ----------------------------------------------------------------------------------------------------------


def _text(text: str) -> str:
    return text.strip()


def _path(text: str) -> Path:
    path = Path(text).expanduser()
    return path if path.is_absolute() else CHECKOUT / path


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 65535:
        raise ValueError("is not a port: give a number from 1 to 65535")
    return int(text)


def _port_or_off(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError("is not a port: give a number from 1 to 65535, or 0 for none")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("is not a number of seconds") from None
    if not 0 < value < 1e9:
        raise ValueError("must be a positive number of seconds")
    return value


def _days(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError("is not a number of days: give 1 or more")
    return int(text)


def _seconds_or_off(text: str) -> float:
    return 0.0 if text.strip() == "0" else _seconds(text)


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise ValueError("is neither true nor false")


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", text.strip().lower())
    if not found:
        raise ValueError("is not a size: write it like 5GiB or 500MB")
    return int(float(found[1]) * _UNITS[found[2] or ""])


def _chat_hosts(text: str) -> frozenset[str]:
    found = [each.strip().lower() for each in text.split(",") if each.strip()]
    for each in found:
        if not re.fullmatch(r"[a-z0-9._-]+(:\d{1,5})?|\[?[0-9a-f:.]+\]?", each):
            raise ValueError(f"names {each!r}: give hosts or host:port, such as chat.lab.example,10.0.0.5:8065")
    return frozenset(found)


def _log_limit(text: str) -> int:
    if (value := _bytes(text)) < disks.SMALLEST_LIMIT_BYTES:
        raise ValueError(f"is too little: give {disks.SMALLEST_LIMIT_BYTES // 1024}KiB or more")
    return value


def _devices(text: str) -> str | SimulatedDevices:
    if text in ("auto", "nvml", "none"):
        return text
    found = re.fullmatch(r"sim:(\d{1,3})x(\d+(?:\.\d+)?)(GiB|MiB)", text)
    if not found or not 0 < int(found[1]) <= 256:
        raise ValueError("is none of auto, nvml, none, or sim:COUNTxSIZE such as sim:4x24GiB (1 to 256 devices)")
    memory_mib = int(float(found[2]) * (1024 if found[3] == "GiB" else 1))
    return SimulatedDevices(int(found[1]), memory_mib)


def _host(text: str) -> str:
    name = text or re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:63] or "localhost"
    if not protocol.valid_host_name(name):
        raise ValueError("is not a host name: letters, digits, '_', '.' and '-', at most 63, beginning with a letter or digit")
    return name


def _redis_url(text: str) -> str:
    parts = urlsplit(text)
    if text and parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("is not a Redis address: it begins with redis://, rediss:// or unix://")
    if parts.scheme in ("redis", "rediss"):
        _check_tls(parts)
    return text


def _web_url(text: str) -> str:
    if text and urlsplit(text).scheme not in ("http", "https"):
        raise ValueError("is not an address: it begins with http:// or https://")
    return text.rstrip("/")


def _zone(text: str) -> str:
    name = text or _machine_zone()
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is not a time zone: give a name such as Europe/Berlin or Asia/Shanghai") from None
    return name


def _machine_zone() -> str:
    """The machine's zone by name; UTC where it has none."""
    target = os.path.realpath("/etc/localtime")
    name = target.partition("/zoneinfo/")[2]
    return name or "UTC"


def _shell(text: str) -> str:
    found = shutil.which(text) if text else shutil.which("bash") or shutil.which("sh")
    if not found:
        raise ValueError(f"is no program that can be found ({text or 'bash, sh'})")
    return found


_Parser = Callable[[str], Any]

TABLE: dict[str, tuple[str, str, _Parser]] = {
    "AUTOTRAINER_HOME": ("home", "./var", _path),
    "AUTOTRAINER_BIND": ("bind", "127.0.0.1", _text),
    "AUTOTRAINER_PORT": ("port", "8000", _port),
    "AUTOTRAINER_FLOWER_PORT": ("flower_port", "5555", _port_or_off),
    "AUTOTRAINER_REDIS_URL": ("redis_url", "", _redis_url),
    "AUTOTRAINER_REDIS_OPEN": ("redis_open", "false", _boolean),
    "DATABASE_URL": ("database_url", "", _text),
    "AUTOTRAINER_HOST": ("host", "", _host),
    "AUTOTRAINER_DEVICES": ("devices", "auto", _devices),
    "AUTOTRAINER_ADMIN_USER": ("admin_user", "admin", _text),
    "AUTOTRAINER_ADMIN_PASSWORD": ("admin_password", "", _text),
    "AUTOTRAINER_CLUSTER_KEY": ("cluster_key", "", _text),
    "AUTOTRAINER_HOST_KEY": ("host_key", "", _text),
    "AUTOTRAINER_CLUSTER_KEY_PREVIOUS": ("cluster_key_previous", "", _text),
    "AUTOTRAINER_HOST_KEY_PREVIOUS": ("host_key_previous", "", _text),
    "AUTOTRAINER_SECRET_KEY": ("secret_key", "", _text),
    "AUTOTRAINER_EMINDER_URL": ("eminder_url", "", _web_url),
    "EMAIL_URL": ("email_url", "", _text),
    "AUTOTRAINER_MAIL_FROM": ("mail_from", "", _text),
    "AUTOTRAINER_CHAT_HOSTS": ("chat_hosts", "", _chat_hosts),
    "AUTOTRAINER_HEARTBEAT_S": ("heartbeat_s", "2", _seconds),
    "AUTOTRAINER_HOST_LOST_S": ("host_lost_s", "120", _seconds),
    "AUTOTRAINER_REQUEUE_AFTER_S": ("requeue_after_s", "300", _seconds),
    "AUTOTRAINER_KILL_GRACE_S": ("kill_grace_s", "10", _seconds),
    "AUTOTRAINER_URL": ("url", "http://localhost:8000", _web_url),
    "AUTOTRAINER_TIME_ZONE": ("time_zone", "", _zone),
    "AUTOTRAINER_SHELL": ("shell", "", _shell),
    "AUTOTRAINER_LOG_LIMIT": ("log_limit_bytes", "5GiB", _log_limit),
    "AUTOTRAINER_IDLE_S": ("idle_s", "3600", _seconds_or_off),
    "AUTOTRAINER_RETENTION_DAYS": ("retention_days", "90", _days),
    "AUTOTRAINER_OPEN_LAB": ("open_lab", "false", _boolean),
}
"""Name -> (field of Settings, default as written, parser). README's settings table has a row for each (tests/house)."""

SECRETS = (
    "DATABASE_URL",
    "EMAIL_URL",
    "AUTOTRAINER_REDIS_URL",
    "AUTOTRAINER_ADMIN_PASSWORD",
    "AUTOTRAINER_CLUSTER_KEY",
    "AUTOTRAINER_HOST_KEY",
    "AUTOTRAINER_CLUSTER_KEY_PREVIOUS",
    "AUTOTRAINER_HOST_KEY_PREVIOUS",
    "AUTOTRAINER_SECRET_KEY",
)
"""May also be given as NAME_FILE."""

_NAMES = {field: name for name, (field, _, _) in TABLE.items()}
_KNOWN = {*TABLE, *(f"{name}_FILE" for name in SECRETS), *JOB_VARIABLES, *INTERNAL_VARIABLES, *CLIENT_VARIABLES}


def _read(name: str, given: Mapping[str, str]) -> Any:
    _, default, parse = TABLE[name]
    text = given.get(name, "")
    if name in SECRETS and given.get(f"{name}_FILE"):
        if text:
            raise BadSetting(f"{name} and {name}_FILE are both set: keep one of them.")
        text = _secret_file(f"{name}_FILE", given[f"{name}_FILE"])
    try:
        return parse(text or default)
    except ValueError as exc:
        shown = "its value" if name in SECRETS else repr(text)
        raise BadSetting(f"{name}: {shown} {exc}.") from None


def _secret_file(name: str, path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise BadSetting(f"{name}: {path} cannot be read ({exc}).") from None


def _refuse_unknown(given: Mapping[str, str]) -> None:
    unknown = sorted(name for name in given if name.startswith("AUTOTRAINER_") and name not in _KNOWN)
    if unknown:
        raise BadSetting(f"{unknown[0]} is not a setting of AutoTrainer: mend its name or unset it. The README lists all settings.")


def _refuse_unknown_failpoint(given: Mapping[str, str]) -> None:
    try:
        failpoints.check(given.get(failpoints.FLAG, ""), given.get(failpoints.VARIABLE, ""))
    except failpoints.BadFailpoint as exc:
        raise BadSetting(f"{failpoints.VARIABLE}: {exc}") from None


def _with_dotenv(environ: dict[str, str]) -> dict[str, str]:
    """What `.env` in the checkout adds: `NAME=value` lines, `#` comments, optional quotes. The environment wins."""
    path = CHECKOUT / ".env"
    if not path.is_file():
        return environ
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = line.strip().removeprefix("export ")
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name.strip()):
            raise BadSetting(f".env, line {number}: not of the form NAME=value.")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        environ.setdefault(name.strip(), value)
    return environ


def unacked_keys(host: str) -> dict[str, str]:
    """Where Celery notes what this host's worker is handling: among the host's own keys, so that no other need be touched."""
    names = ("unacked_key", "unacked_index_key", "unacked_mutex_key")
    return {name: f"host:{host}:{name.removesuffix('_key')}" for name in names}


def celery_conf(settings: Settings, role: str, **transport: Any) -> dict[str, Any]:
    """What both Celery apps have in common. The reasons are in docs/how-it-works.md, "Celery on Redis"."""
    return {
        "broker_url": celery_url(settings.redis_url),
        "broker_use_ssl": _tls(settings.redis_url),
        "broker_transport_options": {
            "visibility_timeout": 3600,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 3,
            "socket_timeout": 15,
            "socket_connect_timeout": 5,
            "socket_keepalive": not settings.redis_url.startswith("unix://"),
            "health_check_interval": 10,
            "global_keyprefix": protocol.KEY_PREFIX,
            "client_name": f"autotrainer-{role}",
            **transport,
        },
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_connection_timeout": 5,
        "worker_disable_prefetch": True,
        "worker_prefetch_multiplier": 1,
        "worker_send_task_events": True,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "task_acks_late": False,
        "task_ignore_result": True,
        "task_default_queue": protocol.CONTROL_QUEUE,
        "task_publish_retry_policy": {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 1},
        "accept_content": ["json"],
        "task_serializer": "json",
        "event_serializer": "json",
        "enable_utc": True,
    }
