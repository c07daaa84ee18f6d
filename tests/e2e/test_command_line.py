"""The command line client against the product, as people and scripts use it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from jobs.cli.main import COMMANDS
from tests.e2e.product import CHECKOUT, Product, kill
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

DEVICES = "sim:2x24GiB"
LAUNCHER = [sys.executable, str(CHECKOUT / "AutoTrainer.py")]

SCRIPT = """\
set -eu
autotrainer() { "$PYTHON" "$LAUNCHER" "$@"; }
first=$(autotrainer submit --parsable -n first -- sh -c 'echo "from $1"' _ 'the first')
second=$(autotrainer submit --parsable -n second --after "$first" -e WORD='a b' -- 'echo "$WORD" | tr a z')
autotrainer wait "$first" "$second" > ended
cut -f2 ended
autotrainer logs "$first"
autotrainer logs "$second"
autotrainer list --all --search second | cut -f2,3
if autotrainer wait "$(autotrainer submit --parsable -- false)" > /dev/null; then echo wrong; else echo "it failed"; fi
autotrainer gpus | while IFS="$(printf '\\t')" read -r host index model state rest; do echo "$index $state"; done
autotrainer hosts | cut -f2,3
autotrainer run -g 0 -- 'echo "it runs"; exit 5' 2> /dev/null || echo "with code $?"
autotrainer templates | cut -f1
autotrainer run --template 'my own' -e WORD=mine 2> /dev/null
held=$(autotrainer submit --parsable --hold -- true)
autotrainer release "$held" > /dev/null
again=$(autotrainer retry --parsable "$held")
autotrainer wait "$held" "$again" | cut -f2
long=$(autotrainer submit --parsable --hold -- 'sleep 600')
autotrainer release "$long" > /dev/null
autotrainer hold "$long" > /dev/null || true  # it may have started
autotrainer cancel "$long" > /dev/null
autotrainer wait "$long" > /dev/null || autotrainer show "$long" | grep ^state
autotrainer completion bash | grep -c '^complete '
export AUTOTRAINER_HOME=/nowhere
autotrainer login "$SERVER" --user admin < "$PASSWORD" > /dev/null
autotrainer whoami | cut -f1,2
autotrainer logout > /dev/null
autotrainer list > /dev/null 2>&1 || echo "signed out: $?"
"""


def environ_of(product: Product, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Of the person who owns the home: nothing but that says where the server is."""
    kept = {name: value for name, value in product.environ.items() if not name.startswith("AUTOTRAINER_")}
    return kept | {"AUTOTRAINER_HOME": str(product.home), "XDG_CONFIG_HOME": str(product.work / "config")} | dict(extra or {})


def client(product: Product, *words: str, stdin: str = "", environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LAUNCHER, *words],
        cwd=product.work,
        env=environ_of(product, environ),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def submitted(product: Product, *words: str) -> int:
    done = client(product, "submit", "--parsable", *words)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@contextmanager
def running(product: Product, *words: str, stdout: int | IO[bytes] = subprocess.PIPE) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [*LAUNCHER, *words], cwd=product.work, env=environ_of(product, {"TERM": "xterm"}), stdin=subprocess.DEVNULL, stdout=stdout,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def test_plain_shell_script_can_use_every_word(product: Product) -> None:
    assert [word for word in COMMANDS if f"autotrainer {word} " not in SCRIPT] == []
    kept = {"command": 'echo "$WORD $OTHER"', "min_gpus": 0, "env": {"WORD": "kept", "OTHER": "kept"}}
    product.api("POST", "templates/", {"name": "my own", "fields": kept})
    more = {"SERVER": product.url, "PASSWORD": str(product.home / "admin_password")}
    environ = environ_of(product, {"PYTHON": sys.executable, "LAUNCHER": LAUNCHER[1], **more})
    done = subprocess.run(["sh", "-c", SCRIPT], cwd=product.work, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        *("completed", "completed", "from the first", "z b", "completed\tsecond", "it failed"),
        *("0 free", "1 free", "up\t2"),
        *(
            "it runs",
            "with code 5",
            "my own",
            "mine kept",
            "completed",
            "completed",
            "state\tcancelled",
            "1",
            "admin\tadmin",
            "signed out: 4",
        ),
    ]


def test_followed_log_survives_a_kill_of_the_web_server_and_a_restart_of_all_to_the_byte(product: Product, tmp_path: Path) -> None:
    first, second, output = tmp_path / "first", tmp_path / "second", tmp_path / "output"
    wait = "until test -e {}; do sleep 0.05; done"
    lines = "for i in $(seq 200); do echo line $i; done; exit 3"
    command = f"printf 'é \\377 before\\n'; {wait.format(first)}; echo between; {wait.format(second)}; {lines}"
    job = submitted(product, "-g", "0", "--", command)
    with output.open("wb") as file, running(product, "logs", "-f", str(job), stdout=file) as follower:
        wait_until(lambda: b"before" in output.read_bytes(), 30, "the first line is shown")
        for pid in product.pids("web"):
            kill(pid)
        first.touch()
        wait_until(lambda: b"between" in output.read_bytes(), 30, "the next line is shown")
        product.stop()
        second.touch()
        product.start()
        assert follower.wait(60) == 0, follower.stderr and follower.stderr.read()
    shown = b"\xc3\xa9 \xff before\nbetween\n" + b"".join(b"line %d\n" % i for i in range(1, 201))
    assert output.read_bytes() == product.log(job) == shown


