"""What is so where AUTOTRAINER_URL is an https address: Django's own deployment checks are silent, and plain HTTP leads to TLS."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.cache import cache
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema

from gpuworker import settings as environment
from jobs import access
from starter import supervisor
from tests.house.sources import CHECKOUT

ASKED = """
import json, django
django.setup()
from django.core.management import call_command
from django.test import Client
call_command("check", deploy=True, fail_level="WARNING")
client, told = Client(), {}
for name, path, head in (
    ("page", "/jobs/?q=1", {}), ("call", "/api/v1/jobs/", {}), ("health", "/healthz", {}),
    ("secure", "/signin/", {"x-forwarded-proto": "https"}),
):
    answer = client.get(path, headers=head | {"host": "gpu.example.org"})
    told[name] = [answer.status_code, dict(answer.headers), [morsel.OutputString() for morsel in answer.cookies.values()]]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    environ = {name: value for name, value in os.environ.items() if not re.match(r"AUTOTRAINER_|DATABASE_URL|EMAIL_URL", name)}
    environ |= {"AUTOTRAINER_HOME": str(tmp_path_factory.mktemp("home")), "AUTOTRAINER_URL": "https://gpu.example.org"}
    environ["DJANGO_SETTINGS_MODULE"] = "autotrainer_site.settings"
    done = subprocess.run(
        [sys.executable, "-c", ASKED], cwd=CHECKOUT, env=environ, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no issues" in done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_plain_http_leads_to_the_address_that_people_use(told: dict[str, Any]) -> None:
    status, headers, _ = told["page"]
    assert (status, headers["Location"]) == (301, "https://gpu.example.org/jobs/?q=1")


def test_programs_on_this_machine_go_round_the_proxy(told: dict[str, Any]) -> None:
    assert (told["call"][0], told["health"][0]) == (401, 200)


def test_tls_is_kept_to_and_cookies_go_nowhere_else(told: dict[str, Any]) -> None:
    status, headers, cookies = told["secure"]
    assert status == 200
    assert headers["Strict-Transport-Security"] == "max-age=2592000"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Content-Security-Policy"].startswith("default-src 'self'; object-src 'none'")
    assert cookies
    assert all("Secure" in cookie and "SameSite=Lax" in cookie for cookie in cookies)


def test_schema_is_valid_openapi() -> None:
    document = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    assert document["openapi"].startswith("3.1")
    validate_schema(document)  # its warnings are among the deployment checks


@pytest.mark.parametrize(("url", "trusted"), [("http://localhost:8000", False), ("https://gpu.example.org", True)])
def test_forwarded_addresses_are_believed_only_where_a_proxy_is(url: str, trusted: bool, tmp_path: Path) -> None:
    ours = environment.load({"AUTOTRAINER_HOME": str(tmp_path), "AUTOTRAINER_URL": url})
    assert ("--no-proxy-headers" not in supervisor.web_argv(ours)) == trusted


def test_tries_to_sign_in_are_not_forgotten_for_many_others() -> None:
    cache.clear()
    tries = [access.login_wait_s("192.0.2.1", "eve") for _ in range(access.LOGINS_PER_MINUTE)]
    for number in range(2000):
        access.login_wait_s("192.0.2.1", f"made-up-{number}")
    assert tries == [0.0] * access.LOGINS_PER_MINUTE
    assert access.login_wait_s("192.0.2.1", "eve") > 0
    cache.clear()


def test_tries_to_sign_in_at_once_are_counted_each(monkeypatch: pytest.MonkeyPatch) -> None:
    cache.clear()
    monkeypatch.setattr(access, "LOGINS_PER_MINUTE", 1)
    meeting = threading.Barrier(2)

    def look_and_meet(*asked: Any) -> Any:
        seen = cache.get(*asked)
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(0.5)  # until the other has looked too, if it can
        return seen

    monkeypatch.setattr(access, "cache", SimpleNamespace(get=look_and_meet, set=cache.set))
    with ThreadPoolExecutor(2) as pool:
        waits = list(pool.map(lambda _: access.login_wait_s("192.0.2.1", "eve"), range(2)))
    assert waits.count(0.0) == 1
    cache.clear()


def test_tries_to_sign_in_are_counted_over_several_web_processes(broker: str) -> None:
    waits = []
    for _ in range(8):
        cache.clear()  # as another process sees it
        waits.append(access.login_wait_s("192.0.2.1", "eve"))
    assert waits[:5] == [0.0] * 5
    assert all(1 <= wait <= 60 for wait in waits[5:])
    cache.clear()
    assert access.login_wait_s("192.0.2.2", "eve") == 0.0
    cache.clear()


INLINE = re.compile(r"<script(?![^>]*\bsrc=)[^>]*>|<style|\son[a-z]+\s*=|\sstyle\s*=|javascript:", re.IGNORECASE)


def test_pages_have_no_inline_script_or_style() -> None:
    """They would not run under `default-src 'self'`; mails are not pages."""
    pages = [path for path in (CHECKOUT / "jobs" / "templates" / "jobs").rglob("*.html") if "mail" not in path.parts]
    assert len(pages) > 15
    assert {path.name: found[0] for path in pages if (found := INLINE.search(path.read_text()))} == {}


@pytest.mark.parametrize("text", ["<script>a()</script>", '<p onclick="a()">', '<p style="x">', "<style>", '<a href="javascript:a()">'])
def test_search_for_inline_script_finds_some(text: str) -> None:
    assert INLINE.search(text)
