"""Every way in which a process can get away from its command, ended in every way, with a control group and without."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpuworker import contacts, groups, identity
from gpuworker.attempts import AttemptDir, AttemptState, ShimLives, attempts_folder
from gpuworker.outliving import await_empty
from gpuworker.protocol import EndReason
from gpuworker.roster import Roster, Supervised
from gpuworker.shim import cgroup, processes
from tests.integration.launching import (
    GPU_0,
    PROGRAMS,
    PYTHON,
    Lab,
    a_lab,
    connected,
    ended,
    kill,
    living,
    pids_in,
    running,
    shim_pid,
)
from tests.waiting import wait_until

CHECKOUT = PROGRAMS.parents[1]
KINDS = {
    "stubborn": 1,
    "own_session": 2,
    "escaped": 2,
    "nohup": 2,
    "rewritten": 2,
    "stopped": 1,
    "breeding": 1,
    "runner": 2,
}
"""Kinds of tests/programs/family.py, and how many lines each writes once it is up."""


@pytest.fixture(params=["cgroup", "subreaper"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    parent = groups.parent_for() if request.param == "cgroup" else ""
    if request.param == "cgroup" and not parent:
        pytest.skip("this machine lets us make no control group (v2)")
    with a_lab(group_parent=parent) as made:
        yield made


@pytest.fixture
def grouped() -> Iterator[Lab]:
    if not groups.parent_for():
        pytest.skip("this machine lets us make no control group (v2)")
    with a_lab() as made:
        yield made


def launch(lab: Lab, kind: str, **changes: object) -> AttemptDir:
    """A family that runs in the background of a shell, which exits 3 once `gate` is there."""
    pids, gate = lab.home / f"{kind}.pids", lab.home / "gate"
    # Nobody catches a runner at full speed without a group, and no training is one.
    env = {"RUNNER_PAUSE_S": "0" if lab.launcher.group_parent else "0.05"}
    command = f"{PYTHON} {PROGRAMS / 'family.py'} {kind} {pids} & while [ ! -e {gate} ]; do sleep 0.1; done; exit 3"
    return lab.launch(command, env=env, **({"kill_grace_s": 0.3} | changes))


def left(lab: Lab) -> list[str]:
    """The command lines of all processes that belong to a family of this lab, found by nothing that the product looks at."""
    found = []
    for proc in Path("/proc").iterdir():
        try:
            line = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode() if proc.name.isdigit() else ""
        except OSError:
            continue
        if f"{lab.home}/" in line and "family.py" in line:
            found.append(f"{proc.name}: {line}")
    return found


def all_up(lab: Lab) -> None:
    for kind, count in KINDS.items():
        pids_in(lab.home / f"{kind}.pids", count)


@pytest.mark.parametrize("how", ["cancelled", "timed_out", "exited"])
def test_nobody_gets_away(lab: Lab, how: str) -> None:
    attempts = {kind: launch(lab, kind, **({"time_limit_s": 3} if how == "timed_out" else {})) for kind in KINDS}
    all_up(lab)
    if how == "cancelled":
        for attempt in attempts.values():
            with connected(attempt) as client:
                client.stop(EndReason.CANCELLED, 0.3)
    if how == "exited":
        (lab.home / "gate").touch()
    for kind, attempt in attempts.items():
        record = ended(attempt, 60)
        assert (kind, record["reason"]) == (kind, how), record
        assert attempt.group() is None
    assert left(lab) == []


def test_devices_of_an_escapee_are_free_only_after_its_end(lab: Lab) -> None:
    pids = lab.home / "escaped.pids"
    attempt = lab.launch(f"exec {PYTHON} {PROGRAMS / 'family.py'} escaped {pids}", GPU_0, kill_grace_s=30)
    pids_in(pids, 2)
    with connected(attempt) as client:
        client.stop(EndReason.CANCELLED, 0.2)
        assert not attempt.locks_free()
        assert ended(attempt)["reason"] == "cancelled"
    assert attempt.locks_free()
    assert left(lab) == []


def test_group_holds_what_a_command_starts_and_nothing_of_ours(grouped: Lab) -> None:
    attempt = running(grouped.launch("sleep 60 & setsid sleep 60 & wait"))
    group = attempt.group()
    assert group is not None
    assert attempt.record("started.json")["cgroup"] == group.record
    wait_until(lambda: len(group.pids()) == 3, 10, "all three in it")
    assert shim_pid(attempt) not in group.pids()
    assert {groups.mark_of(pid) for pid in group.pids()} == {attempt.key}
    assert groups.mark_of(os.getpid()) == ""


def test_groups_that_a_command_makes_itself_are_ended_too(grouped: Lab) -> None:
    spec = grouped.spec("")
    own = f"{grouped.launcher.group_parent}/autotrainer-{spec.job}.1.1/own"
    attempt = running(grouped.launch(f"mkdir {own} && echo 0 > {own}/cgroup.procs; sleep 61", job=spec.job, fence=1))
    wait_until(lambda: "own" in groups._path_of(str(attempt.leader()[0])), 10, "it has moved")
    with connected(attempt) as client:
        client.stop(EndReason.CANCELLED, 0.2)
    ended(attempt)
    assert not os.path.exists(os.path.dirname(own))


def test_one_word_ends_a_group_that_forks_as_fast_as_it_can(grouped: Lab) -> None:
    attempt = launch(grouped, "runner")
    pids_in(grouped.home / "runner.pids", 2)
    group = attempt.group()
    assert group is not None
    group.kill()
    wait_until(lambda: not group.populated(), 10, "nobody is left")
    assert left(grouped) == []
    ended(attempt)


def test_machine_without_clone3_moves_the_command_while_it_waits(grouped: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, since the zygote's kernel knows it."""
    from gpuworker.shim.command import Command

    group = cgroup.make(grouped.launcher.group_parent, f"test.{os.getpid()}")
    assert group is not None

    def refuse(self: cgroup.Group) -> int:
        raise OSError(38, "clone3")

    monkeypatch.setattr(cgroup.Group, "fork", refuse)
    command = Command({"shell": "/bin/sh", "command": "sleep 60", "env": {}}, 1, [], group)
    assert (command.group, group.pids()) == (group, [command.pid])
    group.kill()
    assert os.waitpid(command.pid, 0)[1] == signal.SIGKILL
    command.forget()
    assert group.remove()


