"""Swapped files with real shims: both ways, two jobs at once, what must be refused, and what comes back after a kill."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuworker.attempts import AttemptDir, AttemptState
from gpuworker.hotswap import told, uncovered, ways
from gpuworker.hotswap.orders import HotSwap
from gpuworker.launcher import Launcher
from gpuworker.protocol import EndReason, Swap
from tests.integration.launching import PYTHON, Lab, connected, ended, kill, shim_pid
from tests.waiting import wait_until

CHECKOUT = Path(__file__).resolve().parents[2]
OLD, NEW = "LR = 0.1\n", "LR = 0.2\n"
HERE = ways.choose(CHECKOUT)
needs_mounts = pytest.mark.skipif(HERE.name != ways.MOUNT, reason=f"no mount namespaces here: {HERE.note}")
WAYS = [pytest.param("mount", marks=needs_mounts), "journal"]


class Swapping(Lab):
    """A lab with a code base of one file, `loss.py`, and a new one for it."""

    def __init__(self, home: Path, way: str) -> None:
        super().__init__(home)
        self.launcher.close()
        self.code, self.new = home / "code", home / "new_loss.py"
        self.code.mkdir()
        self.loss = self.code / "loss.py"
        self.loss.write_text(OLD)
        self.new.write_text(NEW)
        self.go(way)

    def go(self, way: str) -> None:
        """Launch what comes next this way."""
        hotswap = HotSwap(self.settings, None, lock_folder=self.lock_folder, way=ways.Way(way))
        self.launcher.close()
        self.launcher = Launcher(self.settings, lock_folder=self.lock_folder, hotswap=hotswap)

    def swap(self, command: str, *swaps: Swap, **changes: Any) -> AttemptDir:
        given = swaps or (Swap(target="loss.py", source=str(self.new)),)
        return self.launch(command, working_dir=str(self.code), swaps=given, **changes)

    def held(self, *swaps: Swap, **changes: Any) -> tuple[AttemptDir, Callable[[], None]]:
        """A running job with swaps, and what lets it end."""
        name = f"go-{self._fence}"
        attempt = self.swap(f"cat loss.py; touch up-{name}; until [ -e {self.home}/{name} ]; do sleep 0.05; done", *swaps, **changes)
        wait_until(lambda: (self.code / f"up-{name}").exists() or attempt.record("exit.json"), 10, "the command runs")
        (self.code / f"up-{name}").unlink()
        return attempt, (self.home / name).touch

    def tree(self) -> dict[str, str]:
        """The code base: path -> content, or "/" for a directory."""
        paths = sorted(self.code.rglob("*"))
        return {str(p.relative_to(self.code)): p.read_text() if p.is_file() and not p.is_symlink() else "/" for p in paths}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lab(way: str, tmp_path: Path) -> Iterator[Swapping]:
    yield from a_swapping(tmp_path, way)


@pytest.fixture
def journal_lab(tmp_path: Path) -> Iterator[Swapping]:
    yield from a_swapping(tmp_path, "journal")


@pytest.fixture
def mount_lab(tmp_path: Path) -> Iterator[Swapping]:
    if HERE.name != ways.MOUNT:
        pytest.skip(f"no mount namespaces here: {HERE.note}")
    yield from a_swapping(tmp_path, "mount")


def a_swapping(folder: Path, way: str) -> Iterator[Swapping]:
    made = Swapping(folder / "home", way)
    try:
        yield made
    finally:
        made.clean_up()


def log_of(attempt: AttemptDir) -> str:
    return attempt.log_path.read_text()


def results(attempt: AttemptDir) -> list[str]:
    return [each.result for each in told.put_back(attempt)]


# --- both ways ----------------------------------------------------------------------------------------------------------


def test_job_sees_the_new_file_and_the_original_is_the_very_same_afterwards(lab: Swapping, way: str) -> None:
    os.chmod(lab.loss, 0o751)
    os.utime(lab.loss, ns=(1, 1_600_000_000_123_456_789))
    attributes = set_attribute(lab.loss)
    before = lab.loss.stat()
    attempt = lab.swap("cat loss.py; stat -c %a loss.py; env | grep PYTHONPYCACHEPREFIX")
    assert ended(attempt)["exit_code"] == 0
    assert log_of(attempt).splitlines() == ["LR = 0.2", "751", f"PYTHONPYCACHEPREFIX={lab.settings.host_home}/pycache"]
    after = lab.loss.stat()
    assert lab.tree() == {"loss.py": OLD}
    same = ("st_ino", "st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_nlink")
    assert {name: getattr(after, name) for name in same} == {name: getattr(before, name) for name in same}
    assert not attributes or os.getxattr(lab.loss, "user.note") == b"kept"
    assert results(attempt) == ["untouched" if way == "mount" else "restored"]


def set_attribute(path: Path) -> bool:
    try:
        os.setxattr(path, "user.note", b"kept")
    except OSError:
        return False
    return True


def test_difference_is_told_with_the_way(lab: Swapping, way: str) -> None:
    attempt = lab.swap("true")
    ended(attempt)
    (one,) = told.swapped(attempt)
    assert (one.target, one.way, one.absent) == ("loss.py", way, False)
    assert one.diff.splitlines() == ["--- loss.py (original)", "+++ loss.py", "@@ -1,1 +1,1 @@", "-LR = 0.1", "+LR = 0.2"]


def test_others_see_the_original_meanwhile_where_the_host_mounts(mount_lab: Swapping) -> None:
    attempt, let_go = mount_lab.held()
    assert mount_lab.tree() == {"loss.py": OLD}
    let_go()
    assert ended(attempt)["exit_code"] == 0
    assert log_of(attempt) == NEW


def test_absent_target_and_its_directories_are_there_for_the_job_and_gone_afterwards(lab: Swapping) -> None:
    attempt = lab.swap(
        "cat loss.py conf/deep/x.yaml", Swap(target="conf/deep/x.yaml", source=str(lab.new)), Swap(target="loss.py", source=str(lab.new))
    )
    assert ended(attempt)["exit_code"] == 0
    assert log_of(attempt) == NEW * 2
    assert lab.tree() == {"loss.py": OLD}


def test_absent_targets_directory_stays_where_the_job_has_written_into_it(lab: Swapping) -> None:
    attempt = lab.swap("echo 1 > conf/result", Swap(target="conf/x.yaml", source=str(lab.new)))
    ended(attempt)
    assert lab.tree() == {"loss.py": OLD, "conf": "/", "conf/result": "1\n"}


def test_file_is_put_back_however_the_job_ends(lab: Swapping) -> None:
    for command, reason in (("exit 3", "exited"), ("kill -9 $$", "exited")):
        attempt = lab.swap(command)
        assert ended(attempt)["reason"] == reason
        assert lab.tree() == {"loss.py": OLD}
    attempt, _ = lab.held()
    with connected(attempt) as client:
        client.stop(EndReason.CANCELLED, 0.2)
    assert ended(attempt)["reason"] == "cancelled"
    assert lab.tree() == {"loss.py": OLD}


def test_file_is_put_back_only_when_the_whole_tree_has_ended(journal_lab: Swapping) -> None:
    attempt = journal_lab.swap("(trap '' TERM; while :; do cat loss.py >> ../seen; sleep 0.02; done) & exit 0", kill_grace_s=0.3)
    ended(attempt)
    assert set((journal_lab.home / "seen").read_text().split("\n")) <= {"LR = 0.2", ""}
    assert journal_lab.tree() == {"loss.py": OLD}


def test_stop_before_go_puts_the_file_back(lab: Swapping) -> None:
    attempt = lab.swap("sleep 60")
    with connected(attempt) as client:
        client.stop(EndReason.CANCELLED, 0)
    ended(attempt)
    assert lab.loss.read_text() == OLD
    assert not [name for name in lab.tree() if name.startswith(".autotrainer")]


def test_command_that_cannot_be_executed_leaves_the_file_as_it_was(lab: Swapping) -> None:
    attempt = lab.swap("true " + "x" * 200_000)
    assert ended(attempt)["reason"] == "launch_failed"
    assert lab.tree() == {"loss.py": OLD}


def test_stale_bytecode_of_another_version_is_never_run(lab: Swapping) -> None:
    """Same size, and as often as not the same second: what Python would take for the same file."""
    show = f"{PYTHON} -c 'import loss; print(loss.LR)'"
    seen = []
    for rate in (3, 4, 5):
        lab.new.write_text(f"LR = 0.{rate}\n")
        os.utime(lab.new, (lab.loss.stat().st_mtime,) * 2)
        attempt = lab.swap(show, env={"PYTHONDONTWRITEBYTECODE": ""})
        assert ended(attempt)["exit_code"] == 0, log_of(attempt)
        seen.append(log_of(attempt).strip())
    assert seen == ["0.3", "0.4", "0.5"]
    assert list((lab.settings.host_home / "pycache").rglob("loss.*.pyc"))  # There was something to go wrong.
    assert lab.tree() == {"loss.py": OLD}
    subprocess.run([PYTHON, "-c", "import loss; assert loss.LR == 0.1, loss.LR"], cwd=lab.code, check=True)


# --- together -----------------------------------------------------------------------------------------------------------


def test_two_jobs_swap_the_same_file_at_once_where_the_host_mounts(mount_lab: Swapping) -> None:
    other = mount_lab.home / "other.py"
    other.write_text("LR = 0.9\n")
    first, let_first = mount_lab.held()
    second, let_second = mount_lab.held(Swap(target="loss.py", source=str(other)))
    assert mount_lab.tree() == {"loss.py": OLD}
    let_first()
    ended(first)
    let_second()
    ended(second)
    assert (log_of(first), log_of(second)) == (NEW, "LR = 0.9\n")
    assert mount_lab.tree() == {"loss.py": OLD}


def test_second_job_with_the_same_file_is_refused_until_the_first_has_ended(journal_lab: Swapping) -> None:
    first, let_go = journal_lab.held()
    second = journal_lab.swap("cat loss.py")
    wait_until(lambda: second.state() is AttemptState.REFUSED and not second.shim_alive(), 10, "refused")
    record = second.record("refused.json") or {}
    assert record["code"] == "file_in_use"
    assert "loss.py is swapped by job #1" in record["message"]
    assert journal_lab.loss.read_text() == NEW
    let_go()
    ended(first)
    assert ended(journal_lab.swap("cat loss.py"))["exit_code"] == 0
    assert journal_lab.tree() == {"loss.py": OLD}


@needs_mounts
@pytest.mark.parametrize(("first", "second"), [("mount", "journal"), ("journal", "mount")])
def test_ways_do_not_mix_on_one_file(journal_lab: Swapping, first: str, second: str) -> None:
    journal_lab.go(first)
    running_one, let_go = journal_lab.held()
    journal_lab.go(second)
    waiting = journal_lab.swap("cat loss.py")
    wait_until(lambda: waiting.state() is AttemptState.REFUSED, 10, "refused")
    assert (waiting.record("refused.json") or {})["code"] == "file_in_use"
    let_go()
    ended(running_one)
    assert log_of(running_one) == NEW
    assert journal_lab.tree() == {"loss.py": OLD}


def test_file_that_another_host_has_swapped_is_in_use(journal_lab: Swapping) -> None:
    """On a shared file system another host's lock cannot be seen, but the original that it keeps can."""
    attempt, let_go = journal_lab.held()
    for lock in journal_lab.lock_folder.iterdir():
        lock.unlink()
    other = journal_lab.swap("true")
    wait_until(lambda: other.state() is AttemptState.REFUSED, 10, "refused")
    assert "swapped by another job" in (other.record("refused.json") or {})["message"]
    let_go()
    ended(attempt)
    assert journal_lab.tree() == {"loss.py": OLD}


