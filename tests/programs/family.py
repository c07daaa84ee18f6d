"""Process trees that do not want to end: `family.py KIND FILE`. Every process appends its pid to FILE; nobody ends by itself."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

KIND, FILE = sys.argv[1:3]


def live() -> None:
    fd = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{os.getpid()}\n".encode())
    os.close(fd)
    while True:
        time.sleep(60)


def stubborn() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    live()


def own_session() -> None:
    """A child in a session of its own that ignores SIGTERM."""
    if os.fork() == 0:
        os.setsid()
        stubborn()
    live()


def escaped() -> None:
    """Forked twice, own session, no descriptor and no environment of ours left."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.chdir("/")
            os.closerange(0, 256)
            os.execve(sys.executable, [sys.executable, os.path.abspath(__file__), "stubborn", FILE], {})
        os._exit(0)
    os.wait()
    live()


def nohup() -> None:
    """A child as people leave them running on a login machine."""
    command = ["nohup", sys.executable, os.path.abspath(__file__), "stubborn", FILE]
    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    live()


def rewritten() -> None:
    """What setproctitle does: its environment's memory holds something else by now. And its child is an orphan."""
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    start, end = int(fields[47]), int(fields[48])
    ctypes.memset(start, ord("x"), end - start)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            stubborn()
        os._exit(0)
    os.wait()
    live()


def runner() -> None:
    """Never the same process for long: each forks the next one in a session of its own and exits."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.write(os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), b"1\n")
        while True:
            if os.fork():
                os._exit(0)
            os.setsid()
            time.sleep(float(os.environ.get("RUNNER_PAUSE_S", "0")))
    live()


def breeding() -> None:
    """Answers SIGTERM with ever more children, each deaf to it, up to what a small machine bears."""

    def breed(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for _ in range(60):
            if os.fork() == 0:
                os.setsid()
                time.sleep(600)

    signal.signal(signal.SIGTERM, breed)
    live()


def left_behind() -> None:
    """The leader ends by itself with 3 as soon as its stubborn child is up."""
    child = subprocess.Popen([sys.executable, os.path.abspath(__file__), "stubborn", FILE], start_new_session=True)
    while not os.path.exists(FILE):
        time.sleep(0.01)
    child.returncode = 0  # It stays on purpose.
    sys.exit(3)


def stopped() -> None:
    """Stops itself: SIGTERM alone would never reach it."""
    fd = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{os.getpid()}\n".encode())
    os.kill(os.getpid(), signal.SIGSTOP)
    live()


def saves() -> None:
    """Answers SIGTERM as a training does that saves its work: takes a moment, starts a helper, exits 0."""

    def save(*_: object) -> None:
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.3); print('saved', flush=True)"], check=True)
        sys.exit(0)

    signal.signal(signal.SIGTERM, save)
    live()


if __name__ == "__main__":
    globals()[KIND]()