def test_group_that_is_another_ones_by_now_is_not_ended(grouped: Lab) -> None:
    group = cgroup.make(grouped.launcher.group_parent, f"test.{os.getpid()}")
    assert group is not None
    try:
        assert identity.group_of(group.record, "", "") is not None
        assert identity.group_of(group.record | {"inode": group.inode + 1}, "", "") is None
        assert identity.group_of(None, grouped.launcher.group_parent, "unknown") is None
    finally:
        group.remove()


# --- a stop, or the shim's death, at each step of the start -------------------------------------------------------------

STEPS = ["locks", "group", "fork", "started", "durable", "go"]


@pytest.fixture
def held(lab: Lab) -> Iterator[Callable[[str], AttemptDir]]:
    """A shim of tests/programs/held_shim.py, held before a step of the start of `touch ran`. `lab.home/gate` lets it go on."""
    shims: list[subprocess.Popen[bytes]] = []

    def hold(step: str) -> AttemptDir:
        spec = lab.spec(f"touch {lab.home}/ran; sleep 60", kill_grace_s=0.2)
        attempt = AttemptDir(attempts_folder(lab.settings) / f"{spec.job}.1.1")
        attempt.path.mkdir(parents=True)
        attempt.write("spec.json", {"sealed": "", "body": spec.body(), "taken": [["GPU-aa", 0, "0"]]})
        attempt.write("launch.json", lab.launcher._order(attempt.key, spec, [GPU_0]))
        shims.append(subprocess.Popen([PYTHON, "-m", "tests.programs.held_shim", step, attempt.path, lab.home / "gate"], cwd=CHECKOUT))
        wait_until((lab.home / "gate.held").exists, 15, f"the shim stands before {step}")
        return attempt

    yield hold
    for shim in shims:
        shim.kill()
        shim.wait()


@pytest.mark.parametrize("step", STEPS)
def test_stop_at_any_step_of_the_start_leaves_nobody(lab: Lab, held: Callable[[str], AttemptDir], step: str) -> None:
    attempt = held(step)
    with connected(attempt) as client:
        client.stop(EndReason.CANCELLED, 0.2)
        (lab.home / "gate").touch()
        events = [event["event"] for event in client.events()]
    record = attempt.record("exit.json")
    assert (events[-1], record["reason"]) == ("done", "cancelled")
    if step != "go":  # The word was given: then it is ended as one that runs.
        assert record["started_at"] is None
        assert not (lab.home / "ran").exists()
    assert (attempt.tree(), attempt.group(), attempt.locks_free()) == ([], None, True)