# --- refused before anything is touched ---------------------------------------------------------------------------------


def refused(lab: Swapping, *swaps: Swap) -> str:
    """Why it could not be launched: the job's own fault, and nothing was touched."""
    before = {p: os.lstat(p).st_mtime_ns for p in lab.code.rglob("*")}
    attempt = lab.swap("touch ran", *swaps)
    record = ended(attempt)
    assert (record["reason"], record["own_fault"], record["started_at"]) == ("launch_failed", True, None)
    assert {p: os.lstat(p).st_mtime_ns for p in lab.code.rglob("*")} == before
    return str(record["message"])


def test_source_that_vanished_is_the_jobs_fault_and_named(lab: Swapping) -> None:
    lab.new.unlink()
    assert f"{lab.new}, which was to be swapped in, does not exist" in refused(lab)


def test_source_that_is_no_file_is_the_jobs_fault(lab: Swapping) -> None:
    os.mkfifo(lab.home / "pipe")
    assert "no regular file" in refused(lab, Swap(target="loss.py", source=str(lab.home / "pipe")))
    assert "no regular file" in refused(lab, Swap(target="loss.py", source=str(lab.home)))


def test_target_that_is_no_plain_file_is_refused(lab: Swapping) -> None:
    (lab.code / "link.py").symlink_to("loss.py")
    (lab.code / "out.py").symlink_to("/etc/passwd")
    (lab.code / "pkg").mkdir()
    (lab.code / "elsewhere").symlink_to(lab.home)
    os.mkfifo(lab.code / "pipe")
    said = {
        t: refused(lab, Swap(target=t, source=str(lab.new))) for t in ("link.py", "out.py", "pkg", "pipe", "elsewhere/x.py", "loss.py/x")
    }
    assert "symbolic link" in said["link.py"]
    assert "symbolic link" in said["out.py"]
    assert "a directory" in said["pkg"]
    assert "pipe" in said["pipe"]
    assert "symbolic link" in said["elsewhere/x.py"]
    assert "no directory" in said["loss.py/x"]


