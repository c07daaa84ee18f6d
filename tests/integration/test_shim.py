"""The shim with real commands: how they end, what ends with them, what is on record when something is killed."""

from __future__ import annotations

import fcntl
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuworker import contacts
from gpuworker.attempts import AttemptState
from gpuworker.protocol import EndReason
from gpuworker.shim import contact, locks, processes
from tests.integration.launching import (
    GPU_0,
    GPU_1,
    Lab,
    a_lab,
    connected,
    end_without_shim,
    ended,
    kill,
    living,
    pids_in,
    running,
    shim_pid,
)
from tests.waiting import wait_until

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with a_lab() as made:
        yield made


# --- how a command ends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code", "signum"),
    [
        ("true", 0, None),
        ("exit 3", 3, None),
        ("no-such-command-here", 127, None),
        ("bash -c 'kill -9 $$'; exit $?", 137, None),
        ("kill -SEGV $$", None, signal.SIGSEGV),
        ("kill -TERM $$", None, signal.SIGTERM),
        ("exit 255", 255, None),
    ],
)
def test_exit_record_tells_code_or_signal(lab, command, code, signum):
    record, _ = lab.run(command)
    assert (record["reason"], record["exit_code"], record["signal"], record["own_fault"]) == ("exited", code, signum, True)
    assert record["started_at"] <= record["ended_at"] <= time.time()


def test_command_that_does_not_exist_leaves_the_shells_words_in_the_log(lab):
    _, log = lab.run("no-such-command-here")
    assert "no-such-command-here: command not found" in log


def test_events_come_in_order_and_end_with_done(lab):
    attempt = lab.launch("sleep 0.2; exit 4")
    with connected(attempt) as client:
        events = list(client.events())
    assert [event["event"] for event in events if event["event"] != "started"] == ["state", "exited", "done"]
    assert events[-2]["exit_code"] == 4
    assert attempt.record("started.json")["started_at"] == events[-2]["started_at"]


def test_working_directory_that_is_missing_is_the_jobs_fault_and_named(lab):
    attempt = lab.launch("true", GPU_0, working_dir="/no/such/place")
    record = ended(attempt)
    assert (record["reason"], record["own_fault"], record["started_at"]) == ("launch_failed", True, None)
    assert "/no/such/place" in record["message"]
    assert attempt.record("started.json") is None


@pytest.mark.parametrize("command", ["true # \0", "true " + "x" * 200_000], ids=["a NUL byte", "too long"])
def test_command_that_cannot_be_executed_is_the_jobs_fault(lab, command):
    record, _ = lab.run(command)
    assert (record["reason"], record["own_fault"]) == ("launch_failed", True)


def test_shell_that_has_gone_is_the_hosts_fault(lab):
    spec = lab.spec("true")
    object.__setattr__(lab.settings, "shell", "/gone/bash")
    record = ended(lab.launcher.launch(spec, []).attempt)
    assert (record["reason"], record["own_fault"]) == ("launch_failed", False)
    assert "/gone/bash" in record["message"]


def test_environment_without_bin_is_the_jobs_fault(lab):
    record, _ = lab.run("true", environment="/no/such/venv")
    assert (record["reason"], record["own_fault"]) == ("launch_failed", True)
    assert "/no/such/venv" in record["message"]


# --- what the command finds ---------------------------------------------------------------------------------------------


def test_command_starts_with_plain_signals_empty_stdin_and_a_session_of_its_own(lab):
    _, log = lab.run("grep -E 'Sig(Ign|Blk)|ShdPnd' /proc/self/status; cat; ps -o sid= -p $$; echo $$; pwd")
    status, sid, pid, folder = log.splitlines()[:-3], *log.splitlines()[-3:]
    assert [int(line.split()[1], 16) for line in status] == [0] * len(status)
    assert sid.strip() == pid
    assert folder == str(lab.home)


def test_command_inherits_nothing_but_its_log_and_its_locks(lab):
    _, log = lab.run("ls -l /proc/$$/fd | awk 'NR>1 {print $NF}'", GPU_0)
    files = [line for line in log.splitlines() if not line.startswith(("/dev/null", "pipe:"))]
    assert sorted(os.path.basename(f) for f in files) == ["autotrainer-GPU-aa.lock", "output.log", "output.log"]


