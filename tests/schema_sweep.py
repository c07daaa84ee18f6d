"""`python -m tests.schema_sweep [--seconds N]`: the API against its own OpenAPI document, as each role, for as long as you like.

Schemathesis' own engine (boundary values of each parameter, then random ones, then chains of calls) against a web server of
our own on a new database. No host agent runs, so that no command that it makes up is ever started.
tests/integration/test_api_schema.py is the short form of it, which runs with all other tests.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.conftest import start_redis
from tests.e2e.product import CHECKOUT, free_port
from tests.waiting import wait_until

ROLES = ("anonymous", "viewer", "submitter", "operator", "admin")
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,"
    "unsupported_method,allow_header_conformance,ignored_auth"
)
LEFT_OUT = ("/api/v1/auth/logout/", "/api/v1/jobs/{id}/log/stream/")
"""Would end the sweep's own token; never ends while a job waits. The short form tries both."""
CONFIG = """
[parameters]
"path.id" = {job}
"path.number" = 1
"path.name" = "gpu-a"
"path.uuid" = "GPU-gpu-a-0"
"""
FILL = """
from knox.models import AuthToken
from jobs import logs
from jobs.models import User
from tests.integration.rest import known_host, make_attempt, make_job, put_into
known_host("gpu-a", 24)
print("anonymous", "-", 1)
for role in ("viewer", "submitter", "operator", "admin"):
    user = User.objects.create_user(f"a-{role}", role=role)
    job = make_job(user, swaps=[{"target": "a", "source": "/b"}], artifacts=["*.png"])
    make_attempt(job, outcome="failed", exit_code=1, ended_at=job.created_at, log_bytes=4)
    logs.append(job.pk, 1, 0, b"loss")
    put_into(job, "failed", exit_code=1)
    print(role, AuthToken.objects.create(user)[1], job.pk)
"""


@contextmanager
def web(root: Path) -> Iterator[tuple[str, list[list[str]]]]:
    """A web server's address, and (role, token, number of a job) of each role."""
    redis, port = start_redis(root), free_port()
    environ = {name: value for name, value in os.environ.items() if not re.match(r"AUTOTRAINER_|DATABASE_URL|EMAIL_URL|DJANGO_", name)}
    environ |= {"AUTOTRAINER_HOME": str(root / "home"), "AUTOTRAINER_REDIS_URL": redis.url, "AUTOTRAINER_PORT": str(port)}
    server = None
    try:
        for command in (["prepare", "--without-host"], ["shell", "--no-imports", "-c", FILL]):
            done = subprocess.run(
                [sys.executable, "manage.py", *command], cwd=CHECKOUT, env=environ, check=True, text=True, stdout=subprocess.PIPE
            )
        argv = [sys.executable, "-m", "uvicorn", "autotrainer_site.asgi:application", "--port", str(port), "--no-access-log"]
        with (root / "web.log").open("wb") as output:
            server = subprocess.Popen([*argv, "--lifespan", "off"], cwd=CHECKOUT, env=environ, stdout=output, stderr=output)
        url = f"http://localhost:{port}"
        wait_until(lambda: _answers(url), 30, "the web server answers")
        yield url, [line.split() for line in done.stdout.splitlines() if line.startswith(ROLES)]
    finally:
        for process in (server, redis.process):
            if process:
                process.terminate()
                process.wait(20)


def _answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def sweep(url: str, root: Path, *, role: str, token: str, job: str, seconds: int) -> int:
    config = root / f"{role}.toml"
    config.write_text(CONFIG.format(job=job))
    argv = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run", f"{url}/api/v1/schema/?format=json"]
    argv += [
        "--url",
        url,
        "--checks",
        CHECKS,
        "--workers",
        "1",
        "--max-time",
        str(seconds),
        "--request-timeout",
        "30",
        "--continue-on-failure",
    ]
    argv += ["--suppress-health-check", "all", "--warnings", "off"]
    argv += [word for path in LEFT_OUT for word in ("--exclude-path", path)]
    argv += ["--header", f"Authorization: Bearer {token}"] if token != "-" else []
    print(f"\n=== {role} ===", flush=True)
    return subprocess.run(argv, cwd=root, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=300, help="for each role (%(default)s)")
    parser.add_argument("--role", choices=ROLES, action="append", help="only this one; may be given several times")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="at-sweep-") as folder:
        root = Path(folder)
        with web(root) as (url, people):
            chosen = [person for person in people if person[0] in (asked.role or ROLES)]
            failed = [role for role, token, job in chosen if sweep(url, root, role=role, token=token, job=job, seconds=asked.seconds)]
            print("\n" + (root / "web.log").read_text()[-4000:])
    print(f"failed: {', '.join(failed)}" if failed else "All roles: nothing but what the schema promises.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