def test_run_shows_the_output_and_forwards_the_exit_code(product: Product) -> None:
    done = client(product, "run", "--retries", "1", "--retry-delay", "1s", "--", "echo attempt $AUTOTRAINER_ATTEMPT; exit 7")
    assert (done.returncode, done.stdout) == (7, "attempt 1\nattempt 2\n")
    assert re.match(r"Submitted job \d+ \(position \d+\)\n", done.stderr)
    assert "exit code 7" in done.stderr


def test_interrupt_of_run_leaves_the_job_alone_and_says_how_to_come_back(product: Product) -> None:
    with running(product, "run", "-n", "goes-on", "--", "echo begun; sleep 600") as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        assert follower.stdout.readline() == b"begun\n"
        follower.send_signal(signal.SIGINT)
        assert follower.wait(20) == 130
        told = follower.stderr.read().decode()
    (job,) = product.api("GET", "jobs/?state=running&search=goes-on")["results"]
    assert f"logs -f {job['id']}" in told
    assert product.trainings(job["id"])
    assert client(product, "cancel", str(job["id"])).returncode == 0
    product.wait(job["id"], "cancelled")
    assert client(product, "wait", str(job["id"])).stdout == f"{job['id']}\tcancelled\t-\n"


def test_held_job_is_released_retried_and_shown(product: Product) -> None:
    job = submitted(product, "--hold", "-n", "held", "--time", "1h", "--", "true")
    shown = dict(line.split("\t", 1) for line in client(product, "show", str(job)).stdout.splitlines())
    assert (shown["state"], shown["command"], shown["time limit"]) == ("held", "true", "1h 00m")
    assert json.loads(client(product, "show", str(job), "--json").stdout)["id"] == job
    assert client(product, "hold", str(job)).returncode == 1  # it is held already
    assert client(product, "release", str(job)).returncode == 0
    product.wait(job, "completed")
    copy = int(client(product, "retry", "--parsable", str(job)).stdout)
    assert product.wait(copy, "completed")["name"] == "held"


def test_login_elsewhere_keeps_a_token_and_logout_makes_it_useless(product: Product, tmp_path: Path) -> None:
    away = {"AUTOTRAINER_HOME": str(tmp_path / "none"), "XDG_CONFIG_HOME": str(tmp_path)}
    assert client(product, "list", environ=away).returncode == 4
    assert client(product, "login", product.url, "--user", "admin", stdin="wrong\n", environ=away).returncode == 4
    done = client(product, "login", product.url, "--user", "admin", stdin=product.password + "\n", environ=away)
    assert done.returncode == 0, done.stderr
    kept = tmp_path / "autotrainer" / "logins.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    token = json.loads(kept.read_text())["logins"][product.url]["token"]
    assert token not in done.stdout + done.stderr
    assert client(product, "whoami", environ=away).stdout == f"admin\tadmin\t{product.url}\n"
    assert client(product, "list", "--mine", "--json", environ=away).returncode == 0
    assert client(product, "logout", environ=away).returncode == 0
    assert client(product, "list", environ=away).returncode == 4
    direct = away | {"AUTOTRAINER_URL": product.url, "AUTOTRAINER_TOKEN": token}
    assert "does not take this token" in client(product, "list", environ=direct).stderr


def test_hosts_and_gpus_are_told_as_objects_too(product: Product) -> None:
    assert [d["index"] for d in json.loads(client(product, "gpus", "--json").stdout)] == [0, 1]
    (host,) = json.loads(client(product, "hosts", "--json").stdout)
    assert client(product, "hosts").stdout.split("\t")[:2] == [host["name"], "up"]


def test_terminal_gets_a_table_that_lives_and_is_left_as_it_was(product: Product) -> None:
    master, slave = pty.openpty()
    with running(product, "gpus", "-w", "--every", "0.2", stdout=slave) as watcher:
        os.close(slave)
        seen = b""

        def twice() -> bool:
            nonlocal seen
            seen += os.read(master, 4096)
            return seen.count(b"MODEL") >= 2

        wait_until(twice, 30, "the table is drawn again")
        watcher.send_signal(signal.SIGINT)
        assert watcher.wait(20) == 130
    seen += os.read(master, 4096)
    os.close(master)
    assert seen.startswith(b"\x1b[?1049h")
    assert seen.endswith(b"\x1b[?25h\x1b[?1049l")
    assert b"2 of 2 GPUs free" in seen