def test_log_holds_every_byte_in_order(lab):
    attempt = lab.launch("for i in $(seq 2000); do echo out $i; echo err $i >&2; done; head -c 3000000 /dev/zero")
    ended(attempt)
    expected = "".join(f"out {i}\nerr {i}\n" for i in range(1, 2001)).encode() + bytes(3_000_000)
    assert attempt.log_path.read_bytes() == expected


def test_log_goes_on_without_a_hole_when_the_command_truncates_it(lab):
    """`> /dev/stderr` opens the file itself and empties it: the kernel gives no way to keep that from happening."""
    _, log = lab.run("echo before; echo x > /dev/stderr; echo after; echo more >&2")
    assert log == "x\nafter\nmore\n"


# --- ending a tree ------------------------------------------------------------------------------------------------------


def test_time_limit_ends_the_command(lab):
    started = time.monotonic()
    record, log = lab.run("echo up; sleep 60", time_limit_s=0.5)
    assert (record["reason"], record["signal"], record["exit_code"]) == ("timed_out", signal.SIGTERM, None)
    assert "0.5 s" in record["message"]
    assert log == "up\n"
    assert 0.5 <= time.monotonic() - started < 5


def test_training_without_contact_is_gone_in_time_and_one_with_contact_lives(lab):
    """TERM a grace before its time, and KILL at it: by the clock that goes on while the machine sleeps."""
    file = lab.settings.host_home / "contact"
    file.parent.mkdir(parents=True, exist_ok=True)
    contacts.note(file, contacts.now_s())
    command = "trap 'echo asked to end' TERM; while :; do sleep 0.05; done"
    attempt = lab.launch(command, gone_after_s=3.0, kill_grace_s=1.0)
    began = contacts.now_s()
    wait_until(lambda: contacts.now_s() - began > 1.5, 10)
    last = contacts.now_s()
    contacts.note(file, last)
    record = ended(attempt)
    assert (record["reason"], record["signal"]) == ("host_lost", signal.SIGKILL)
    assert 1.9 < contacts.now_s() - last < 6.0
    assert "asked to end" in attempt.log_path.read_text()
    assert "no contact" in record["message"]


def test_training_that_may_start_elsewhere_never_starts_on_a_host_without_contact(lab):
    file = lab.settings.host_home / "contact"
    file.parent.mkdir(parents=True, exist_ok=True)
    contacts.note(file, contacts.now_s() - 60)
    record, log = lab.run("echo ran", gone_after_s=30.0)
    assert (record["reason"], record["started_at"], log) == ("host_lost", None, "")


def test_contact_of_another_boot_or_torn_is_none(lab):
    file = lab.home / "contact"
    assert contact.read(str(file)) == -math.inf
    contacts.note(file, 12.5)
    assert contact.read(str(file)) == 12.5
    for text in (b"another-boot 00000000000000000012.500\n", b"\xff\0 torn", b""):
        file.write_bytes(text)
        assert contact.read(str(file)) == -math.inf


def test_command_that_ends_within_its_time_limit_is_not_touched(lab):
    record, _ = lab.run("sleep 0.1", time_limit_s=30)
    assert (record["reason"], record["exit_code"]) == ("exited", 0)


def test_limits_and_graces_beyond_all_clocks_do_no_harm(lab):
    attempt = lab.launch("sleep 60", time_limit_s=1e12, kill_grace_s=1e12)
    with connected(attempt) as client:
        running(attempt)
        client.stop(EndReason.CANCELLED, float("inf"))
        client.stop(EndReason.CANCELLED, float("nan"))
        client.stop(EndReason.CANCELLED, -1)
    assert ended(attempt)["signal"] == signal.SIGTERM
    assert (lab.settings.host_home / "shim.log").read_text() == ""


@pytest.mark.parametrize(("kind", "count"), [("stubborn", 1), ("own_session", 2), ("escaped", 2)])
def test_cancel_leaves_nobody_of_a_family(lab, kind, count):
    attempt, file = lab.family(kind, kill_grace_s=30)
    pids = pids_in(file, count)
    with connected(attempt) as client:
        assert client.stop(EndReason.CANCELLED, 0.3)
    record = ended(attempt)
    assert record["reason"] == "cancelled"
    assert living(pids) == []


