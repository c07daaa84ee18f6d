"""A training that says when it began and ended: `witness.py FILE GATE SECONDS CODE [CODE…]`.

FILE is the oracle's, which the product never reads; one appended line each for start and stop, by a clock that never jumps.
GATE is a file that it waits for (`-`: for nothing). The n-th attempt ends with the n-th code, later ones with the last.
"""

from __future__ import annotations

import os
import signal
import sys
import time

FILE, GATE, SECONDS, *CODES = sys.argv[1:]
JOB, ATTEMPT = os.environ["AUTOTRAINER_JOB_ID"], int(os.environ["AUTOTRAINER_ATTEMPT"])
TERMINATED = 143


def note(what: str, code: int) -> None:
    line = f"{what} {JOB} {ATTEMPT} {os.getpid()} {time.monotonic():.6f} {code} {os.environ['AUTOTRAINER_GPU_UUIDS'] or '-'}\n"
    fd = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line.encode())
    os.close(fd)


def end(code: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(f"job {JOB} attempt {ATTEMPT} ends with {code}", flush=True)
    note("stop", code)
    os._exit(code)


signal.signal(signal.SIGTERM, lambda *_: end(TERMINATED))
note("start", 0)
print(f"job {JOB} attempt {ATTEMPT} begins", flush=True)
while GATE != "-" and not os.path.exists(GATE):
    time.sleep(0.02)
time.sleep(float(SECONDS))
end(int(CODES[min(ATTEMPT, len(CODES)) - 1]))