@pytest.mark.parametrize("target", ["../new_loss.py", "a/../../x", "/etc/passwd", "", "a//b"])
def test_target_that_leads_out_is_refused_whoever_asked_for_it(lab: Swapping, target: str) -> None:
    assert "not a plain path" in refused(lab, Swap(target=target, source=str(lab.new)))


def test_target_with_several_names_is_refused_where_it_would_be_parted(journal_lab: Swapping) -> None:
    os.link(journal_lab.loss, journal_lab.code / "twin.py")
    assert "2 names" in refused(journal_lab)


def test_one_bad_target_leaves_the_good_ones_alone(lab: Swapping) -> None:
    (lab.code / "pkg").mkdir()
    refused(lab, Swap(target="loss.py", source=str(lab.new)), Swap(target="pkg", source=str(lab.new)))


def test_read_only_directory_is_refused_where_a_file_must_be_put_there(lab: Swapping, way: str) -> None:
    with read_only(lab.code):
        if way == "journal":
            message = refused(lab)
            assert "read-only" in message or "cannot be swapped" in message
        else:
            attempt = lab.swap("cat loss.py")
            assert ended(attempt)["exit_code"] == 0
            assert log_of(attempt) == NEW
    assert lab.tree() == {"loss.py": OLD}


class read_only:
    """A directory that even root cannot write: by its mode, and by its flag where there is one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        os.chmod(self.path, 0o555)
        if os.getuid() == 0 and subprocess.run(["chattr", "+i", str(self.path)], check=False, stderr=subprocess.DEVNULL).returncode:
            os.chmod(self.path, 0o755)
            pytest.skip("root, and no immutable directories here")

    def __exit__(self, *_: object) -> None:
        if os.getuid() == 0:
            subprocess.run(["chattr", "-i", str(self.path)], check=True)
        os.chmod(self.path, 0o755)


# --- edited meanwhile ---------------------------------------------------------------------------------------------------


def test_file_that_was_edited_meanwhile_is_kept_beside_its_original(journal_lab: Swapping) -> None:
    attempt, let_go = journal_lab.held()
    journal_lab.loss.write_text("mine\n")
    let_go()
    ended(attempt)
    (result,) = told.put_back(attempt)
    assert (result.result, result.path) == ("conflict", str(journal_lab.loss))
    assert journal_lab.loss.read_text() == "mine\n"
    assert Path(result.kept).read_text() == OLD
    assert Path(result.kept).name == "loss.py.original-of-job-1"
    assert journal_lab.tree().keys() == {"loss.py", "loss.py.original-of-job-1"}
    assert ended(journal_lab.swap("cat loss.py"))["exit_code"] == 0  # and it can be swapped again


def test_absent_target_that_was_edited_stays(lab: Swapping) -> None:
    attempt, let_go = lab.held(Swap(target="new.py", source=str(lab.new)))
    (lab.code / "new.py").write_text("mine\n")
    let_go()
    ended(attempt)
    assert results(attempt) == ["conflict"]
    assert lab.tree() == {"loss.py": OLD, "new.py": "mine\n"}


def test_original_comes_back_where_the_swapped_file_was_deleted(journal_lab: Swapping) -> None:
    attempt, let_go = journal_lab.held()
    journal_lab.loss.unlink()
    let_go()
    ended(attempt)
    assert results(attempt) == ["restored"]
    assert journal_lab.tree() == {"loss.py": OLD}


def test_what_is_written_to_the_original_through_an_open_descriptor_is_not_lost(journal_lab: Swapping) -> None:
    with journal_lab.loss.open("a") as editor:
        attempt, let_go = journal_lab.held()
        editor.write("# late\n")
        editor.flush()
        let_go()
        ended(attempt)
    assert journal_lab.tree() == {"loss.py": f"{OLD}# late\n"}


def test_overlay_that_a_rename_outside_has_ended_is_noticed(mount_lab: Swapping) -> None:
    attempt, let_go = mount_lab.held()
    assert uncovered.targets(attempt) == ()
    (mount_lab.code / "tmp").write_text("pulled\n")
    (mount_lab.code / "tmp").rename(mount_lab.loss)
    assert uncovered.targets(attempt) == ("loss.py",)
    let_go()
    ended(attempt)


# --- killed -------------------------------------------------------------------------------------------------------------


def test_shim_that_was_killed_leaves_the_file_to_the_agent(lab: Swapping, way: str) -> None:
    attempt, let_go = lab.held()
    kill(shim_pid(attempt))
    if way == "mount":
        lab.go("journal")  # It would take the overlay away from the tree that lives on.
        later = lab.swap("true")
        wait_until(lambda: later.state() is AttemptState.REFUSED, 10, "refused")
    if way == "journal":
        assert lab.loss.read_text() == NEW  # The training still needs it.
        later = lab.swap("true")
        wait_until(lambda: later.state() is AttemptState.REFUSED, 10, "refused")
        assert (later.record("refused.json") or {})["code"] == "file_in_use"
    let_go()
    wait_until(lambda: not attempt.tree(), 10, "its tree has ended")
    if way == "journal":
        again = lab.swap("true")  # Its lock is free, its original is not back: still in use.
        wait_until(lambda: again.state() is AttemptState.REFUSED, 10, "refused")
        assert "job #1" in (again.record("refused.json") or {})["message"]
    told.put_back(attempt)
    assert lab.tree() == {"loss.py": OLD}
    assert results(attempt) == ["untouched" if way == "mount" else "restored"]  # The same however often it is asked.
    assert ended(lab.swap("true"))["exit_code"] == 0


def test_original_is_put_back_after_a_kill_at_any_moment_of_launch_and_end(journal_lab: Swapping) -> None:
    """A shim that is killed before each of its calls that change a file, one after the other, until one comes through."""
    step, state = 0, AttemptState.ABANDONED
    while state is not AttemptState.DONE:
        step += 1
        shim = OddShim(journal_lab, KILLED.format(step=step))
        attempt = journal_lab.swap(
            "true", Swap(target="loss.py", source=str(journal_lab.new)), Swap(target="a/b", source=str(journal_lab.new))
        )
        shim.wait()
        wait_until(lambda attempt=attempt: not attempt.tree(), 10, "nobody is left")
        state = attempt.state()
        told.put_back(attempt)
        assert journal_lab.tree() == {"loss.py": OLD}, step
    assert step > 20


KILLED = """
import signal
left = {step}
def counted(real):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call
for name in ("link", "rename", "replace", "fsync", "unlink", "fchmod", "utime", "mkdir", "rmdir"):
    setattr(os, name, counted(getattr(os, name)))
