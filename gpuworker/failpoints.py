"""Named places between two steps of a protocol, at which a test ends, stops or fails the process that comes there.

`AUTOTRAINER_FAILPOINT=name:action[@n],…`, honoured only where `AUTOTRAINER_TEST_FAULTS=1`: `kill` and `stop` send this process
SIGKILL and SIGSTOP, `raise` raises an OSError; `@3` means the third time that anybody comes there. `@/a/file` reads the same
words from a file each time, so that one running product can be tried at many places. Each fires once per home, or a process
that is started again would die for ever: what has fired lies as a file in AUTOTRAINER_HOME/failpoints.

Standard library only, no settings: the shim imports it too. Outside a test `hit` is one comparison.
"""

from __future__ import annotations

import _thread
import errno
import os
import signal

FLAG, VARIABLE = "AUTOTRAINER_TEST_FAULTS", "AUTOTRAINER_FAILPOINT"
ACTIONS = ("kill", "stop", "raise")

FAILPOINTS = {
    # web: a job comes in
    "submit.uncommitted": "the job is written, its transaction still open",
    "submit.committed": "the job is safe, nobody has been told",
    # control worker: it is dispatched
    "scheduler.picked": "a placement is found, nothing written",
    "scheduler.uncommitted": "attempt and fence are written, the transaction still open",
    "scheduler.committed": "the dispatch is safe, no host has been told",
    "scheduler.offered": "the offer lies in the host's queue",
    # agent: claim and launch
    "agent.spec_opened": "the seal is good, nothing done",
    "agent.claimed": "Redis gave the devices",
    "agent.looked": "the devices are free by a fresh look",
    "agent.directory_made": "the start token is taken, the directory empty",
    "agent.spec_written": "spec.json is there",
    "agent.order_written": "launch.json is there, no shim asked for",
    "zygote.asked": "an attempt came in, no shim forked",
    "zygote.forked": "the shim runs, the agent has no answer",
    "agent.launched": "the zygote answered",
    "agent.start_told": "the Started report is out",
    # shim: from its fork to its end
    "shim.forked": "a shim, and nothing on disk that says so",
    "shim.seen": "shim.json is there",
    "shim.locked": "the device locks are held",
    "shim.preflighted": "the working directory was entered",
    "shim.command_forked": "the command waits for go",
    "shim.start_writing": "before started.json",
    "shim.start_written": "started.json is on the disk, no go",
    "shim.let_go": "the command runs",
    "shim.exit_writing": "the command was reaped, exit.json is not there",
    "shim.exit_written": "exit.json is on the disk, the tree may live",
    "shim.done_writing": "the tree is empty, done.json is not there",
    "shim.done_written": "done.json is there, the locks are held",
    "shim.locks_dropped": "nobody has been told",
    "shim.refusal_written": "refused.json is there",
    # shim, or the agent after its death: files that are swapped for a job (the journal's way)
    "swap.planned": "swap.json says what will be done, no file is touched",
    "swap.fresh_written": "the new file lies beside the target",
    "swap.original_kept": "the original has its second name",
    "swap.in_place": "the new file stands in the original's place",
    "swap.recorded": "swap.json says that all are swapped",
    "swap.taking_back": "the tree is empty, every file still swapped",
    "swap.taken_back": "one file is back",
    "swap.unrecorded": "all files are back, swap.json does not say so",
    # agent: the end
    "agent.log_finished": "the rest of the log is sent",
    "agent.releasing": "the devices are clean, the claim is held",
    "agent.released": "the claim is given back, nothing reported",
    "agent.end_told": "the Ended report is out",
    "agent.end_written": "ended.json is there",
    "agent.ack_heard": "the control plane has it, the host's disk does not say so",
    "agent.ack_written": "the acknowledgement is on disk",
    "agent.refusal_told": "the Refused report is out",
    # agent: taking over
    "adopt.looked": "a directory of an earlier agent is found",
    "adopt.entered": "it is on the roster, nobody supervises it",
    "adopt.published": "its task was put back into the queue",
    "adopt.refusal_told": "a launch that never was has been refused",
    "adopt.end_told": "an end has been reported again",
    # control worker: what hosts report
    "ingest.start_uncommitted": "running, its transaction still open",
    "ingest.refusal_uncommitted": "back in the queue, its transaction still open",
    "ingest.end_uncommitted": "the job is settled, its transaction still open",
    "ingest.committed": "a report is stored, not acknowledged",
    "ingest.acknowledged": "a report is acknowledged and deleted",
    "ingest.log_stored": "a log chunk is stored, not acknowledged",
    # Celery's retry, and a stop on its way
    "retry.sending": "the end is reported, the retry not sent",
    "retry.sent": "the retry lies in the queue",
    "stop.committed": "the job is stopping, nobody told its host",
    "stop.sent": "the stop is on its way",
    "stop.heard": "the agent has it, nothing done",
    "stop.refusal_left": "it came before its spec and left a refusal",
    "stop.passed_on": "the shim has been asked",
    "shim.stop_heard": "the shim has it, nothing signalled",
    "shim.tree_signalled": "SIGTERM is out",
}
"""Every place, and what is so there. A place that is not in this table cannot be asked for."""


class BadFailpoint(ValueError):
    """What was asked for is no failpoint; says what there is."""


def hit(name: str) -> None:
    """The process is at this place. Raises OSError where a test wants it to."""
    if _plan:
        _consider(name)


def read(text: str) -> dict[str, tuple[str, int]]:
    """Place -> (action, at the how-manieth time). Raises BadFailpoint."""
    found = {}
    for word in text.replace("\n", ",").split(","):
        if not word.strip():
            continue
        name, _, rest = word.strip().partition(":")
        action, _, nth = rest.partition("@")
        if name not in FAILPOINTS:
            raise BadFailpoint(f"{name!r} is no failpoint. There are: {', '.join(FAILPOINTS)}.")
        if action not in ACTIONS or not (nth or "1").isdecimal():
            raise BadFailpoint(f"{word.strip()!r}: write NAME:ACTION or NAME:ACTION@N, with one of the actions {', '.join(ACTIONS)}.")
        found[name] = (action, int(nth or 1))
    return found


def check(flag: str, text: str) -> None:
    """For who starts a service. Raises BadFailpoint; what is not honoured is not looked at."""
    if flag == "1" and not text.startswith("@"):
        read(text)


def environ() -> dict[str, str]:
    """What a process must be given so that the same is asked of it; nothing outside a test."""
    return {FLAG: "1", VARIABLE: _plan} if _plan else {}


_plan = os.environ.get(VARIABLE, "") if os.environ.get(FLAG) == "1" else ""


def _consider(name: str) -> None:
    action, nth = read(_text()).get(name, ("", 0))
    folder = os.path.join(os.environ.get("AUTOTRAINER_HOME", "."), "failpoints")
    if not action or _comes(folder, name) != nth or not _first(os.path.join(folder, f"{name}.fired")):
        return
    if action == "raise":
        raise OSError(errno.EIO, f"failpoint {name}")
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    # To this thread: one for the process is taken by another, which may come to it late while this one goes on.
    signal.pthread_kill(_thread.get_ident(), signal.SIGSTOP)


def _text() -> str:
    if not _plan.startswith("@"):
        return _plan
    try:
        with open(_plan[1:]) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _comes(folder: str, name: str) -> int:
    """How often anybody has come here, this time included: one byte in a file for each."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    fd = os.open(os.path.join(folder, f"{name}.hits"), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, b".")
        return os.lseek(fd, 0, os.SEEK_CUR)
    finally:
        os.close(fd)


def _first(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    return True
