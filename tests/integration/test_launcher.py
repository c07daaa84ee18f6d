"""The launcher with real shims: what a command finds, who may start twice, and what outlives the agent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuworker import launcher as launching
from gpuworker.attempts import AttemptDir, AttemptState, TakenDevice, all_attempts, attempts_folder
from gpuworker.launcher import Duplicate, Launched, LaunchRefused
from gpuworker.protocol import EndReason
from gpuworker.shim import processes
from tests.integration.launching import GPU_0, GPU_1, Lab, a_lab, connected, ended, kill, running, shim_pid
from tests.waiting import wait_until

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with a_lab() as made:
        yield made


def env_of(lab: Lab, *taken: TakenDevice, **changes: object) -> dict[str, str]:
    _, log = lab.run("env -0", *taken, **changes)
    return dict(entry.split("=", 1) for entry in log.split("\0") if entry)


# --- the environment ----------------------------------------------------------------------------------------------------


def test_command_finds_what_the_contract_promises(lab):
    env = env_of(lab, GPU_1, GPU_0, name="näme", number=42, attempt=3, env={"A": "1", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"})
    promised = {
        "A": "1",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "PYTHONUNBUFFERED": "1",
        "AUTOTRAINER_JOB_ID": "42",
        "AUTOTRAINER_JOB_NAME": "näme",
        "AUTOTRAINER_ATTEMPT": "3",
        "AUTOTRAINER_GPU_UUIDS": "GPU-aa,GPU-bb",
        "AUTOTRAINER_HOST": "lab",
        "AUTOTRAINER_MAIL": str(lab.settings.host_home / "attempts" / f"job-1-{lab.token}.3.1" / "mail.json"),
        "AUTOTRAINER_MARK": f"job-1-{lab.token}.3.1",
        "PWD": str(lab.home),
    }
    assert {name: env.get(name) for name in promised} == promised
    assert {name for name in env if name.startswith("AUTOTRAINER_")} == {name for name in promised if name.startswith("AUTOTRAINER_")}


def test_command_without_devices_sees_none(lab):
    assert env_of(lab)["CUDA_VISIBLE_DEVICES"] == ""


def test_command_on_a_mig_slice_gets_its_uuid(lab):
    assert env_of(lab, TakenDevice("MIG-GPU-x/7/0", 2, "MIG-GPU-x/7/0"))["CUDA_VISIBLE_DEVICES"] == "MIG-GPU-x/7/0"


def test_command_inherits_the_agents_environment_but_nothing_of_ours(lab, monkeypatch):
    secrets = ("AUTOTRAINER_HOST_KEY", "AUTOTRAINER_SERVICE", "DATABASE_URL", "EMAIL_URL", "DJANGO_SETTINGS_MODULE", "CELERY_BROKER_URL")
    for name in secrets:
        monkeypatch.setenv(name, "a secret")
    monkeypatch.setenv("LAB_DATA", "/data")
    env = env_of(lab, env={"DATABASE_URL": "the job's own"})
    assert env["LAB_DATA"] == "/data"
    assert env.pop("DATABASE_URL") == "the job's own"
    assert not env.keys() & set(secrets)


def test_products_python_stands_last_on_the_path(lab, monkeypatch):
    ours = str(launching.PRODUCT_BIN)
    monkeypatch.setenv("PATH", f"{ours}:/usr/bin:/bin")
    monkeypatch.setenv("VIRTUAL_ENV", os.path.dirname(ours))
    env = env_of(lab)
    assert env["PATH"] == f"/usr/bin:/bin:{ours}"
    assert "VIRTUAL_ENV" not in env


@pytest.mark.parametrize(("conda", "kind"), [(True, "CONDA_PREFIX"), (False, "VIRTUAL_ENV")])
def test_environment_of_a_job_comes_first_on_the_path(lab, monkeypatch, conda, kind):
    monkeypatch.setenv("VIRTUAL_ENV", "/other")
    monkeypatch.setenv("CONDA_PREFIX", "/other")
    prefix = lab.home / "env"
    for folder in ("bin", "conda-meta") if conda else ("bin",):
        (prefix / folder).mkdir(parents=True)
    env = env_of(lab, environment=str(prefix))
    assert env["PATH"].split(":")[0] == str(prefix / "bin")
    assert {name: env[name] for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if name in env} == {kind: str(prefix)}


def test_zygote_and_shim_show_themselves_and_no_secret(lab, monkeypatch):
    monkeypatch.setenv("AUTOTRAINER_HOST_KEY", "a secret")
    attempt = lab.launch("sleep 60")
    for pid in (shim_pid(attempt), lab.launcher._zygote.pid):
        assert b"gpuworker.shim" in Path(f"/proc/{pid}/cmdline").read_bytes()
        env = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert f"AUTOTRAINER_HOME={lab.home}".encode() in env
        assert not any(b"a secret" in entry for entry in env)


# --- the start token ----------------------------------------------------------------------------------------------------


def test_same_dispatch_again_is_a_silent_duplicate(lab):
    spec = lab.spec("echo once")
    first = lab.launcher.launch(spec, [])
    again = lab.launcher.launch(spec, [])
    assert isinstance(first, Launched)
    assert again == Duplicate(first.attempt)
    ended(first.attempt)
    assert isinstance(lab.launcher.launch(spec, []), Duplicate)
    assert first.attempt.log_path.read_text() == "once\n"


def test_one_of_many_threads_starts_a_dispatch(lab):
    spec = lab.spec("sleep 0.3; echo once")
    answers: list[object] = []
    threads = [threading.Thread(target=lambda: answers.append(lab.launcher.launch(spec, []))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(answer).__name__ for answer in answers) == ["Duplicate"] * 7 + ["Launched"]


def test_other_dispatch_of_a_job_is_refused_while_one_lives(lab):
    attempt = lab.launch("sleep 60", job=f"same-{lab.token}")
    refused = lab.try_to_launch("true", job=f"same-{lab.token}", attempt=2)
    assert isinstance(refused, LaunchRefused)
    assert refused.code == "job_still_here"
    assert len(all_attempts(lab.settings)) == 1
    with connected(attempt) as client:
        client.stop(EndReason.CANCELLED, 1)
    ended(attempt)
    assert isinstance(lab.try_to_launch("true", job=f"same-{lab.token}", attempt=2), Launched)


def test_spec_is_on_disk_with_its_seal_and_its_devices(lab):
    attempt = lab.launch("true", GPU_0)
    assert attempt.record("spec.json")["sealed"] == "sealed"
    assert attempt.spec().command == "true"
    assert attempt.taken() == [GPU_0]
    assert (attempt.job, attempt.attempt, attempt.fence) == (f"job-1-{lab.token}", 1, 1)
    assert os.stat(attempt.path).st_mode & 0o777 == 0o700
    assert os.stat(attempt.path / "launch.json").st_mode & 0o777 == 0o600


def test_key_that_is_no_name_is_refused(lab):
    refused = lab.try_to_launch("true", job="../../etc")
    assert isinstance(refused, LaunchRefused)
    assert all_attempts(lab.settings) == []


def test_home_that_cannot_be_written_is_a_refusal(lab):
    attempts_folder(lab.settings).parent.mkdir(parents=True)
    attempts_folder(lab.settings).write_text("a file is in the way")
    refused = lab.try_to_launch("true")
    assert isinstance(refused, LaunchRefused)
    assert refused.code == "host_storage"


def test_dispatch_that_was_given_up_is_not_started_by_a_late_zygote(lab):
    """The agent died after it asked; the next one gives the dispatch up; then the old zygote comes to the request."""
    attempt = AttemptDir(attempts_folder(lab.settings) / "late.1.1")
    attempt.path.mkdir(parents=True)
    order = lab.launcher._order(attempt.key, lab.spec(f"touch {lab.home}/ran"), [])
    attempt.write("launch.json", order)
    attempt.write("spec.json", {})
    assert attempt.state() is AttemptState.PREPARED
    assert attempt.refuse("gave_up", "nobody came")
    assert attempt.state() is AttemptState.REFUSED
    lab.launcher._zygote.fork_shim(attempt.path)
    wait_until(lambda: attempt.record("done.json") is not None, 5, "the shim has seen it")
    assert attempt.state() is AttemptState.REFUSED
    assert attempt.record("started.json") is None
    assert not (lab.home / "ran").exists()


def test_dispatch_whose_shim_is_up_is_not_given_up(lab):
    attempt = lab.launch("sleep 0.3")
    wait_until(lambda: attempt.record("started.json"), 15, "the shim has looked whether it was given up")
    assert not attempt.refuse("gave_up", "too late")
    assert ended(attempt)["exit_code"] == 0


# --- what outlives what -------------------------------------------------------------------------------------------------


def test_killed_zygote_costs_no_training_and_is_replaced(lab):
    first = lab.launch("sleep 0.5; exit 8")
    zygote = lab.launcher._zygote.pid
    os.kill(zygote, signal.SIGKILL)
    second = lab.launch("exit 9")
    assert lab.launcher._zygote.pid != zygote
    assert [ended(first)["exit_code"], ended(second)["exit_code"]] == [8, 9]


def test_killed_agent_costs_no_training_and_its_zygote_goes(lab):
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, str(lab.home)], cwd=CHECKOUT, stdout=subprocess.PIPE, env={"PATH": os.environ["PATH"]}
    )
    with agent:
        zygote = int(agent.stdout.readline())
        agent.kill()
    attempt = AttemptDir(attempts_folder(lab.settings) / "kept.1.1")
    wait_until(lambda: processes.start_ticks(zygote) is None, 5, "the zygote has gone")
    assert attempt.state() is AttemptState.RUNNING
    (lab.home / "gate").touch()
    assert ended(attempt)["exit_code"] == 11


AGENT = """
import sys, time
from pathlib import Path
from gpuworker import settings
from gpuworker.launcher import Launcher
from gpuworker.protocol import Spec
home = sys.argv[1]
config = settings.load({"AUTOTRAINER_HOME": home, "AUTOTRAINER_HOST": "lab"})
launcher = Launcher(config, lock_folder=Path(home))
command = f"while [ ! -e {home}/gate ]; do sleep 0.05; done; exit 11"
spec = Spec(job="kept", number=1, name="n", attempt=1, fence=1, expires_at=0.0, command=command, working_dir="/",
            device_count=0, devices=(), env={})
