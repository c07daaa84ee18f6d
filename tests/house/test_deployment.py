"""The files that are used outside this checkout hold together: containers and units. No container engine is needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuworker import groups

CHECKOUT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())
    return loaded


def test_compose_has_the_control_plane_and_no_host_agent(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"redis", "postgres", "prepare", "web", "control", "flower"}
    for service in compose["services"].values():
        assert set(service.get("depends_on", ())) <= set(compose["services"])
        named = {volume.split(":")[0] for volume in service.get("volumes", ())}
        assert named <= set(compose["volumes"])


def test_compose_publishes_nothing_to_the_world_and_holds_no_secret(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith(("127.0.0.1:", "${REDIS_ADDRESS:-127.0.0.1}:")) for port in ports)
    text = (CHECKOUT / "docker-compose.yml").read_text()
    for name in ("REDIS_PASSWORD", "POSTGRES_PASSWORD", "FLOWER_PASSWORD"):
        assert f"${{{name}:?" in text
        assert not re.search(rf"\$\{{{name}:-", text)


def test_compose_settings_are_known(compose: dict[str, Any]) -> None:
    from gpuworker.settings import TABLE

    names = {name for service in compose["services"].values() for name in service.get("environment", ())}
    assert {name for name in names if name.startswith("AUTOTRAINER_")} <= set(TABLE)


def test_container_does_not_run_as_root() -> None:
    lines = (CHECKOUT / "Dockerfile").read_text().splitlines()
    assert "USER autotrainer" in lines
    copied = [line.split()[1] for line in lines if line.startswith("COPY ")]
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
    assert not any("%h" in line for line in lines)  # root's home, in a system unit
