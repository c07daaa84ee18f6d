"""`python -m gpuworker.shim HOME FD`: the zygote of the agent that holds the other end of FD.

HOME is only for people who look at the process table.
"""

from __future__ import annotations

import socket
import sys

from gpuworker.shim import zygote

if __name__ == "__main__":
    zygote.serve(socket.socket(fileno=int(sys.argv[2])))