attempt = launcher.launch(spec, []).attempt
while attempt.record("started.json") is None:
    time.sleep(0.01)
print(launcher._zygote.pid, flush=True)
time.sleep(60)
"""


def test_fifty_attempts_leave_no_zombie_and_little_memory(lab):
    gate = lab.home / "gate"
    attempts = [lab.launch(f"while [ ! -e {gate} ]; do sleep 0.2; done") for _ in range(50)]
    wait_until(lambda: all(attempt.record("started.json") for attempt in attempts), 20, "all run")
    one, many = pss_kib([shim_pid(attempts[0])]), pss_kib([shim_pid(attempt) for attempt in attempts])
    print(f"PSS: {many / 50:.0f} KiB for each of 50 shims (the first of them {one}), zygote {pss_kib([lab.launcher._zygote.pid])} KiB")
    assert (many - one) / 49 <= 2048
    gate.touch()
    for attempt in attempts:
        ended(attempt)
    zygote = lab.launcher._zygote.pid
    assert processes.descendants([zygote], processes.table()) == []


def pss_kib(pids: list[int]) -> int:
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def test_launch_gives_up_a_zygote_that_does_not_answer(lab, monkeypatch):
    monkeypatch.setattr(launching, "ZYGOTE_ANSWER_S", 0.3)
    monkeypatch.setattr(launching, "ZYGOTE_EXIT_S", 0.3)
    lab.launcher.start()
    stuck = lab.launcher._zygote.pid
    os.kill(stuck, signal.SIGSTOP)
    refused = lab.try_to_launch(f"touch {lab.home}/ran")
    assert isinstance(refused, LaunchRefused)
    attempt = all_attempts(lab.settings)[0]
    assert processes.start_ticks(stuck) is None
    assert attempt.state() is AttemptState.REFUSED
    assert not (lab.home / "ran").exists()
    assert ended(lab.launch("exit 12"))["exit_code"] == 12


def test_launch_that_was_answered_late_is_a_launch(lab, monkeypatch):
    """The agent has lost its patience, but the shim is up: it alone decides, and the agent attaches to it."""
    monkeypatch.setattr(launching, "ZYGOTE_ANSWER_S", 0.2)
    lab.launcher.start()
    zygote = lab.launcher._zygote.pid
    os.kill(zygote, signal.SIGSTOP)
    waker = threading.Timer(0.6, os.kill, (zygote, signal.SIGCONT))
    waker.start()
    assert ended(lab.launch("exit 13"))["exit_code"] == 13
    waker.join()


def test_shim_that_dies_before_it_can_be_seen_is_a_refusal(lab):
    """Its socket's name is taken, so it cannot listen."""
    lab.launcher.start()
    attempt = AttemptDir(attempts_folder(lab.settings) / "broken.1.1")
    (attempt.path / "control.sock").mkdir(parents=True)
    with pytest.raises(launching.ZygoteFailed, match=r"shim\.log"):
        lab.launcher._zygote.fork_shim(attempt.path)
    assert attempt.refuse("shim_failed", "it died")
    assert "Address already in use" in (lab.settings.host_home / "shim.log").read_text()


def test_killed_shim_shows_at_once_to_who_listens(lab):
    attempt = lab.launch("sleep 60")
    with connected(attempt) as client:
        kill(shim_pid(running(attempt)))
        events = [event["event"] for event in client.events()]
    assert "done" not in events
    assert attempt.state() is AttemptState.ABANDONED