@pytest.mark.parametrize("step", STEPS)
def test_shim_that_dies_at_any_step_of_the_start_leaves_nobody(lab: Lab, held: Callable[[str], AttemptDir], step: str) -> None:
    attempt = held(step)
    os.kill(shim_pid(attempt), signal.SIGKILL)
    wait_until(lambda: not attempt.shim_alive(), 5, "the shim is dead")
    assert attempt.state() is AttemptState.ABANDONED
    await_end(lab, attempt)
    wait_until(attempt.locks_free, 5, "the locks are free")
    assert (attempt.tree(), attempt.group()) == ([], None)
    assert not (lab.home / "ran").exists()


# --- after the shim -----------------------------------------------------------------------------------------------------


def await_end(
    lab: Lab, attempt: AttemptDir, grace_s: float | None = None, *, tell_stuck: Callable[[], None] = lambda: None, **changes: object
) -> bool:
    """What the agent does once the shim is dead; this thread does nothing else meanwhile."""
    one = Supervised(attempt.key, lab.spec("", **({"kill_grace_s": 0.3} | changes)), attempt)
    one.stop_grace_s = grace_s
    deadline = time.monotonic() + 30

    def pause(seconds: float) -> None:
        assert time.monotonic() < deadline, left(lab)
        threading.Event().wait(min(seconds, 0.1))

    return await_empty(one, pause, tell_stuck)


def test_agent_signals_nobody_while_the_shim_lives(lab: Lab) -> None:
    attempt = running(lab.launch("sleep 60"))
    with pytest.raises(ShimLives):
        await_end(lab, attempt, 0)
    assert len(attempt.tree()) == 1


def test_agent_ends_what_a_dead_shim_has_left(lab: Lab) -> None:
    # Without a group, who has neither environment nor session of ours can be seen by nobody once the shim is dead.
    kinds = [kind for kind in KINDS if lab.launcher.group_parent or kind in ("stubborn", "own_session", "nohup", "stopped")]
    attempts = {kind: launch(lab, kind) for kind in kinds}
    for kind in kinds:
        pids_in(lab.home / f"{kind}.pids", KINDS[kind])
    for attempt in attempts.values():
        kill(shim_pid(attempt))
        assert not await_end(lab, attempt, 0.3)
        assert attempt.tree() == []
        assert attempt.group() is None
    assert left(lab) == []


def test_agent_ends_what_the_command_of_a_dead_shim_left_running(lab: Lab) -> None:
    attempt = launch(lab, "own_session")
    pids = pids_in(lab.home / "own_session.pids", 2)
    kill(shim_pid(attempt))
    (lab.home / "gate").touch()
    assert not await_end(lab, attempt)
    assert living(pids) == []


def test_agent_minds_the_time_limit_of_a_dead_shim(lab: Lab) -> None:
    attempt = launch(lab, "own_session", time_limit_s=600)
    pids = pids_in(lab.home / "own_session.pids", 2)
    kill(shim_pid(attempt))
    assert await_end(lab, attempt, time_limit_s=0.5)
    assert living(pids) == []


def test_agent_minds_the_contact_of_a_dead_shim(lab: Lab) -> None:
    """The job may be started elsewhere: nothing of it may be left here by then, whoever has died."""
    file = lab.settings.host_home / "contact"
    file.parent.mkdir(parents=True, exist_ok=True)
    contacts.note(file, contacts.now_s())
    attempt = launch(lab, "own_session", gone_after_s=600.0)
    pids = pids_in(lab.home / "own_session.pids", 2)
    kill(shim_pid(attempt))
    order = attempt.record("launch.json") or {}
    attempt.write("launch.json", order | {"contact": order["contact"] | {"gone_after_s": 0.5}}, durable=False)
    assert not await_end(lab, attempt)
    assert living(pids) == []


def test_escapee_of_a_dead_shim_is_known_as_ours(grouped: Lab) -> None:
    """Who looks at a device asks this of each process on it."""
    attempt = launch(grouped, "escaped")
    pids = pids_in(grouped.home / "escaped.pids", 2)
    kill(shim_pid(attempt))
    roster = Roster(attempts_folder(grouped.settings))
    assert [roster.is_ours(pid) for pid in [*pids, os.getpid()]] == [True, True, False]