def test_cancel_gives_the_grace_and_records_the_exit_code(lab):
    attempt, file = lab.family("saves")
    pids_in(file, 1)
    with connected(attempt) as client:
        client.stop(EndReason.CANCELLED, 20)
    record = ended(attempt)
    assert (record["reason"], record["exit_code"], record["signal"]) == ("cancelled", 0, None)
    assert attempt.log_path.read_text() == "saved\n"


def test_cancel_wakes_a_stopped_command_so_that_it_can_end_within_the_grace(lab):
    attempt, file = lab.family("stopped")
    pids_in(file, 1)
    with connected(attempt) as client:
        client.stop(EndReason.CANCELLED, 60)
    assert ended(attempt)["signal"] == signal.SIGTERM


def test_second_stop_shortens_the_grace_of_the_first(lab):
    attempt, file = lab.family("stubborn")
    pids_in(file, 1)
    with connected(attempt) as client:
        client.stop(EndReason.CANCELLED, 600)
        client.stop(EndReason.CANCELLED, 0.1)
    assert ended(attempt)["signal"] == signal.SIGKILL


def test_what_a_command_leaves_running_is_ended_after_its_exit_is_on_record(lab):
    attempt, file = lab.family("left_behind", kill_grace_s=1)
    pids = pids_in(file, 1)
    wait_until(lambda: attempt.record("exit.json"), 5, "exit.json")
    assert attempt.state() is AttemptState.ENDING
    record = ended(attempt)
    assert (record["reason"], record["exit_code"]) == ("exited", 3)
    assert living(pids) == []


def test_stop_before_go_never_lets_the_command_run(lab):
    """The shim is held up at a taken lock; the stop comes meanwhile."""
    mark = lab.home / "ran"
    held = locks.take_all([locks.lock_path(lab.lock_folder, GPU_0.uuid)])
    attempt = lab.launch(f"touch {mark}", GPU_0)
    with connected(attempt) as client:
        client.stop(EndReason.CANCELLED, 5)
        locks.drop(held)
        events = [event["event"] for event in client.events()]
    record = ended(attempt)
    assert (record["reason"], record["exit_code"], record["started_at"]) == ("cancelled", None, None)
    assert not mark.exists()
    assert events == ["state", "exited", "done"]


def test_stop_that_makes_no_sense_is_passed_over(lab):
    attempt = lab.launch("sleep 0.5; exit 5")
    folder = os.open(attempt.path, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"/proc/self/fd/{folder}/control.sock")
        client.sendall(b'\xff\xfe\n[]\n{"do":"dance"}\n{"do":\n' + b"[" * 50_000 + b"\n")
        assert ended(attempt)["exit_code"] == 5
    os.close(folder)


def test_client_that_never_reads_does_not_hold_the_shim_up(lab):
    attempt = lab.launch("sleep 0.4")
    silent = [connected(attempt) for _ in range(40)]
    assert ended(attempt)["exit_code"] == 0
    for client in silent:
        client.close()


# --- device locks -------------------------------------------------------------------------------------------------------


def test_taken_device_lock_refuses_and_starts_nothing(lab):
    held = locks.take_all([locks.lock_path(lab.lock_folder, GPU_1.uuid)])
    attempt = lab.launch("true", GPU_0, GPU_1)
    with connected(attempt) as client:
        events = list(client.events())
    assert [event["event"] for event in events] == ["state", "refused", "done"]
    assert attempt.record("refused.json")["code"] == "device_busy"
    assert attempt.state() is AttemptState.REFUSED
    assert attempt.record("started.json") is None
    locks.drop(held)
    assert attempt.locks_free()


def test_device_locks_are_held_while_the_command_runs_and_free_after(lab):
    attempt = lab.launch("sleep 0.5", GPU_1, GPU_0)
    wait_until(lambda: attempt.record("started.json"), 5, "it runs")
    assert not attempt.locks_free()
    ended(attempt)
    assert attempt.locks_free()
    assert os.stat(locks.lock_path(lab.lock_folder, "GPU-aa")).st_mode & 0o777 == 0o666


def test_lock_that_is_a_link_to_somewhere_is_not_followed(lab):
    target = lab.home / "victim"
    os.symlink(target, locks.lock_path(lab.lock_folder, GPU_0.uuid))
    record, _ = lab.run("true", GPU_0)
    assert (record["reason"], record["own_fault"]) == ("launch_failed", False)
    assert not target.exists()


