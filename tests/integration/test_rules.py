"""The operators' rules on their way to a host, and what of them holds there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuworker import protocol
from gpuworker.devices.usage import Rule
from gpuworker.link import Link, connect
from gpuworker.protocol import IgnoredProcess, Kind, Rules
from gpuworker.rules import HostRules
from gpuworker.shim import processes
from tests.integration.host import HOST, KEY


@pytest.fixture
def link(redis_url: str) -> Iterator[Link]:
    link = connect(redis_url, host=HOST, key=KEY)
    yield link
    link.client.close()


class Applied(list[Rule]):
    def __call__(self, rule: Rule) -> None:
        self.append(rule)


def put(link: Link, rules: Rules, *, key: bytes = KEY, host: str = HOST) -> None:
    link.client.set(protocol.rules_key(HOST), protocol.seal(Kind.RULES, host, rules.body(), key))


def test_host_goes_by_new_rules_and_keeps_them_over_its_own_restart_and_without_redis(link: Link, tmp_path: Path) -> None:
    applied = Applied()
    rules = HostRules(link, tmp_path / "rules", applied)
    rules.read()
    assert (applied, rules.serial) == ([], 0)
    ignored = tuple(IgnoredProcess(boot_id=boot, pid=7, start_ticks=99) for boot in (processes.boot_id(), "another boot"))
    put(link, Rules(serial=5, memory_mib=4096, idle_min=10, ignored=ignored))
    rules.read()
    rules.read()
    assert applied == [Rule(4096, 600.0, frozenset({(7, 99)}))]
    link.client.flushall()
    again = Applied()
    restarted = HostRules(link, tmp_path / "rules", again)
    restarted.read()
    assert (again, restarted.serial) == (applied, 5)


@pytest.mark.parametrize("bad", ["older", "same serial", "another key", "another host", "another kind", "no rules", "not a string", "gone"])
def test_rules_that_are_forged_older_or_missing_change_nothing(link: Link, tmp_path: Path, bad: str) -> None:
    applied = Applied()
    rules = HostRules(link, tmp_path / "rules", applied)
    put(link, Rules(serial=5, memory_mib=4096))
    rules.read()
    kept = (tmp_path / "rules").read_bytes()
    name = protocol.rules_key(HOST)
    link.client.delete(name)
    match bad:
        case "older":
            put(link, Rules(serial=4, memory_mib=1))
        case "same serial":
            put(link, Rules(serial=5, memory_mib=1))
        case "another key":
            put(link, Rules(serial=6, memory_mib=1), key=b"another")
        case "another host":
            put(link, Rules(serial=6, memory_mib=1), host="gpu-b")
        case "another kind":
            link.client.set(name, protocol.seal(Kind.CANARY, HOST, Rules(serial=6).body(), KEY))
        case "no rules":
            link.client.set(name, protocol.seal(Kind.RULES, HOST, {"serial": "six"}, KEY))
        case "not a string":
            link.client.lpush(name, "x")
    rules.read()
    assert (len(applied), rules.serial) == (1, 5)
    assert (tmp_path / "rules").read_bytes() == kept


def test_rules_on_disk_that_cannot_be_opened_are_no_rules(link: Link, tmp_path: Path) -> None:
    (tmp_path / "rules").write_bytes(b"half a file")
    applied = Applied()
    assert HostRules(link, tmp_path / "rules", applied).serial == 0
    assert applied == []
