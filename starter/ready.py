"""Whether the product answers, and what `up` says then."""

from __future__ import annotations

import http.client
import json
import os
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
    rows.append(("Devices", _devices(settings, environ)))
    lines = "".join(f"  {name:13} {value}\n" for name, value in rows)
    return f"\nAutoTrainer is running.\n\n{lines}\nCtrl-C stops AutoTrainer; running trainings go on.\n"


def _devices(settings: Settings, environ: Mapping[str, str]) -> str:
    """What the agent will find, as far as it can be told from here; `manage.py doctor` asks the driver."""
    if environ.get("AUTOTRAINER_DEVICES", "").startswith("sim:") or not isinstance(settings.devices, str):
        return "simulated: no real GPU behind them"
    if settings.devices == "none":
        return "none, as AUTOTRAINER_DEVICES says: only jobs that ask for 0 GPUs run here"
    if not any(os.path.exists(path) for path in DRIVER_FILES):
        return "no NVIDIA driver here; `manage.py doctor` says more, AUTOTRAINER_DEVICES=sim:4x24GiB shows how it looks with GPUs"
    return "the GPUs that the NVIDIA driver shows"


DRIVER_FILES = ("/dev/nvidiactl", "/dev/dxg", "/proc/driver/nvidia/version")


def _password_place(settings: Settings) -> str:
    if settings.admin_password:
        return "the password that AUTOTRAINER_ADMIN_PASSWORD gave at the first start"
    return f"password in {settings.home / 'admin_password'}"
