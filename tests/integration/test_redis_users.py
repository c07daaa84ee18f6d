"""A Redis on the network: a user for each host who can touch nothing but its own, TLS, and one that nobody should work with."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.management import call_command

from autotrainer_site import prepare, redisacl
from gpuworker import protocol, redischeck
from gpuworker.protocol import Ended, Started
from gpuworker.settings import BadSetting, load
from jobs.models import Host as HostRow
from tests.conftest import missing
from tests.e2e.product import free_port
from tests.integration.host import CLUSTER_KEY, HOST, Host
from tests.waiting import wait_until

HOSTS = (HOST, "gpu-ab", "gpu-b")


@contextmanager
def server(folder: Path, *options: str, url: Callable[[int], str] = "redis://127.0.0.1:{}/0".format) -> Iterator[str]:
    """A Redis of our own on a loopback port; `{port}` in its options becomes that."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if not program:
        missing("redis-server")
    port = free_port()
    words = ["--bind", "127.0.0.1", "--save", "", "--dir", str(folder), *(word.replace("{port}", str(port)) for word in options)]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen([str(program), *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: b"eady to accept connections" in (folder / "redis.log").read_bytes(), 10, "redis-server answers")
        yield url(port)
    finally:
        process.kill()
        process.wait()


def as_user(url: str, user: str) -> str:
    return redisacl.url_of(url, CLUSTER_KEY, user)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis with the users of a control plane and three hosts; and root, who is ours."""
    folder = tmp_path_factory.mktemp("acl")
    root = "user root on >root ~* &* +@all"
    (folder / "users.acl").write_text("\n".join([*redisacl.lines([CLUSTER_KEY], dict.fromkeys(HOSTS, (0,))), root]) + "\n")
    with server(folder, "--port", "{port}", "--aclfile", str(folder / "users.acl")) as url:
        yield url


@contextmanager
def client(url: str) -> Iterator[Any]:
    with redis.Redis.from_url(url, decode_responses=True) as made:
        yield made


def agent(url: str, host_url: str, home: Path) -> Host:
    """The control plane's half goes by one address, the agent by the other."""
    host = Host(url, home)
    host.env["AUTOTRAINER_REDIS_URL"] = host_url
    return host


# --- users ------------------------------------------------------------------------------------------------------------------


def test_agent_does_all_that_it_must_as_a_user_of_its_own(shared: str, tmp_path: Path) -> None:
    host = agent(as_user(shared, redisacl.CONTROL_USER), as_user(shared, redisacl.host_user(HOST)), tmp_path)
    with client(shared.replace("//", "//root:root@")) as root:
        root.acl_log_reset()
        try:
            host.start()
            spec = host.offer(host.spec("echo one; exit 3", max_retries=2))
            assert host.report(Ended, spec).exit_code == 3
            wait_until(lambda: root.llen("autotrainer:control") == 1, 10, "Celery's retry in the queue `control`")
            running = host.offer(host.spec("sleep 60", fence=101))
            host.report(Started, running)
            answers = host.app.control.inspect(timeout=2, destination=[protocol.node_name(HOST)]).ping()
            assert answers == {protocol.node_name(HOST): {"ok": "pong"}}
            host.stop(running)
            host.report(Ended, running)
            wait_until(lambda: host.hear() or host.log(spec) == b"one\n", 10, "the log")
        finally:
            host.close()
        denied = [(entry["reason"], entry["object"], entry["username"]) for entry in root.acl_log()]
    assert denied == []


FORBIDDEN: tuple[tuple[str, ...], ...] = (
    ("RPOP", "autotrainer:control"),
    ("LRANGE", "autotrainer:control", "0", "-1"),
    ("LTRIM", "autotrainer:control", "1", "0"),
    ("DEL", "autotrainer:control"),
    ("BRPOP", "autotrainer:control", "1"),
    ("RENAME", "autotrainer:control", "autotrainer:host:gpu-a:x"),
    ("LPUSH", "autotrainer:host.gpu-b", "x"),
    ("RPOP", "autotrainer:host.gpu-b"),
    ("DEL", "autotrainer:host.gpu-ab"),
    ("LPUSH", "autotrainer:host.gpu-ab\x06\x163", "x"),
    ("GET", "autotrainer:host:gpu-b:beat"),
    ("SET", "autotrainer:host:gpu-b:beat", "x"),
    ("XADD", "autotrainer:host:gpu-b:reports", "*", "e", "x"),
    ("XADD", "autotrainer:host:gpu-ab:logs", "*", "e", "x"),
    ("DEL", "autotrainer:host:gpu-b:claims"),
    ("EVAL", "return redis.call('DEL', 'autotrainer:host:gpu-b:claims')", "0"),
    ("EVAL", "return redis.call('DEL', KEYS[1])", "1", "autotrainer:control"),
    ("DEL", "autotrainer:unacked"),
    ("SET", "autotrainer:since", "x"),
    ("XADD", "autotrainer:wake", "*", "w", "x"),
    ("SET", "autotrainer:content:x", "x"),
    ("SET", "somebody-elses", "x"),
    ("PUBLISH", "autotrainer:elsewhere", "x"),
    *(("FLUSHALL",), ("FLUSHDB",), ("KEYS", "*"), ("SCAN", "0"), ("CONFIG", "GET", "*"), ("CONFIG", "SET", "save", "")),
    *(("ACL", "LIST"), ("SHUTDOWN",), ("CLIENT", "KILL", "TYPE", "normal"), ("SCRIPT", "FLUSH"), ("MONITOR",)),
    *(("SAVE",), ("SWAPDB", "0", "1"), ("FUNCTION", "FLUSH"), ("REPLICAOF", "NO", "ONE"), ("MODULE", "LIST")),
)


@pytest.mark.parametrize("words", FORBIDDEN, ids=" ".join)
def test_user_of_a_host_may_not(words: tuple[str, ...], shared: str) -> None:
    with client(as_user(shared, redisacl.host_user(HOST))) as host, pytest.raises(redis.ResponseError, match=r"permissions|can't"):
        host.execute_command(*words)


@pytest.mark.parametrize(
    "words", [("FLUSHALL",), ("CONFIG", "SET", "save", ""), ("SET", "somebody-elses", "x"), ("SHUTDOWN",), ("ACL", "LIST")]
)
def test_user_of_the_control_plane_may_not(words: tuple[str, ...], shared: str) -> None:
    with client(as_user(shared, redisacl.CONTROL_USER)) as control, pytest.raises(redis.exceptions.NoPermissionError):
        control.execute_command(*words)


def test_user_of_a_host_knocks_and_reads_what_is_laid_out_for_all(shared: str) -> None:
    with client(as_user(shared, redisacl.host_user("gpu-b"))) as host, client(as_user(shared, redisacl.CONTROL_USER)) as control:
        control.set("autotrainer:content:abc", "x")
        assert host.get("autotrainer:content:abc") == "x"
        assert host.lpush("autotrainer:control", "x")
        control.delete("autotrainer:control", "autotrainer:content:abc")


@pytest.mark.parametrize("url", ["", ":wrong@", "autotrainer-gpu-a:wrong@", "autotrainer-gpu-c:x@"])
def test_nobody_else_comes_in(url: str, shared: str) -> None:
    with client(shared.replace("//", f"//{url}")) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_both_passwords_are_good_while_the_cluster_key_is_replaced() -> None:
    (line,) = [line for line in redisacl.lines([b"new", CLUSTER_KEY], {"gpu-a": (0,)}) if "autotrainer-gpu-a" in line]
    assert line.count("#") == 2
    assert redisacl.password(b"new", "autotrainer-gpu-a") not in line  # the file holds no passwords


# --- the commands -----------------------------------------------------------------------------------------------------------


def said(name: str, *arguments: str) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    call_command(name, *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_file_has_a_user_for_each_host_and_says_what_to_do(transactional_db: None, settings: Any, tmp_path: Path) -> None:
    HostRow.objects.bulk_create(HostRow(name=name) for name in HOSTS)
    settings.AUTOTRAINER = replace(settings.AUTOTRAINER, redis_url="redis://:p@10.0.0.5:6379/3", redis_embedded=False)
    out, err = said("redis_acl")
    assert [line.split()[1] for line in out.splitlines()] == ["default", "autotrainer", *(f"autotrainer-{name}" for name in HOSTS)]
    assert "&autotrainer:/3.celery.pidbox" in out
    told = next(word for line in err.splitlines() for word in line.split() if word.startswith("AUTOTRAINER_REDIS_URL="))
    settings.AUTOTRAINER = replace(settings.AUTOTRAINER, redis_url=told.partition("=")[2])
    path = tmp_path / "users.acl"
    assert said("redis_acl", "--out", str(path)) == ("", "")
    assert (path.read_text(), path.stat().st_mode & 0o777) == (out, 0o640)
    joined, _ = said("join", "gpu-b")
    assert f"AUTOTRAINER_REDIS_URL={redisacl.url_of('redis://10.0.0.5:6379/3', settings.CLUSTER_KEY, 'autotrainer-gpu-b')}\n" in joined
    with pytest.raises(SystemExit, match="cannot be written"):
        said("redis_acl", "--out", str(tmp_path / "none" / "users.acl"))


def test_embedded_redis_needs_no_users(transactional_db: None) -> None:
    with pytest.raises(SystemExit, match="private unix socket"):
        said("redis_acl")


# --- TLS --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """(certificate, key) for 127.0.0.1, signed by itself."""
    openssl = shutil.which("openssl")
    if not openssl:
        missing("openssl")
    made, key = tmp_path / "redis.pem", tmp_path / "redis.key"
    command = [str(openssl), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=redis", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made, key


def test_agent_works_over_tls_and_believes_no_other_certificate(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    made, key = certificate
    options = ["--port", "0", "--tls-port", "{port}", "--tls-cert-file", str(made), "--tls-key-file", str(key), "--tls-auth-clients", "no"]
    try:
        running = server(tmp_path, *options, "--requirepass", "secret", url="rediss://:secret@127.0.0.1:{}/0".format)
        with running as url:
            trusted = f"{url}?ssl_ca_certs={made}"
            with redis.Redis.from_url(url) as stranger, pytest.raises(redis.ConnectionError, match="certificate"):
                stranger.ping()
            host = Host(trusted, tmp_path)
            try:
                host.start()
                spec = host.offer(host.spec("echo over tls"))
                assert host.report(Ended, spec).exit_code == 0
                host.stop(spec)
                assert host.app.control.inspect(timeout=2, destination=[protocol.node_name(HOST)]).ping()
            finally:
                host.close()
    except AssertionError:
        if b"tls-port" in (tmp_path / "redis.log").read_bytes():
            missing("a Redis that was built with TLS")
        raise


@pytest.mark.parametrize(
    "url",
    ["redis://h/0?ssl_ca_certs=/x", "rediss://h/0?ssl_ca_certs=/not/there.pem", "rediss://h/0?ssl_cert_reqs=none", "rediss://h/0?db=3"],
)
def test_address_with_other_options_is_refused(url: str) -> None:
    with pytest.raises(BadSetting, match="AUTOTRAINER_REDIS_URL"):
        load({"AUTOTRAINER_REDIS_URL": url})


# --- what nobody should work with -------------------------------------------------------------------------------------------

OPEN = {"bind": "* -::*", "port": "6379", "tls-port": "0", "protected-mode": "no"}


@pytest.mark.parametrize(
    ("url", "configuration", "refused"),
    [
        ("redis://127.0.0.1:6379/0", OPEN, True),
        ("redis://localhost", OPEN | {"bind": "127.0.0.1 10.0.0.5"}, True),
        ("redis://localhost", OPEN | {"bind": ""}, True),
        ("unix:///run/redis.sock", OPEN, True),
        ("redis://10.0.0.5:6379/0", {}, True),
        ("redis://redis.lab/0", OPEN | {"bind": "127.0.0.1"}, True),
        ("rediss://redis.lab/0", {}, True),
        ("redis://127.0.0.1:6379/0", OPEN | {"bind": "127.0.0.1 -::1"}, False),
        ("redis://127.0.0.1:6379/0", OPEN | {"protected-mode": "yes"}, False),
        ("redis://127.0.0.1:6379/0", {}, False),
        ("redis://[::1]:6379/0", {}, False),
        ("unix:///run/redis.sock", OPEN | {"port": "0"}, False),
    ],
)
def test_redis_that_lets_everybody_in_is_known(url: str, configuration: dict[str, str], *, refused: bool) -> None:
    assert redischeck.is_open(url, configuration) is refused


def test_services_do_not_start_with_a_redis_that_lets_everybody_in(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redischeck, "_configuration", lambda client: OPEN)
    with redis.Redis() as nobody:
        redischeck.refuse_open(nobody, load({"AUTOTRAINER_REDIS_URL": "redis://:p@10.0.0.5:6379/0"}))
    ours = load({"AUTOTRAINER_REDIS_URL": redis_url})
    with pytest.raises(BadSetting, match="AUTOTRAINER_REDIS_OPEN"):
        prepare.look_at_redis(ours)
    assert prepare.look_at_redis(load({"AUTOTRAINER_REDIS_URL": redis_url, "AUTOTRAINER_REDIS_OPEN": "true"}))


def test_what_redis_would_lose_is_told(tmp_path: Path) -> None:
    with server(tmp_path, "--port", "{port}") as url, client(url) as asked:
        ours = load({"AUTOTRAINER_REDIS_URL": url})
        (told,) = prepare.look_at_redis(ours)
        assert "keeps nothing when it is restarted: set appendonly yes" in told
        asked.config_set("appendonly", "yes")
        assert prepare.look_at_redis(ours) == []
        asked.config_set("maxmemory-policy", "allkeys-lru")
        assert prepare.look_at_redis(ours) == []  # without a limit nothing is evicted
        asked.config_set("maxmemory", "100mb")
        assert "set maxmemory-policy noeviction" in prepare.look_at_redis(ours)[0]
    (told,) = prepare.look_at_redis(ours)
    assert "does not answer yet" in told
    assert prepare.look_at_redis(load({})) == []
