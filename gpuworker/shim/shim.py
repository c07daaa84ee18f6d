"""One attempt's keeper: starts its command, records how it ended, ends what is left of its tree. Needs nobody.

The order is the promise (docs/how-it-works.md, "Claim and start"): locks before anything of the command, swapped
files before the fork, started.json before "go", exit.json before any clean-up, an empty tree before files are put back,
that before done.json, done.json before the locks drop. Everything
that somebody must know is a record in the attempt directory; the socket only saves them the waiting.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
import time
from typing import Any

from gpuworker.failpoints import hit
from gpuworker.logcap import LogCap
from gpuworker.shim import cgroup, contact, hostmemory, locks, processes, records
from gpuworker.shim.command import Command, NotPrepared
from gpuworker.shim.door import Door
from gpuworker.shim.ending import STUCK_AFTER_S, Ending
from gpuworker.shim.swaps.inuse import InUse
from gpuworker.shim.swaps.paths import BadTarget
from gpuworker.shim.swaps.swapping import Swaps

_PR_SET_CHILD_SUBREAPER = 36
_prctl = ctypes.CDLL(None, use_errno=True).prctl
_RECORD_AGAIN_S = 1.0
_LOOK_AGAIN_S = 0.2
_WHY = {"host_lost": "Stopped by its host, which had no contact for so long that the job starts elsewhere."}
_STOP_REASONS = ("cancelled", "timed_out", "host_lost")
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2)
"""What is sent to a whole service, or by mistake, must not cost a training its exit code."""


class LaunchFailed(Exception):
    """Nothing was started. `own_fault`: the job's, which spends a retry."""

    def __init__(self, message: str, *, own_fault: bool = False) -> None:
        super().__init__(message)
        self.own_fault = own_fault


def keep(path: str, ready: int) -> None:
    """A shim's whole life, in a process that the zygote has forked. `ready` is told once others can see and reach it."""
    hit("shim.forked")
    wakeup = _become_shim()
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    door = Door(folder)
    door.watch(wakeup)
    pid = os.getpid()
    records.write_record(folder, "shim.json", _identity(pid), durable=False)
    hit("shim.seen")
    os.write(ready, b"1")
    os.close(ready)
    Shim(folder, door).run()


def _become_shim() -> int:
    """Own session, subreaper, no signal that ends it. The descriptor that tells of ended children."""
    os.setsid()
    if _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) was refused")
    for signum in _IGNORED:
        signal.signal(signum, signal.SIG_IGN)
    wakeup, told = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return wakeup


