"""`python -m tests.faults.walk [--seconds 120]`: a lab of three machines as the README has it, and somebody pulls a cable.

A control plane with PostgreSQL, and two GPU hosts, each in a network namespace at the end of a cable of its own. A job that
needs more memory than one of them has goes to the other, and its log streams; then that host's cable is out for so long. The
pages must say so, the other host must go on, and the job must end right: one attempt, its exit code, every line of its log.
Needs root, for the namespaces.
"""

from __future__ import annotations

import argparse
import contextlib
import http.cookiejar
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from starter import supervisor
from tests.e2e.product import CHECKOUT, Product, free_port
from tests.faults.namespaces import Cable, star
from tests.faults.nemesis import rest
from tests.postgres import private_postgres, programs
from tests.waiting import wait_until

PASSWORD = "open-sesame"
DEVICES = {"gpu-a": "sim:2x24GiB", "gpu-b": "sim:2x48GiB"}
EVERY_S = 0.5
TRAINING = "for n in $(seq {lines}); do echo line $n of {lines}; sleep {every}; done; exit 7"
"""An exit code that nobody else gives."""
SAID = "gpu-b has not been heard from since"
SAID_AFTER_S = 20.0
"""Within so long the overview says that a host is silent."""
RIGHT_AFTER_S = 60.0


def main(argv: Sequence[str]) -> int:
    options = _parse(argv)
    if options.away:
        return _inside(
            options.seconds, [Cable(options.hub, away, tuple(rest.split(",")), device) for away, rest, device in _given(options.away)]
        )  # type: ignore[arg-type]
    with star(len(DEVICES)) as cables:
        words = [word for each in cables for word in ("--away", f"{each.away}/{','.join(each.addresses)}/{each.device}")]
        argv = ["nsenter", f"--net=/run/netns/{cables[0].hub}", "--", sys.executable, "-m", "tests.faults.walk"]
        argv += ["--seconds", str(options.seconds), "--hub", cables[0].hub, *words]
        return subprocess.run(argv, cwd=CHECKOUT, check=False).returncode


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    made = argparse.ArgumentParser(prog="python -m tests.faults.walk", description=(__doc__ or "").partition("\n\n")[0])
    made.add_argument("--seconds", type=float, default=120.0, help="how long the cable is out")
    made.add_argument("--hub", help=argparse.SUPPRESS)
    made.add_argument("--away", action="append", help=argparse.SUPPRESS)
    return made.parse_args(argv)


