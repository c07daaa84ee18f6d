"""NVML as it is on this machine. Skipped where it finds no device; in processes of their own, away from the stub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from gpuworker import settings

pytestmark = pytest.mark.gpu

READ = """
    import dataclasses, json, sys, time
    from gpuworker import devices, settings
    from gpuworker.inventory import Inventory
    config = settings.load()
    inventory = Inventory(devices.make_backend(config), config)
    inventory.refresh()
    begin = time.process_time()
    for _ in range(10):
        snapshot = inventory.refresh()
    print(json.dumps({
        "source": inventory.backend.source,
        "error": snapshot.error,
        "devices": [dataclasses.asdict(device) for device in snapshot.devices],
        "masks": {device.uuid: inventory.backend.mask_token(device.uuid) for device in snapshot.devices},
        "look": inventory.look([device.uuid for device in snapshot.devices]),
        "cpu_s": (time.process_time() - begin) / 10,
    }))
"""


def read(home: Path, devices: str = "auto") -> dict[str, Any]:
    environment = {**os.environ, "AUTOTRAINER_HOME": str(home), "AUTOTRAINER_DEVICES": devices}
    command = [sys.executable, "-c", textwrap.dedent(READ)]
    done = subprocess.run(command, cwd=settings.CHECKOUT, env=environment, capture_output=True, text=True, timeout=60, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    answer = read(tmp_path_factory.mktemp("home"))
    if answer["source"] != "nvml" or not answer["devices"]:
        pytest.skip(f"NVML finds no device here ({answer['error'] or answer['source']})")
    return answer


def test_real_devices_say_who_they_are_and_what_they_do(told: dict[str, Any]) -> None:
    assert told["error"] == ""
    for device in told["devices"]:
        assert device["error"] == ""
        assert device["uuid"].startswith(("GPU-", "MIG-"))
        assert device["name"].startswith("NVIDIA")
        assert device["memory_total_mib"] > 1000
        assert 0 <= device["memory_used_mib"] <= device["memory_total_mib"]
        assert not device["simulated"]
        if not device["parent"]:
            assert 0 <= device["utilization_pct"] <= 100
            assert 10 <= device["temperature_c"] <= 110
            assert 1 <= device["power_w"] <= 2000


def test_real_masks_are_indices_for_cards_and_uuids_for_slices(told: dict[str, Any]) -> None:
    for device in told["devices"]:
        assert told["masks"][device["uuid"]] == (device["uuid"] if device["parent"] else str(device["index"]))


def test_real_devices_agree_with_nvidia_smi(told: dict[str, Any]) -> None:
    try:
        command = ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
        rows = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nvidia-smi is missing")
    cards = [device for device in told["devices"] if not device["parent"]]
    assert [row.split(", ")[:2] for row in rows] == [[str(card["index"]), card["uuid"]] for card in cards]


def test_real_refresh_is_cheap(told: dict[str, Any]) -> None:
    assert told["cpu_s"] < 0.02 * len(told["devices"])


HOLD = """
    import sys, torch
    held = torch.ones(2 * 2**30, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    print("holding", flush=True)
    sys.stdin.read()
"""


def test_real_process_outside_the_queue_makes_its_device_busy(told: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    uuid = next(device["uuid"] for device in told["devices"] if device["allocatable"])
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": uuid}
    command = [sys.executable, "-c", textwrap.dedent(HOLD)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "holding\n"
            now = read(tmp_path)
        finally:
            process.kill()
    device = next(device for device in now["devices"] if device["uuid"] == uuid)
    assert device["memory_used_mib"] >= 2048
    assert device["in_use_outside"]
    assert uuid in now["look"]
