"""Examples for proxies and monitoring go by what the product really says and wants."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.urls import resolve

from jobs import metrics
from jobs.api import stream
from jobs.models import Notification
from jobs.states import DeviceState, HostState, JobState

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
NGINX = (DEPLOY / "proxy" / "nginx.conf").read_text()
CADDY = (DEPLOY / "proxy" / "Caddyfile").read_text()
STREAM = "/api/v1/jobs/12/log/stream/"
STATES = {
    "autotrainer_jobs": set(JobState),
    "autotrainer_devices": set(DeviceState),
    "autotrainer_host_state": set(HostState),
    "autotrainer_notifications": {Notification.PENDING, Notification.SENDING, Notification.SENT, Notification.DEAD},
    "autotrainer_reports_waiting": {"reports", "logs"},
}
"""Metric -> the values of its label `state` (or `kind`)."""


# --- proxies ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [NGINX, CADDY], ids=["nginx", "caddy"])
def test_proxy_knows_the_address_of_the_log_stream(text: str) -> None:
    assert resolve(STREAM).func is stream.log_stream
    patterns = re.findall(r"(\^/api/v1/jobs\S+\$)", text)
    assert len(patterns) == 1
    assert re.fullmatch(patterns[0], STREAM)
    assert not re.fullmatch(patterns[0], "/api/v1/jobs/12/")


def test_nginx_passes_a_stream_on_as_it_comes_over_http2() -> None:
    (place,) = re.findall(r"location ~ \S+ \{(.*?)\}", NGINX, re.S)
    for line in ("proxy_buffering off;", "gzip off;", "proxy_cache off;"):
        assert line in place
    (timeout,) = re.findall(r"proxy_read_timeout (\d+)s;", place)
    assert int(timeout) >= 3 * stream.HEARTBEAT_S
    assert "http2 on;" in NGINX
    assert "proxy_http_version 1.1;" in NGINX


def test_caddy_passes_a_stream_on_as_it_comes() -> None:
    assert "flush_interval -1" in CADDY
    (timeout,) = re.findall(r"read_timeout (\d+)s", CADDY)
    assert int(timeout) >= 3 * stream.HEARTBEAT_S


def test_nginx_says_who_asks_and_how_by_the_headers_that_are_read() -> None:
    assert "proxy_set_header X-Forwarded-For $remote_addr;" in NGINX  # a client's own is thrown away
    assert "proxy_set_header X-Forwarded-Proto $scheme;" in NGINX
    assert NGINX.count("{") == NGINX.count("}")


@pytest.mark.parametrize(("text", "pattern"), [(NGINX, r"client_max_body_size (\d+)m;"), (CADDY, r"max_size (\d+)MB")])
def test_proxy_takes_bodies_as_large_as_the_server_does(text: str, pattern: str) -> None:
    (limit,) = re.findall(pattern, text)
    assert int(limit) * 10**6 >= settings.DATA_UPLOAD_MAX_MEMORY_SIZE


# --- monitoring -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expressions() -> list[str]:
    """All that the rules and the dashboard ask for."""
    rules: Any = yaml.safe_load((DEPLOY / "monitoring" / "prometheus-rules.yml").read_text())
    board: Any = json.loads((DEPLOY / "monitoring" / "grafana-dashboard.json").read_text())
    asked = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    asked += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [*asked, *(variable["query"] for variable in board["templating"]["list"])]


def told() -> set[str]:
    """The names of the metrics, from the module that tells them."""
    source = Path(metrics.__file__).read_text()
    return {f"autotrainer_{name}" for name in re.findall(r'_(?:gauge|counter)\(\s*"(\w+)"', source)}


def test_monitoring_asks_only_for_what_is_told_and_for_all_of_it(expressions: list[str]) -> None:
    asked = {name for text in expressions for name in re.findall(r"\bautotrainer_\w+", text)}
    assert asked <= told()
    assert told() - asked <= {"autotrainer_device_memory_total_mib"}


def test_monitoring_asks_for_states_that_there_are(expressions: list[str]) -> None:
    found = [
        (name, value)
        for text in expressions
        for name, words in re.findall(r'(autotrainer_\w+)\{(?:state|kind)[!=~]+"([^"]+)"', text)
        for value in words.split("|")
    ]
    assert found
    assert [(name, value) for name, value in found if value not in STATES[name]] == []


def test_alerts_say_what_is_wrong_and_panels_do_not_overlap() -> None:
    rules: Any = yaml.safe_load((DEPLOY / "monitoring" / "prometheus-rules.yml").read_text())["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("page", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((DEPLOY / "monitoring" / "grafana-dashboard.json").read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
