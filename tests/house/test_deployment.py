"""The files that are used outside this checkout hold together: containers and units. No container engine is needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

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


@pytest.mark.parametrize("unit", ["autotrainer.service", "autotrainer-host.service"])
def test_units_leave_trainings_alone(unit: str) -> None:
    lines = (CHECKOUT / "deploy" / unit).read_text().splitlines()
    assert "KillMode=process" in lines
    assert "Delegate=yes" in lines