"""
REFUSING = """
from gpuworker.shim.swaps import namespace
def enter():
    raise OSError(28, "No space left on device")
namespace.enter = enter
"""


class OddShim:
    """The next shim of a lab, as a process of its own that first does something to itself."""

    def __init__(self, lab: Swapping, before: str) -> None:
        self._program = f"import os, sys\nfrom gpuworker.shim import shim\n{before}\nshim.keep(sys.argv[1], int(sys.argv[2]))"
        self._process: subprocess.Popen[bytes] | None = None
        lab.launcher._zygote.fork_shim = self._start  # type: ignore[method-assign]

    def _start(self, attempt: Path) -> int:
        ready, told = os.pipe()
        with open(ready, "rb") as up:
            command = [sys.executable, "-c", self._program, str(attempt), str(told)]
            self._process = subprocess.Popen(command, cwd=CHECKOUT, pass_fds=[told], stderr=subprocess.DEVNULL)
            os.close(told)
            up.read()
        return self._process.pid

    def wait(self) -> None:
        assert self._process
        self._process.wait(20)


# --- ways ---------------------------------------------------------------------------------------------------------------


@needs_mounts
@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
def test_overlay_works_for_an_ordinary_user_and_leaves_no_capability(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    for folder in tmp_path.parents[:3]:
        os.chmod(folder, folder.stat().st_mode | 0o111)
    program = f"""