def test_stopping_everything_ends_what_dead_shims_have_left(lab: Lab) -> None:
    attempt = launch(lab, "own_session")
    pids = pids_in(lab.home / "own_session.pids", 2)
    kill(shim_pid(attempt))
    env = {"PATH": os.environ["PATH"], "AUTOTRAINER_HOME": str(lab.home), "AUTOTRAINER_HOST": "lab", "AUTOTRAINER_KILL_GRACE_S": "0.3"}
    done = subprocess.run([PYTHON, "-m", "gpuworker.stopall"], cwd=CHECKOUT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "1 of 1 running trainings stopped.\n"
    assert living(pids) == []
    assert attempt.record("exit.json")["reason"] == "cancelled"


# --- what does not die --------------------------------------------------------------------------------------------------


FREEZER = Path("/sys/fs/cgroup/freezer")


@pytest.fixture
def freezer() -> Iterator[Path]:
    """A frozen process of the old hierarchy does not die of SIGKILL until it is thawed: as one that waits for a dead disk."""
    folder = FREEZER / f"at-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as exc:
        pytest.skip(f"nothing here makes a process unkillable: {exc}")
    yield folder
    (folder / "freezer.state").write_text("THAWED")
    wait_until(lambda: not (folder / "cgroup.procs").read_text(), 10, "nobody is frozen")
    folder.rmdir()


def freeze(folder: Path, pid: int) -> None:
    (folder / "cgroup.procs").write_text(str(pid))
    (folder / "freezer.state").write_text("FROZEN")
    wait_until(lambda: (folder / "freezer.state").read_text().strip() == "FROZEN", 10, "it is frozen")


@contextmanager
def thawed_after(folder: Path) -> Iterator[Callable[[], None]]:
    """Yields how to thaw; in any case before the lab waits for its attempts."""

    def thaw() -> None:
        (folder / "freezer.state").write_text("THAWED")

    try:
        yield thaw
    finally:
        thaw()


@pytest.mark.parametrize("shim_dies", [False, True])
def test_what_does_not_die_is_on_record_and_nothing_is_free_until_it_has(freezer: Path, shim_dies: bool) -> None:
    with a_lab(stuck_after_s=0.3) as lab, thawed_after(freezer) as thaw:
        attempt = lab.launch("sleep 60", GPU_0)
        leader = running(attempt).leader()
        assert leader
        freeze(freezer, leader[0])
        if shim_dies:
            kill(shim_pid(attempt))
            told: list[bool] = []
            await_end(lab, attempt, 0, tell_stuck=lambda: told.append(attempt.locks_free()) or thaw())
            assert told == [False]
        else:
            with connected(attempt) as client:
                client.stop(EndReason.CANCELLED, 0)
                stuck = wait_until(lambda: (event := client.next_event(5)) and event["event"] == "stuck" and event, 20, "it is told")
            assert stuck["processes"] == attempt.record("stuck.json")["processes"]
            assert not attempt.locks_free()
            assert attempt.record("done.json") is None
            thaw()
            assert ended(attempt)["reason"] == "cancelled"
        assert [(p["pid"], p["program"]) for p in attempt.record("stuck.json")["processes"]] == [(leader[0], "sleep")]
        assert attempt.locks_free()
        assert processes.tree(attempt.key) == []


# --- exit codes and signals ---------------------------------------------------------------------------------------------


def test_every_exit_code_is_on_record() -> None:
    with a_lab() as lab:
        attempts = [lab.launch(f"exit {code}") for code in range(256)]
        assert [ended(attempt, 60)["exit_code"] for attempt in attempts] == list(range(256))


def test_every_signal_is_on_record() -> None:
    passed_over = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    with a_lab() as lab:
        # sh, since bash passes SIGQUIT over.
        attempts = {signum: lab.launch(f"ulimit -c 0; exec sh -c 'kill -{signum} $$; exit 77'") for signum in range(1, 32)}
        stopped = attempts[signal.SIGSTOP]
        wait_until(
            lambda: stopped.leader() and processes.describe(processes.read_process(stopped.leader()[0]))["state"] == "T", 10, "stopped"
        )
        with connected(stopped) as client:
            client.stop(EndReason.CANCELLED, 60)
        for signum, attempt in attempts.items():
            record = ended(attempt, 60)
            expected = (77, None) if signum in passed_over else (None, signal.SIGTERM if attempt is stopped else signum)
            assert (signum, record["exit_code"], record["signal"]) == (signum, *expected)