def test_lock_waits_for_a_probe_to_pass(lab):
    path = locks.lock_path(lab.lock_folder, GPU_0.uuid)
    held = locks.take_all([path])
    attempt = lab.launch("true", GPU_0)
    locks.drop(held)
    assert ended(attempt)["exit_code"] == 0


# --- kill -9 ------------------------------------------------------------------------------------------------------------


def test_training_keeps_its_locks_when_the_shim_is_killed(lab):
    gate = lab.home / "gate"
    attempt = lab.launch(f"while [ ! -e {gate} ]; do sleep 0.05; done; echo end", GPU_0)
    running(attempt)
    kill(shim_pid(attempt))
    assert attempt.state() is AttemptState.ABANDONED
    assert attempt.connect() is None
    assert not attempt.locks_free()
    assert processes.tree(attempt.key)
    gate.touch()
    wait_until(lambda: not attempt.tree() and attempt.locks_free(), 5, "the training has ended")
    assert attempt.log_path.read_text() == "end\n"
    assert attempt.record("exit.json") is None


def test_tree_of_a_dead_shim_is_found_by_session_where_the_mark_is_gone(lab):
    attempt = lab.launch("env -i sleep 60 & echo up; exec env -i sleep 60")
    wait_until(lambda: attempt.log_path.exists() and attempt.log_path.read_text() == "up\n", 5, "it runs")
    wait_until(lambda: not processes.marked(attempt.key, processes.table()), 5, "nobody carries the mark")
    kill(shim_pid(attempt))
    assert len(attempt.tree()) == 2
    end_without_shim(attempt)
    assert attempt.tree() == []


def test_command_never_runs_when_the_shim_is_killed_before_go(lab):
    mark = lab.home / "ran"
    held = locks.take_all([locks.lock_path(lab.lock_folder, GPU_0.uuid)])
    attempt = lab.launch(f"touch {mark}", GPU_0)
    kill(shim_pid(attempt))
    locks.drop(held)
    assert attempt.state() is AttemptState.ABANDONED
    assert attempt.record("started.json") is None
    assert not mark.exists()


def test_child_that_waits_for_go_ends_when_the_shim_is_killed(tmp_path):
    launch = {"shell": "/bin/sh", "command": f"touch {tmp_path}/ran", "env": {}}
    code = (
        "import os, signal\n"
        "from gpuworker.shim.command import Command\n"
        f"print(Command({launch!r}, 1, []).pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    shim = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, stdout=subprocess.PIPE, check=False, timeout=10)
    wait_until(lambda: living([int(shim.stdout)]) == [], 5, "the child has ended")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_shim_outlives_signals_that_are_meant_for_services(lab, signum):
    attempt = lab.launch("sleep 0.5; exit 6")
    os.kill(shim_pid(attempt), signum)
    assert ended(attempt)["exit_code"] == 6


# --- odds and ends ------------------------------------------------------------------------------------------------------


def test_attempt_works_below_a_home_of_any_length():
    deep = Path(os.path.realpath("/tmp")) / f"at-deep-{os.getpid()}" / ("long" * 40) / "häuser" / ("x" * 100)
    try:
        with a_lab(deep) as lab:
            attempt = lab.launch("sleep 60")
            with connected(attempt) as client:
                client.stop(EndReason.CANCELLED, 1)
            assert ended(attempt)["reason"] == "cancelled"
    finally:
        shutil.rmtree(deep.parents[2], ignore_errors=True)


def test_exit_record_is_written_as_soon_as_it_can_be(lab):
    """Something is in its way (a full disk, most likely): the code is not lost, and told to who listens at once."""
    attempt = lab.launch("sleep 0.3; exit 7")
    obstacle = attempt.path / "exit.json"
    obstacle.mkdir()
    with connected(attempt) as client:
        told = next(event for event in client.events() if event["event"] == "exited")
        assert told["exit_code"] == 7
        assert "exit.json" in (lab.settings.host_home / "shim.log").read_text()
        obstacle.rmdir()
        assert next(client.events()) == {"event": "done"}
    assert ended(attempt)["exit_code"] == 7


def test_lock_file_that_was_replaced_is_not_believed(tmp_path):
    path = locks.lock_path(tmp_path, "GPU-x")
    held = locks.take_all([path])
    os.unlink(path)
    again = locks.take_all([path])
    assert os.fstat(again[0]).st_ino == os.stat(path).st_ino
    with open(path) as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    locks.drop(held)
    locks.drop(again)
