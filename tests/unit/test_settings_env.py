"""Settings from the environment: defaults, parsing, and what is refused with which words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from gpuworker import settings
from gpuworker.settings import BadSetting, Settings, SimulatedDevices, load


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout without the developer's own `.env`."""
    monkeypatch.setattr(settings, "CHECKOUT", tmp_path)
    return tmp_path


def one(name: str, text: str) -> object:
    """The parsed value of one setting."""
    return getattr(load({name: text}), settings.TABLE[name][0])


def refused(environ: Mapping[str, str]) -> str:
    with pytest.raises(BadSetting) as caught:
        load(environ)
    return str(caught.value)


def test_every_field_has_a_setting_or_is_derived() -> None:
    fields = {field.name for field in dataclasses.fields(Settings)}
    assert fields == {name for name, _, _ in settings.TABLE.values()} | {"redis_embedded"}


def test_time_to_be_gone_leaves_room_for_the_grace() -> None:
    with pytest.raises(BadSetting, match="AUTOTRAINER_REQUEUE_AFTER_S must be more than AUTOTRAINER_KILL_GRACE_S"):
        load({"AUTOTRAINER_REQUEUE_AFTER_S": "10"})
    with pytest.raises(BadSetting):
        load({"AUTOTRAINER_REQUEUE_AFTER_S": "300", "AUTOTRAINER_KILL_GRACE_S": "600"})


def test_long_grace_alone_keeps_nobody_from_starting() -> None:
    found = load({"AUTOTRAINER_KILL_GRACE_S": "600"})
    assert (found.kill_grace_s, found.requeue_after_s) == (600, 1200)


def test_defaults_are_those_of_the_contract(checkout: Path) -> None:
    found = load({})
    assert (found.home, found.bind, found.port, found.flower_port) == (checkout / "var", "127.0.0.1", 8000, 5555)
    assert (found.heartbeat_s, found.host_lost_s, found.kill_grace_s, found.requeue_after_s) == (2, 120, 10, 300)
    assert (found.devices, found.admin_user, found.url) == ("auto", "admin", "http://localhost:8000")
    assert (found.log_limit_bytes, found.retention_days, found.open_lab) == (5 * 2**30, 90, False)
    assert found.idle_s == 3600
    assert found.redis_embedded
    assert found.redis_url == f"unix://{settings.embedded_socket(found.home)}"


def test_address_follows_the_port_unless_it_is_given() -> None:
    assert load({"AUTOTRAINER_PORT": "8123"}).url == "http://localhost:8123"
    assert load({"AUTOTRAINER_PORT": "8123", "AUTOTRAINER_URL": "https://gpu.lab/"}).url == "https://gpu.lab"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("AUTOTRAINER_PORT", "65535", 65535),
        ("AUTOTRAINER_FLOWER_PORT", "0", 0),
        ("AUTOTRAINER_DEVICES", "sim:4x24GiB", SimulatedDevices(4, 24 * 1024)),
        ("AUTOTRAINER_DEVICES", "sim:256x512MiB", SimulatedDevices(256, 512)),
        ("AUTOTRAINER_DEVICES", "none", "none"),
        ("AUTOTRAINER_HEARTBEAT_S", "0.5", 0.5),
        ("AUTOTRAINER_LOG_LIMIT", "500 MB", 500 * 10**6),
        ("AUTOTRAINER_LOG_LIMIT", "1.5GiB", 3 * 2**29),
        ("AUTOTRAINER_OPEN_LAB", "Yes", True),
        ("AUTOTRAINER_OPEN_LAB", "off", False),
        ("AUTOTRAINER_HOST", "gpu-a.lab_1", "gpu-a.lab_1"),
        ("AUTOTRAINER_TIME_ZONE", "Asia/Shanghai", "Asia/Shanghai"),
        ("AUTOTRAINER_HOME", "/srv/at", Path("/srv/at")),
        ("AUTOTRAINER_PORT", "", 8000),  # empty is unset
    ],
)
def test_setting_is_read(name: str, text: str, value: object) -> None:
    assert one(name, text) == value


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("AUTOTRAINER_PORT", "0", "is not a port"),
        ("AUTOTRAINER_PORT", "65536", "is not a port"),
        ("AUTOTRAINER_PORT", "-1", "is not a port"),
        ("AUTOTRAINER_PORT", "²", "is not a port"),
        ("AUTOTRAINER_FLOWER_PORT", "70000", "or 0 for none"),
        ("AUTOTRAINER_DEVICES", "sim:0x24GiB", "is none of auto, nvml, none"),
        ("AUTOTRAINER_DEVICES", "sim:257x1GiB", "1 to 256 devices"),
        ("AUTOTRAINER_HEARTBEAT_S", "0", "must be a positive number"),
        ("AUTOTRAINER_HEARTBEAT_S", "nan", "must be a positive number"),
        ("AUTOTRAINER_HEARTBEAT_S", "inf", "must be a positive number"),
        ("AUTOTRAINER_KILL_GRACE_S", "ten", "is not a number of seconds"),
        ("AUTOTRAINER_LOG_LIMIT", "much", "is not a size"),
        ("AUTOTRAINER_LOG_LIMIT", "63KiB", "is too little: give 64KiB or more"),
        ("AUTOTRAINER_RETENTION_DAYS", "0", "give 1 or more"),
        ("AUTOTRAINER_OPEN_LAB", "maybe", "neither true nor false"),
        ("AUTOTRAINER_HOST", "-gpu", "is not a host name"),
        ("AUTOTRAINER_TIME_ZONE", "Mars/Base", "is not a time zone"),
        ("AUTOTRAINER_TIME_ZONE", "../../etc/passwd", "is not a time zone"),
        ("AUTOTRAINER_SHELL", "no-such-shell", "is no program"),
        ("AUTOTRAINER_REDIS_URL", "http://x", "is not a Redis address"),
        ("AUTOTRAINER_URL", "gpu.lab", "is not an address"),
        ("AUTOTRAINER_EMINDER_URL", "ftp://x", "is not an address"),
    ],
)
def test_bad_value_is_refused_with_the_name_and_the_reason(name: str, text: str, words: str) -> None:
    told = refused({name: text})
    assert told.startswith(f"{name}: ")
    assert words in told