import ctypes, os, sys
sys.path.insert(0, {str(CHECKOUT)!r})
from gpuworker.shim.swaps import probe
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # dumpable again, as after an exec: else /proc/self is root's
why = probe.why_not({str(tmp_path)!r})
if why: sys.exit(why)
os.execv("/bin/sh", ["sh", "-c", "cat old; echo; id -u; grep CapEff /proc/self/status"])
"""
    answer = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=False)
    if "ot permitted" in answer.stderr or "denied" in answer.stderr.lower():
        pytest.skip(answer.stderr.strip().splitlines()[-1])
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == ["new", "65534", "CapEff:", "0000000000000000"]
    assert (tmp_path / "old").read_text() == "old"


def test_journal_takes_over_where_the_namespace_is_refused_at_the_launch(mount_lab: Swapping) -> None:
    """The probe said yes and the kernel says no: a limit on namespaces has been reached meanwhile, for instance."""
    shim = OddShim(mount_lab, REFUSING)
    attempt = mount_lab.swap("cat loss.py")
    shim.wait()
    assert ended(attempt)["exit_code"] == 0
    assert log_of(attempt) == NEW
    (one,) = told.swapped(attempt)
    assert (one.way, one.note) == ("journal", "No mount namespace ([Errno 28] No space left on device).")
    assert mount_lab.tree() == {"loss.py": OLD}
