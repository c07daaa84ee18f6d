"""Whether the product answers, and what `up` says then."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping

from gpuworker.settings import Settings


def readiness(settings: Settings) -> str:
    """'' when /readyz says that all parts work; else a sentence that says which do not."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.bind, settings.bind)  # noqa: S104 - compared, not bound
    connection = http.client.HTTPConnection(address, settings.port, timeout=5)
    try:
        connection.request("GET", "/readyz", headers={"Host": "localhost"})
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException):
        return "the web server does not answer yet."
    finally:
        connection.close()
    return "" if answer.status == 200 else _trouble(answer.status, body)


def _trouble(status: int, body: bytes) -> str:
    try:
        parts = json.loads(body)
    except ValueError:
        return f"/readyz answers {status}."
    return f"/readyz answers {json.dumps(parts, ensure_ascii=False)[:400]}."


def welcome(settings: Settings, facts: Mapping[str, str], environ: Mapping[str, str]) -> str:
    rows = [("Page", settings.url)]
    if facts["link"]:
        rows.append(("Sign in", f"{facts['link']}  (works once)"))
    rows.append(("User", f"{settings.admin_user}, {_password_place(settings)}"))
    if settings.flower_port:
        place = settings.home / "flower_password"
        rows.append(("Flower", f"http://127.0.0.1:{settings.flower_port}, user admin, password in {place}"))
    rows.append(("Service logs", str(settings.home / "service-logs")))
    if environ.get("AUTOTRAINER_DEVICES", "").startswith("sim:") or not isinstance(settings.devices, str):
        rows.append(("Devices", "simulated: they train nothing"))
    lines = "".join(f"  {name:13} {value}\n" for name, value in rows)
    return f"\nAutoTrainer is running.\n\n{lines}\nCtrl-C stops AutoTrainer; running trainings go on.\n"


def _password_place(settings: Settings) -> str:
    if settings.admin_password:
        return "the password that AUTOTRAINER_ADMIN_PASSWORD gave at the first start"
    return f"password in {settings.home / 'admin_password'}"