def _given(away: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    for each in away:
        name, addresses, device = each.split("/")
        yield name, addresses, device


# --- at the hub ---------------------------------------------------------------------------------------------------------


def _inside(seconds: float, cables: Sequence[Cable]) -> int:
    if not (binaries := programs()):
        sys.exit("PostgreSQL is missing: install it, or put its `postgres` on PATH.")
    root = Path(tempfile.mkdtemp(prefix="at-walk-"))
    with private_postgres(binaries) as database, _redis(root, cables[0].addresses[0]) as redis_url:
        environ = {"AUTOTRAINER_REDIS_URL": redis_url, "DATABASE_URL": database.fresh(), "AUTOTRAINER_HOST": "control"}
        environ["AUTOTRAINER_HEARTBEAT_S"] = "2"  # as everybody has it
        (root / "control").mkdir()
        with Product(root / "control", devices="none", environ=environ) as product, contextlib.ExitStack() as stack:
            for (name, devices), cable in zip(DEVICES.items(), cables, strict=True):
                stack.enter_context(_host(product, root / name, name, devices, cable))
            try:
                _walk(product, Browser(product), cables[1], seconds)
            except AssertionError as exc:
                print(f"WRONG: {exc}\n{product.told()}")
                return 1
    shutil.rmtree(root, ignore_errors=True)
    print("All as promised.")
    return 0


@contextlib.contextmanager
def _redis(root: Path, address: str) -> Iterator[str]:
    program = shutil.which("redis-server") or shutil.which("valkey-server") or sys.exit("redis-server is missing.")
    port, folder = free_port(), root / "redis"
    folder.mkdir()
    settings = f"bind 0.0.0.0\nport {port}\nrequirepass {PASSWORD}\nappendonly yes\nmaxmemory-policy noeviction\ndir {folder}\n"
    (folder / "redis.conf").write_text(settings)
    with (folder / "redis.log").open("wb") as log:
        server = subprocess.Popen([program, str(folder / "redis.conf")], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        yield f"redis://:{PASSWORD}@{address}:{port}/0"
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def _host(product: Product, home: Path, name: str, devices: str, cable: Cable) -> Iterator[None]:
    """What `AutoTrainer.py host` becomes on a new machine, with the lines that `manage.py join` prints."""
    home.mkdir()
    words = [sys.executable, "manage.py", "join", name]
    told = subprocess.run(words, cwd=CHECKOUT, env=product.environ, capture_output=True, text=True, check=True, timeout=60).stdout
    inherited = {key: value for key, value in product.environ.items() if not key.startswith("AUTOTRAINER_") and key != "DATABASE_URL"}
    ours = {"AUTOTRAINER_HOME": str(home), "AUTOTRAINER_DEVICES": devices, "AUTOTRAINER_SERVICE": "agent"}
    argv = [*cable.inside(), sys.executable, *supervisor.agent_argv(name)[1:]]
    env = inherited | dict(line.split("=", 1) for line in told.splitlines()) | ours
    with (home / "agent.log").open("wb") as log:
        agent = subprocess.Popen(argv, cwd=CHECKOUT, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        agent.terminate()
        agent.wait(20)


class Browser:
    """As somebody with a page open."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
        form = self.page("/signin/")
        token = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', form)[0]
        fields = {"username": "admin", "password": product.password, "csrfmiddlewaretoken": token}
        self._opener.open(f"{product.url}/signin/", urllib.parse.urlencode(fields).encode(), timeout=20).close()

    def page(self, path: str) -> str:
        with self._opener.open(self._product.url + path, timeout=20) as answer:
            return str(answer.read().decode())


def _walk(product: Product, browser: Browser, cable: Cable, seconds: float) -> None:
    began = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    hosts = {"control", *DEVICES}
    wait_until(
        lambda: {h["name"] for h in product.api("GET", "hosts/")["results"] if h["state"] == "up"} == hosts, 60, "all are up", every_s=0.2
    )
    tell("the control plane is up, and two GPU hosts have joined it")

    lines = int((seconds + 20) / EVERY_S)
    job = product.submit(TRAINING.format(lines=lines, every=EVERY_S), name="large", gpu_memory_mib=40 * 1024)["id"]
    host = product.wait(job, "running")["host"]
    assert host == "gpu-b", f"a job for 40 GiB runs on {host}"
    wait_until(lambda: product.log(job).count(b"\n") >= 3, 30, "its log has begun", every_s=0.1)
    seen = product.log(job).count(b"\n")
    wait_until(lambda: product.log(job).count(b"\n") > seen, 10, "its log streams", every_s=0.1)
    tell(f"job {job}, which needs 40 GiB, runs on gpu-b; its log streams")

    cable.cut()
    out = time.monotonic()
    tell("gpu-b's cable is out")
    try:
        wait_until(lambda: SAID in browser.page("/"), SAID_AFTER_S, "the overview says so", every_s=0.5)
        said = time.monotonic() - out
        tell(f"the overview says that gpu-b is silent, after {said:.1f} s")
        other = product.submit("echo on $AUTOTRAINER_HOST", name="meanwhile")["id"]
        ended = product.wait(other, "completed")
        assert (ended["host"], product.log(other)) == ("gpu-a", b"on gpu-a\n"), ended["host"]
        tell(f"job {other} ran on gpu-a meanwhile")
        before = product.log(job).count(b"\n")
        rest(max(0.0, seconds - (time.monotonic() - out)))
        assert product.job(job)["state"] == "running", "the job did not wait for its host"
        assert product.log(job).count(b"\n") == before, "a log came through a cable that was out"
        assert SAID in browser.page(f"/jobs/{job}/"), "the job's page does not say so"
        tell(f"after {seconds:.0f} s the job still counts as running, and its page says that gpu-b is not heard")
    finally:
        cable.mend()
    mended = time.monotonic()
    tell("the cable is in again")
    wait_until(lambda: product.log(job).count(b"\n") > before + 5, RIGHT_AFTER_S, "the log goes on", every_s=0.2)
    tell(f"its log goes on, {time.monotonic() - mended:.1f} s later")
    ended = product.wait(job, "failed", "completed", timeout_s=RIGHT_AFTER_S + 30)
    wanted = b"".join(b"line %d of %d\n" % (n, lines) for n in range(1, lines + 1))
    wait_until(lambda: product.log(job) == wanted, RIGHT_AFTER_S, "every line is there, once", every_s=0.2)
    assert (ended["exit_code"], len(ended["attempts"])) == (7, 1), ended
    states = {h["name"]: h["state"] for h in product.api("GET", "hosts/")["results"]}
    assert set(states.values()) == {"up"}, states
    tell(
        f"it has ended with its exit code, in one attempt, with all {lines} lines, {time.monotonic() - mended:.1f} s after the cable was in"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