def test_secret_is_not_repeated_in_the_refusal() -> None:
    assert "hunter2" not in refused({"AUTOTRAINER_REDIS_URL": "hunter2"})


def test_secrets_are_not_shown_by_repr() -> None:
    assert "hunter2" not in repr(load({"AUTOTRAINER_ADMIN_PASSWORD": "hunter2", "DATABASE_URL": "postgres://u:hunter2@h/d"}))


def test_unknown_name_of_ours_is_refused_and_others_are_not() -> None:
    assert refused({"AUTOTRAINER_PROT": "1"}).startswith("AUTOTRAINER_PROT is not a setting")
    load({"AUTOTRAINERS": "1", "PORT": "x"})


def test_names_that_jobs_get_are_known() -> None:
    load(dict.fromkeys([*settings.JOB_VARIABLES, *settings.INTERNAL_VARIABLES], "x"))


def test_secret_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from a file\n")
    assert load({"AUTOTRAINER_ADMIN_PASSWORD_FILE": str(tmp_path / "password")}).admin_password == "from a file"


def test_secret_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refused({"AUTOTRAINER_ADMIN_PASSWORD_FILE": str(tmp_path / "none")})


def test_secret_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("x")
    both = {"AUTOTRAINER_ADMIN_PASSWORD": "y", "AUTOTRAINER_ADMIN_PASSWORD_FILE": str(tmp_path / "password")}
    assert "are both set" in refused(both)


def test_only_secrets_come_from_files() -> None:
    assert "is not a setting" in refused({"AUTOTRAINER_PORT_FILE": "/x"})


def test_dotenv_is_read_and_the_environment_wins(checkout: Path) -> None:
    (checkout / ".env").write_text("# ours\n\nexport AUTOTRAINER_PORT=8001\nAUTOTRAINER_HOST='gpu-a'\nAUTOTRAINER_BIND=0.0.0.0\n")
    found = load({"AUTOTRAINER_PORT": "8002"})
    assert (found.port, found.host, found.bind) == (8002, "gpu-a", "0.0.0.0")


def test_dotenv_line_that_is_none_is_refused_with_its_number(checkout: Path) -> None:
    (checkout / ".env").write_text("AUTOTRAINER_PORT=8001\nnonsense\n")
    assert refused({}).startswith(".env, line 2:")


def test_training_inherits_none_of_our_settings_and_secrets() -> None:
    theirs = {"PATH": "/bin", "HOME": "/h", "PYTHONPATH": "/p", "MY_DATABASE": "x"}
    ours = dict.fromkeys(["AUTOTRAINER_REDIS_URL", "DATABASE_URL", "EMAIL_URL", "DJANGO_SETTINGS_MODULE", "FLOWER_BASIC_AUTH"], "s")
    assert settings.without_ours({**theirs, **ours, "CELERY_LOADER": "x", "C_FORCE_ROOT": "1"}) == theirs


@pytest.mark.parametrize("text", ["", "zz" * 32, "ab" * 31])
def test_host_key_that_is_none_names_the_command_that_gives_one(text: str) -> None:
    with pytest.raises(BadSetting, match=r"manage.py join gpu-a"):
        settings.host_key(load({"AUTOTRAINER_HOST_KEY": text, "AUTOTRAINER_HOST": "gpu-a"}))


def test_host_key_comes_from_the_file_that_the_control_plane_leaves(checkout: Path) -> None:
    found = load({"AUTOTRAINER_HOST": "gpu-a"})
    found.host_home.mkdir(parents=True)
    (found.host_home / "host_key").write_text("ab" * 32 + "\n")
    assert settings.host_key(found) == bytes.fromhex("ab" * 32)


@pytest.mark.parametrize(
    ("url", "celery"),
    [
        ("redis://:p@h:6379/0", "redis://:p@h:6379/0"),
        ("unix:///srv/a b/redis.sock", "redis+socket:///srv/a%20b/redis.sock"),
    ],
)
def test_redis_address_is_spelled_as_celery_wants_it(url: str, celery: str) -> None:
    assert settings.celery_url(url) == celery
