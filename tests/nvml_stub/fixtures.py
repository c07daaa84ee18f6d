"""The real pynvml over a driver of our own."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from gpuworker import devices
from tests.nvml_stub import Driver, build


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """A machine with two idle cards."""
    driver = Driver(tmp_path / "nvml_state")
    driver.tell(count=2)
    driver.card(0)
    driver.card(1)
    monkeypatch.setenv("NVML_STUB_STATE", str(driver.path))
    monkeypatch.setattr(devices, "NVML_LIBRARY", str(library))
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(library)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    yield driver
    driver.tell(drop=("hang",))
