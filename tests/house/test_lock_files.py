"""The lock files install anywhere: pinned, hashed, and with no word about where packages come from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.house.sources import CHECKOUT

LOCKS = sorted(CHECKOUT.glob("requirements*.lock"))
_PIN = re.compile(r"[A-Za-z0-9_.-]+(\[[a-z,]+\])?==[^ ]+( ; .+)? \\")


def requirements(lock: Path) -> list[str]:
    lines = [line for line in lock.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [line for line in lines if not line.startswith(" ")]


def test_lock_files_are_both_there() -> None:
    assert [lock.name for lock in LOCKS] == ["requirements-test.lock", "requirements.lock"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_lock_file_pins_everything_and_names_no_index_and_no_path(lock: Path) -> None:
    assert [line for line in requirements(lock) if not _PIN.fullmatch(line)] == []
    assert not re.search(r"--(extra-)?index-url|--find-links|--trusted-host|file:|https?://|(?m:^\s*-i\s)", lock.read_text())


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_lock_file_has_hashes_for_every_package(lock: Path) -> None:
    blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", lock.read_text())[1:]
    assert [block.split("==")[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_test_lock_agrees_with_the_runtime_lock() -> None:
    def pins(lock: str) -> dict[str, str]:
        return dict(line.split(" ")[0].split("==") for line in requirements(CHECKOUT / lock))

    tests = pins("requirements-test.lock")
    differing = {name: (version, tests.get(name)) for name, version in pins("requirements.lock").items() if tests.get(name) != version}
    assert differing == {}
