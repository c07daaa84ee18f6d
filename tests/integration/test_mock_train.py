"""The sample training as a person runs it; on this machine, so without a GPU."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from tests.waiting import wait_until

SCRIPT = Path(__file__).resolve().parents[2] / "mock_train.py"


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AUTOTRAINER_", "CUDA_"))}
    return kept | more


def run(folder: Path, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", str(SCRIPT), *args], cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=60
    )


def pixels(path: Path) -> tuple[int, int, bytes]:
    """Width, height and RGB bytes; checks every chunk's checksum."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    raw = zlib.decompress(chunks[b"IDAT"])
    stride = 3 * width + 1
    assert len(raw) == stride * height
    return width, height, b"".join(raw[y * stride + 1 : (y + 1) * stride] for y in range(height))


def yellow_pixels(path: Path) -> int:
    _, _, rgb = pixels(path)
    return sum(rgb[i : i + 3] == b"\xff\xff\x00" for i in range(0, len(rgb), 3))


def test_training_prints_its_name_its_mask_and_epochs_and_leaves_the_picture(tmp_path: Path) -> None:
    done = run(tmp_path, "--name", "Mock_Test_V1", "--mode", "normal", "--mem", "2.0", "--seconds", "0.3", CUDA_VISIBLE_DEVICES="3")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Task Name: Mock_Test_V1\n" in done.stdout
    assert "CUDA_VISIBLE_DEVICES: 3\n" in done.stdout
    assert re.search(r"Epoch 10/10 \| Loss: \d\.\d{4} \| Val loss: \d\.\d{4} *\n", done.stdout)
    assert f"Result: {tmp_path}/result_Mock_Test_V1.png\n" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["result_Mock_Test_V1.png"]
    assert pixels(tmp_path / "result_Mock_Test_V1.png")[:2] == (960, 540)
    assert yellow_pixels(tmp_path / "result_Mock_Test_V1.png") > 500


def test_training_draws_its_bar_over_itself(tmp_path: Path) -> None:
    raw = subprocess.run(
        [sys.executable, str(SCRIPT), "--name", "x", "--epochs", "1", "--seconds", "0"],
        cwd=tmp_path,
        env=environment(PYTHONIOENCODING="utf-8"),
        capture_output=True,
        timeout=60,
    ).stdout
    assert raw.count(b"\r") >= 6
    assert "Epoch 1/1: 100%|████".encode() in raw


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a/../b\\c", "result_a_.._b_c.png"),
        ("/etc/passwd", "result__etc_passwd.png"),
        ("第一次训练 run", "result_第一次训练 run.png"),
        ("tab\there", "result_tab_here.png"),
        ("n" * 300, "result_" + "n" * 200 + ".png"),
        ("训" * 100, "result_" + "训" * 66 + ".png"),
        ("", "result_.png"),
    ],
)
def test_picture_stays_in_the_working_directory_whatever_the_name(tmp_path: Path, name: str, file: str) -> None:
    assert run(tmp_path, "--name", name, "--seconds", "0", "--epochs", "2").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == [file]
    assert pixels(tmp_path / file)[0] == 960


def test_output_that_cannot_show_the_name_is_no_reason_to_fail(tmp_path: Path) -> None:
    done = run(tmp_path, "--name", "训", "--seconds", "0", "--epochs", "1")
    ascii_only = subprocess.run(
        [sys.executable, str(SCRIPT), "--name", "训", "--seconds", "0", "--epochs", "1"],
        cwd=tmp_path,
        env=environment(PYTHONIOENCODING="ascii"),
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, ascii_only.returncode) == (0, 0)
    assert b"Task Name: \\u8bad" in ascii_only.stdout


def test_training_out_of_memory_prints_what_pytorch_prints(tmp_path: Path) -> None:
    done = run(tmp_path, "--name", "x", "--mode", "oom", "--mem", "2", "--seconds", "0.1")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert "\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB." in done.stderr
    assert "Epoch 3/10 | Loss" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_training_in_error_exits_with_one_and_says_nothing_of_memory(tmp_path: Path) -> None:
    done = run(tmp_path, "--name", "x", "--mode", "error", "--seconds", "0.1")
    assert done.returncode == 1
    assert "ValueError: The loss is not finite" in done.stderr
    assert "memory" not in (done.stdout + done.stderr).lower()


def test_training_takes_the_time_that_it_is_given(tmp_path: Path) -> None:
    done = run(tmp_path, "--name", "x", "--seconds", "1.2", "--epochs", "3")
    assert "[00:01, loss=" in done.stdout


@pytest.mark.parametrize("wrong", [["--epochs", "0"], ["--epochs", "x"], ["--mem", "-1"], ["--seconds", "nan"], ["--mode", "fast"]])
def test_argument_that_makes_no_sense_is_a_usage_error(tmp_path: Path, wrong: list[str]) -> None:
    assert run(tmp_path, "--name", "x", *wrong).returncode == 2


def test_training_tells_its_load_and_takes_it_back_when_it_is_terminated(tmp_path: Path) -> None:
    sim = tmp_path / "sim"
    sim.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "--name", "x", "--mem", "2", "--seconds", "60"],
        cwd=tmp_path,
        env=environment(AUTOTRAINER_SIM_DIR=str(sim)),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until((sim / str(process.pid)).exists, 20, "the load file")
        memory, percent = (sim / str(process.pid)).read_text().split()
        assert 1000 < int(memory) <= 2048
        assert 70 <= int(percent) <= 100
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 143
    assert out.endswith("SIGTERM received: stopping.\n")
    assert list(sim.iterdir()) == []


def test_training_goes_on_where_its_load_cannot_be_told(tmp_path: Path) -> None:
    assert run(tmp_path, "--name", "x", "--seconds", "0", AUTOTRAINER_SIM_DIR="/nowhere/at/all").returncode == 0


def test_script_needs_nothing_but_the_standard_library() -> None:
    imported = re.findall(r"^(?:import|from) (\w+)", SCRIPT.read_text(), re.MULTILINE)
    assert set(imported) <= set(sys.stdlib_module_names)
