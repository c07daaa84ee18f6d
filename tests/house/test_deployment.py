"""The files that are used outside this checkout hold together: containers and units. No container engine is needed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuworker import groups
from gpuworker.settings import SECRETS, TABLE, load
from starter import supervisor

CHECKOUT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())
    return loaded


@pytest.fixture(scope="module")
def opened() -> dict[str, Any]:
    """What is laid over it where GPU machines join."""
    loaded: dict[str, Any] = yaml.safe_load((CHECKOUT / "deploy" / "compose.hosts.yml").read_text())
    return loaded


def test_compose_has_the_control_plane_and_a_host_only_for_who_asks(compose: dict[str, Any], opened: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"redis", "postgres", "prepare", "web", "control", "flower", "host"}
    assert [name for name, service in services.items() if service.get("profiles")] == ["host"]
    assert services["host"]["pid"] == "host"
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
        named = {volume.split(":")[0] for volume in service.get("volumes", ())}
        assert {name for name in named if not name.startswith("$")} <= set(compose["volumes"])
        assert set(service["networks"]) <= set(compose["networks"])
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
    assert set(opened["services"]) <= set(services)


def test_compose_publishes_the_web_and_nothing_else(compose: dict[str, Any], opened: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if service.get("ports")}
    assert published == {"web": ["127.0.0.1:8000:8000"]}
    assert compose["networks"]["inside"] == {"internal": True}
    for name in ("redis", "postgres", "flower"):
        assert compose["services"][name]["networks"] == ["inside"]
    assert opened["services"]["flower"]["ports"] == ["127.0.0.1:5555:5555"]
    (port,) = opened["services"]["redis"]["ports"]
    assert port.startswith("${REDIS_ADDRESS:?")


def test_compose_keeps_secrets_in_files(compose: dict[str, Any]) -> None:
    text = (CHECKOUT / "docker-compose.yml").read_text()
    assert not re.search(r"\$\{\w*(PASSWORD|SECRET|KEY|TOKEN)", text)
    for name, secret in compose["secrets"].items():
        assert secret == {"file": f"secrets/{name}"}
    assert "/secrets/" in (CHECKOUT / ".gitignore").read_text().splitlines()


def test_compose_checks_whether_services_are_well(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert [name for name, service in services.items() if "healthcheck" not in service] == ["prepare", "host"]
    ours = [service for service in services.values() if service["image"] == "autotrainer"]
    for service in ours:
        assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])


def test_compose_settings_are_known(compose: dict[str, Any]) -> None:
    names = {name for service in compose["services"].values() for name in service.get("environment", ())}
    ours = {name for name in names if name.startswith(("AUTOTRAINER_", "DATABASE_URL"))}
    assert ours <= {*TABLE, *(f"{name}_FILE" for name in SECRETS)}


def test_compose_starts_what_the_supervisor_starts(compose: dict[str, Any]) -> None:
    ours = load({"AUTOTRAINER_BIND": "0.0.0.0", "AUTOTRAINER_URL": "https://x", "AUTOTRAINER_PORT": "8000"})
    at = {"web": supervisor.web_argv(ours), "control": supervisor.control_argv("compose"), "host": supervisor.agent_argv("compose")}
    for name, argv in at.items():
        words = compose["services"][name]["command"]
        module = words.index("-m")
        assert [word for word in argv if word in words[module:]] == words[module:], name


def test_secrets_are_made_once_and_are_what_the_settings_take(tmp_path: Path) -> None:
    command = [str(CHECKOUT / "deploy" / "make-secrets")]
    subprocess.run(command, cwd=tmp_path, check=True)
    folder = tmp_path / "secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert len({before["redis_password"], before["postgres_password"], before["flower_login"]}) == 3
    assert len(before["redis_password"]) == 48
    found = load({"AUTOTRAINER_REDIS_URL_FILE": str(folder / "redis_url"), "DATABASE_URL_FILE": str(folder / "database_url")})
    assert found.redis_url == f"redis://:{before['redis_password']}@redis:6379/0"
    assert found.database_url == f"postgres://autotrainer:{before['postgres_password']}@postgres:5432/autotrainer"
    subprocess.run(command, cwd=tmp_path, check=True)
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


def test_container_does_not_run_as_root() -> None:
    lines = (CHECKOUT / "Dockerfile").read_text().splitlines()
    assert "USER autotrainer" in lines
    copied = [line.split()[1] for line in lines if line.startswith("COPY ") and "--from=" not in line]
    assert any("--require-hashes -r requirements.lock" in line for line in lines)
    assert lines.index("USER autotrainer") > max(number for number, line in enumerate(lines) if line.startswith(("RUN", "COPY")))
    allowed = (CHECKOUT / ".dockerignore").read_text()
    assert all(f"!{name.rstrip('*')}" in allowed for name in copied)


UNITS = sorted(path.relative_to(CHECKOUT / "deploy") for path in (CHECKOUT / "deploy").rglob("*.service"))


def unit_lines(unit: Path) -> list[str]:
    return (CHECKOUT / "deploy" / unit).read_text().splitlines()


def test_there_are_units_for_users_and_for_machines() -> None:
    names = ("autotrainer-host.service", "autotrainer.service")
    assert [str(unit) for unit in UNITS] == [*names, *(f"system/{name}" for name in names)]


@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_units_leave_trainings_alone(unit: Path) -> None:
    lines = unit_lines(unit)
    for line in ("KillMode=process", "Delegate=yes", f"DelegateSubgroup={groups.SERVICES}", "OOMPolicy=continue", "Restart=always"):
        assert lines.count(line) == 1, line
    start = next(line for line in lines if line.startswith("ExecStart="))
    assert start.endswith("AutoTrainer.py host" if "host" in unit.name else "AutoTrainer.py")


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit.parent.name == "system"], ids=str)
def test_units_of_a_machine_run_as_an_account_of_their_own(unit: Path) -> None:
    lines = unit_lines(unit)
    assert "User=autotrainer" in lines
    assert "OOMScoreAdjust=-500" in lines
    assert "WantedBy=multi-user.target" in lines
    assert "NoNewPrivileges=yes" in lines
    assert "ProtectKernelModules=yes" in lines
    felt = ("PrivateTmp", "PrivateDevices", "DevicePolicy", "ProtectHome", "ProtectClock", "ProtectControlGroups", "RestrictNamespaces")
    assert not [line for line in lines if line.startswith(felt)]  # trainings would feel it
    assert not any("%h" in line for line in lines)  # root's home, in a system unit