class Shim:
    """The state of one attempt, moved on by one loop."""

    def __init__(self, folder: int, door: Door) -> None:
        self._folder = folder
        self._door = door
        self._launch = records.read_record(folder, "launch.json") or {}
        self._ending = Ending(self._launch.get("mark", ""), root=os.getpid())
        self._ending.stuck_after_s = self._launch.get("stuck_after_s", STUCK_AFTER_S)
        self._kills_before = hostmemory.machine_kills()
        self._log_cap = LogCap(folder, self._launch.get("log_limit_bytes"))
        self._locks: list[int] = []
        self._swaps = Swaps(self._launch, folder)
        self._pid = 0
        self._childless = True
        self._started: dict[str, Any] = {}
        self._limit_at: float | None = None
        self._stop_reason = ""
        self._exit: dict[str, Any] | None = None
        self._exit_recorded = False

    def run(self) -> None:
        try:
            self._start()
        except locks.Taken as exc:
            self._refuse("device_busy", str(exc))
        except InUse as exc:
            self._refuse("file_in_use", str(exc))
        except BadTarget as exc:
            self._end("launch_failed", message=str(exc))
        except LaunchFailed as exc:
            self._end("launch_failed", message=str(exc), own_fault=exc.own_fault)
        except OSError as exc:
            self._end("launch_failed", message=f"The host could not start the command: {exc}.", own_fault=False)
        while self._step():
            pass
        self._finish()

    def _step(self) -> bool:
        """One turn of the loop; False when everything is over. Nothing that goes wrong here may cost the exit code."""
        try:
            if self._exit_recorded and self._childless and not self._ending.rest():
                return False
            requests = self._door.pump(self._advance())
            self._reap()  # First: a command that had ended before the stop came was not stopped.
            self._requests(requests)
        except Exception:
            sys.excepthook(*sys.exc_info())
            time.sleep(_RECORD_AGAIN_S)
        return True

    def rehearse(self) -> None:
        """A turn of the loop that waits for nothing."""
        self._advance()
        self._requests(self._door.pump(0))
        self._ending.populated()

    # --- starting -------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        refused = records.read_record(self._folder, "refused.json")
        if refused is not None:
            # The agent gave this dispatch up before it saw us. Whoever writes second sees the other's record.
            self._refuse(refused.get("code", ""), refused.get("message", ""))
            return
        if not self._launch:
            raise LaunchFailed("The host could not read launch.json.")
        self._locks = locks.take_all(self._launch["locks"], shared=bool(self._launch.get("shared")))
        hit("shim.locked")
        command = self._prepare()
        self._pid, self._childless = command.pid, False
        hit("shim.command_forked")
        try:
            self._requests(self._door.pump(0))
            if not self._stop_reason:
                self._record_start()
                self._requests(self._door.pump(0))
                self._keep_contact()
        except BaseException:
            command.forget()
            raise
        if self._stop_reason:
            command.forget()
            self._started = {}
            self._end(self._stop_reason, message="Stopped before it started.")
            return
        self._let_go(command)

    def _prepare(self) -> Command:
        """Everything but "go". Goes to the working directory itself, so that the check and the use are one."""
        _preflight(self._launch)
        group = self._ending.group = cgroup.make(self._launch.get("cgroup", ""), self._launch.get("mark", ""))
        hit("shim.preflighted")
        log = os.open("output.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600, dir_fd=self._folder)
        try:
            self._swaps.prepare()
            command = self._fork_command(log, group)
            self._ending.group = command.group
            return command
        finally:
            os.close(log)
            os.chdir("/")

    def _fork_command(self, log: int, group: cgroup.Group | None) -> Command:
        kept = [*self._locks, *self._swaps.locks]
        if self._swaps.overlaid:
            try:
                return Command(self._launch, log, kept, group, self._swaps.enter)
            except NotPrepared as exc:
                self._swaps.fall_back(str(exc))
        return Command(self._launch, log, kept, group)

    def _record_start(self) -> None:
        """On the disk before "go": the agent's spec, which it left to us to wait for, and the process that it becomes."""
        group = self._ending.group
        self._started = {**_identity(self._pid), "started_at": time.time(), "cgroup": group.record if group else None}
        records.make_durable(self._folder, "spec.json")
        hit("shim.start_writing")
        records.write_record(self._folder, "started.json", self._started)
        records.make_durable(self._folder, "..")
        hit("shim.start_written")

    def _let_go(self, command: Command) -> None:
        failure = command.go()
        if failure is not None:
            own = not isinstance(failure, FileNotFoundError | PermissionError)  # E2BIG is the command's, a missing shell the host's.
            raise LaunchFailed(f"{self._launch['shell']} could not be executed: {failure.strerror}.", own_fault=own)
        hit("shim.let_go")
        limit_s = self._launch.get("time_limit_s")
        self._limit_at = None if limit_s is None else time.monotonic() + limit_s
        self._door.phase = "running"
        self._door.push("started", self._started)

    def _refuse(self, code: str, message: str) -> None:
        refused = {"code": code, "message": message}
        records.write_record(self._folder, "refused.json", refused)
        hit("shim.refusal_written")
        self._exit_recorded = True
        self._door.phase = "refused"
        self._door.push("refused", refused)

    # --- watching -------------------------------------------------------------------------------------------------------

    def _advance(self) -> float:
        """Do what is due; seconds until something else is."""
        due: list[float] = [self._log_cap.advance(), self._keep_contact()]
        if self._exit is not None and not self._exit_recorded:
            self._record_exit()
            due.append(0.0 if self._exit_recorded else _RECORD_AGAIN_S)
        if self._exit is not None and not self._ending.begun and (not self._childless or self._ending.populated()):
            self._ending.begin(self._launch.get("kill_grace_s", 0.0))  # Its devices go to the next job.
        if self._limit_at is not None and time.monotonic() >= self._limit_at:
            self._stop("timed_out", self._launch["kill_grace_s"])
        if self._limit_at is not None:
            due.append(self._limit_at - time.monotonic())
        if self._ending.begun:
            due.append(min(self._ending.advance(), _LOOK_AGAIN_S if self._childless else math.inf))
            self._tell_stuck()
        return min(due)

    def _keep_contact(self) -> float:
        """End it in time where the host has no contact: its job may start elsewhere. Seconds until the next look."""
        left_s = contact.left_s(self._launch["contact"]) if self._launch.get("contact") else math.inf
        if left_s <= self._launch.get("kill_grace_s", 0.0) and self._door.phase != "refused":
            self._stop("host_lost", max(0.0, left_s))
        return 1.0 if left_s < math.inf else math.inf  # While the machine sleeps no timer runs: so long it may live after that.

    def _tell_stuck(self) -> None:
        """Its devices stay taken: whoever hears this keeps the next job from them."""
        stuck = self._ending.stuck()
        if stuck is not None:
            records.write_record(self._folder, "stuck.json", stuck, durable=False)
            self._door.push("stuck", stuck)

    def _requests(self, requests: list[dict[str, Any]]) -> None:
        for request in requests:
            if request.get("do") == "stop":
                hit("shim.stop_heard")
                reason = request.get("reason")
                self._stop(reason if reason in _STOP_REASONS else "cancelled", request.get("kill_grace_s"))

    def _stop(self, reason: str, grace_s: object) -> None:
        """End the tree. The first reason counts, and the shortest grace; before "go" it only leaves its word."""
        grace = float(grace_s) if isinstance(grace_s, int | float) and grace_s >= 0 else self._launch.get("kill_grace_s", 0.0)
        self._stop_reason = self._stop_reason or reason
        self._limit_at = None
        if self._door.phase == "launching":
            return
        if self._exit is None:
            self._door.phase = "stopping"
        self._ending.begin(grace)
        hit("shim.tree_signalled")

    def _reap(self) -> None:
        """Take the ended children. No child left of a subreaper means no process of the tree: that is the proof."""
        while not self._childless:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._childless = True
                return
            if pid == 0:
                return
            if pid == self._pid and self._exit is None:
                self._leader_ended(os.waitstatus_to_exitcode(status))

    def _leader_ended(self, code: int) -> None:
        how = {"exit_code": code} if code >= 0 else {"signal": -code}
        late = self._stop_reason == "timed_out"
        message = f"Stopped at its time limit of {self._launch['time_limit_s']:g} s." if late else _WHY.get(self._stop_reason, "")
        self._end(self._stop_reason or "exited", message=message, memory_kills=self._memory_kills(), **how)

    def _memory_kills(self) -> dict[str, int | None]:
        """Whom the kernel has ended for lack of host memory: `own`, where the group counts them, and on the machine meanwhile."""
        group = self._ending.group
        return {"own": group.memory_kills() if group else None, "machine": hostmemory.machine_kills() - self._kills_before}

    def _end(self, reason: str, **how: Any) -> None:
        """The command is over, or will never be: on record at once, then to whoever listens."""
        blank = {"exit_code": None, "signal": None, "message": "", "own_fault": True}
        self._exit = {"reason": reason, **blank, "started_at": self._started.get("started_at"), "ended_at": time.time(), **how}
        self._limit_at = None
        self._door.phase = "ended"
        self._record_exit()
        self._door.push("exited", self._exit)

    def _record_exit(self) -> None:
        try:
            hit("shim.exit_writing")
            records.write_record(self._folder, "exit.json", self._exit or {})
            self._exit_recorded = True
            hit("shim.exit_written")
        except OSError as exc:
            print(f"exit.json: {exc}; trying again", file=sys.stderr, flush=True)  # A full disk: the code must not be lost.

    def _finish(self) -> None:
        if self._ending.group and not self._ending.group.remove():
            print(f"{self._ending.group.path} could not be removed", file=sys.stderr, flush=True)
        self._log_cap.look()
        for name in ("exit.json", "cut.json"):
            records.give_up_room(self._folder, name)
        self._swaps.put_back()  # The tree is empty: nobody of ours sees the files any more.
        try:
            hit("shim.done_writing")
            records.write_record(self._folder, "done.json", {}, durable=False)  # After a power cut the boot id tells the same.
        except OSError as exc:
            print(f"done.json: {exc}", file=sys.stderr, flush=True)
        hit("shim.done_written")
        locks.drop(self._locks)
        hit("shim.locks_dropped")
        self._door.push("done")
        self._door.close()


def _identity(pid: int) -> dict[str, Any]:
    return {"boot_id": processes.boot_id(), "pid": pid, "start_ticks": processes.start_ticks(pid)}


def _preflight(launch: dict[str, Any]) -> None:
    environment = launch.get("environment")
    if environment and not os.path.isdir(os.path.join(environment, "bin")):
        raise LaunchFailed(f"The environment {environment} has no folder 'bin' on this host.", own_fault=True)
    try:
        os.chdir(launch["working_dir"])
    except FileNotFoundError:
        raise LaunchFailed(f"The working directory {launch['working_dir']} does not exist on this host.", own_fault=True) from None
    except (OSError, ValueError) as exc:
        raise LaunchFailed(f"The working directory {launch['working_dir']} cannot be used on this host: {exc}.", own_fault=True) from None
